"""What a dry run says, and that it says it before anything is drawn."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lavin import config_dir
from lavin.errors import InputError
from lavin.training.config import PretrainConfig, load_config
from lavin.training.plan import plan

ROOT = Path(__file__).parents[2]


def planned(*overrides, **kwargs):
    text = plan(load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", list(overrides)), **kwargs)
    return dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines())


def test_tokens_arithmetic_and_time_follow_from_the_sizes():
    """A token costs two operations a weight of its stream's linear layers, and attention 4 * queries * keys * width."""
    hidden, layers, side = 128, 3, 8
    sizes = [f"model.hidden_size={hidden}", f"model.num_layers={layers}", "model.num_heads=2", "scenes.size=128"]
    found = planned(*sizes, "train_pairs=2", "model.attention=full", devices=4, mfu=0.5, tflops=0.001)
    tokens = (3 + 1) * side**2
    assert found["tokens a sample"] == f"{tokens}"
    mlp = 64 * int(8 * hidden / 3 / 64)
    linears = layers * (4 * hidden**2 + 3 * hidden * mlp) + 16 * hidden
    unread = (hidden**2 + 3 * hidden * mlp) * 3 * side**2  # of the condition, in the last block
    queries = (layers - 1) * tokens + side**2  # nor does it attend there
    expected = 2 * (linears * tokens - unread) + 4 * queries * tokens * hidden
    forward = float(re.match(r"[0-9.e-]+", found["FLOPs a sample"]).group()) * 1e12
    assert forward == pytest.approx(expected, rel=0.05)  # embedded timesteps and outputs are not in the formula
    step = float(re.match(r"[0-9.e-]+", found["FLOPs a step"]).group()) * 1e12
    assert step == pytest.approx(3 * forward * 4 * 4, rel=1e-3)
    seconds = float(re.match(r"[0-9.e-]+", found["time"]).group())
    assert seconds == pytest.approx(step / (4 * 1e9 * 0.5), rel=0.01)


def test_a_weight_takes_twenty_bytes_with_gradient_moments_and_average():
    found = planned("model.hidden_size=1024", "model.num_layers=8")
    parameters = int(found["parameters"].split()[0].replace(",", ""))
    assert float(re.search(r"= ([0-9.]+) GiB", found["memory a device"]).group(1)) == pytest.approx(
        20 * parameters / 2**30, abs=0.01
    )


def test_parallel_targets_are_counted():
    assert planned("train_pairs=3", "scenes.size=64")["tokens a sample"] == str((5 + 3) * 16)


def test_impossible_numbers_are_refused():
    with pytest.raises(InputError, match="--mfu is 0"):
        planned(mfu=0)


def test_a_dry_run_makes_nothing(tmp_path):
    command = [
        sys.executable,
        "train/pretrain.py",
        "configs/pretrain/debug.yaml",
        "--dry-run",
        f"output_dir={tmp_path}/x",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "FLOPs a step" in done.stdout
    assert not (tmp_path / "x").exists()
