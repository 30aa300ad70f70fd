"""What eval/throughput.py measures: real steps of the size asked for."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from lavin.cli import run
from lavin.evaluation.throughput import Setting, measure, sizes
from lavin.models.jdit import JDiT

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("throughput", ROOT / "eval" / "throughput.py")
throughput = importlib.util.module_from_spec(spec)
spec.loader.exec_module(throughput)


def test_the_row_follows_from_the_sizes():
    """Tokens: 2 pairs and the query's, three targets trained in parallel; 8 pixels a latent, 2 latents a patch."""
    row = measure(Setting("small", resolution=32, pairs=2, batch_size=3), steps=1, warmups=0)
    with torch.device("meta"):
        expected = sum(weight.numel() for weight in JDiT(**{"latent_channels": 16} | sizes("small")).parameters())
    assert row["parameters"] == expected
    assert row["tokens"] == (5 + 3) * (32 // 16) ** 2
    assert row["samples_per_s"] == pytest.approx(3 / row["seconds_a_step"])
    assert row["matmul_share"] == pytest.approx(row["flops_a_step"] / row["seconds_a_step"] / row["matmul_flops_per_s"])
    full = measure(Setting("small", resolution=32, pairs=2, attention="full"), steps=1, warmups=0)
    assert full["tokens"] == (5 + 1) * (32 // 16) ** 2


def test_contexts_may_be_longer_than_a_cache_holds_by_default():
    row = measure(Setting("small", resolution=16, pairs=9), steps=1, warmups=0)
    assert row["tokens"] == 2 * 9 + 1 + 10
    assert row["precision"] in ("bf16", "fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "0.2b"], "did you mean '0.1b'"),
        (["--resolution", "40"], "--resolution is 40; it must be a multiple of 16"),
        (["--attention", "ful"], "--attention: unknown value 'ful'; did you mean 'full'"),
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert run(throughput.app, "throughput.py", arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_rows_are_written(tmp_path):
    out = tmp_path / "rows.json"
    arguments = ["--models", "small", "--resolution", "32", "--steps", "1", "--out", str(out)]
    assert run(throughput.app, "throughput.py", arguments) == 0
    rows = json.loads(out.read_text())
    assert [row["gradient_checkpointing"] for row in rows] == [False, True]
    assert all(row["matmul_share"] > 0 for row in rows)
