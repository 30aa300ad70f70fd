"""Curves of a run, as numbers and as a picture."""

import importlib.util
import json
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from lavin.cli import run

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("curve", ROOT / "eval" / "curve.py")
curve = importlib.util.module_from_spec(spec)
spec.loader.exec_module(curve)


@pytest.fixture
def logs(tmp_path):
    """Steps 1 to 3, and 3 to 12,000 again after a resume: more points than TensorBoard keeps by itself."""
    for steps, offset in ((range(1, 4), 10.0), (range(3, 12_001), 0.0)):
        with SummaryWriter(str(tmp_path / "run" / "logs")) as writer:
            for step in steps:
                writer.add_scalar("loss", offset + 1 / step, step)
    return tmp_path / "run"


def test_numbers_and_picture_are_written_and_read_again(logs, tmp_path):
    out, numbers = tmp_path / "curve.png", tmp_path / "curve.json"
    assert run(curve.app, "curve.py", [str(logs), str(out), "--json", str(numbers)]) == 0
    points = dict(json.loads(numbers.read_text())["loss"])
    assert len(points) == 12_000
    assert (points[2], points[4]) == (10.5, 0.25) and points[3] == pytest.approx(1 / 3, rel=1e-4)
    again = tmp_path / "again.png"
    assert run(curve.app, "curve.py", [str(logs), str(again), "--reference", str(numbers)]) == 0
    assert out.read_bytes()[:4] == again.read_bytes()[:4] == b"\x89PNG"
    assert out.read_bytes() != again.read_bytes()  # the reference is drawn


def test_mistakes_are_one_line(tmp_path, logs, capsys):
    assert run(curve.app, "curve.py", [str(tmp_path / "nothing"), "x.png"]) == 2
    assert "no TensorBoard logs; give the output_dir of a run" in capsys.readouterr().err
    (tmp_path / "no.json").write_text("[1]")
    arguments = [str(logs), str(tmp_path / "x.png"), "--reference", str(tmp_path / "no.json")]
    assert run(curve.app, "curve.py", arguments) == 2
    assert "no.json: no curves that --json wrote" in capsys.readouterr().err


def test_the_st_vaes_psnr_has_a_panel():
    tags = {f"validation/psnr_{kind}": [(1, 20.0), (2, 25.0)] for kind in ("photos", "labels", "clips")}
    assert curve.chosen(tags, curve.PANELS["validation PSNR, dB"]) == sorted(tags)


def test_a_single_step_far_off_does_not_flatten_its_panel():
    assert curve.top_of([1.0, 2.0] * 50 + [1e5]) == pytest.approx(6)
    assert curve.top_of([1.0, 2.0] * 50 + [50.0]) is None  # of the curve's own size
    assert curve.top_of([1.0]) is None
