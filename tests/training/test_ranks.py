"""Two CPU ranks, plain or with DeepSpeed ZeRO-2: the same weights as one process, whoever resumes whose checkpoint."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lavin.models.jdit import JDiT
from lavin.training import checkpoint

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from toy_run import toy_run  # noqa: E402, tests are no package

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


def run_ranks(launcher: list[str], **run) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *launcher, "tests/training/toy_run.py", json.dumps(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)


def launch(config: str, ranks: int, **run) -> subprocess.CompletedProcess:
    config, ranks = f"configs/accelerate/{config}.yaml", str(ranks)
    options = ["--config_file", config, "--num_processes", ranks, "--main_process_port", "0"]
    return run_ranks(["accelerate.commands.launch", *options], **run)


def assert_same_weights(ours: Path, theirs: Path) -> None:
    """Averages as exported, and weights as saved."""
    models = [JDiT.from_pretrained(folder / "jdit").state_dict() for folder in (ours, theirs)]
    states = [checkpoint.newest(folder / "checkpoints").state()["model"] for folder in (ours, theirs)]
    for first, second in (models, states):
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_plain_ranks_train_as_one_process_that_accumulates(tmp_path):
    toy_run(output_dir=str(tmp_path / "one"), max_steps=4, accumulation=4)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run_ranks(launcher, output_dir=str(tmp_path / "two"), max_steps=4, accumulation=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@needs_deepspeed
def test_two_ranks_train_as_one_that_accumulates_and_either_resumes_the_other(tmp_path):
    """Rank 1's loss of step 2 is NaN: both ranks skip it, and so does the one process. Drop path is drawn alike too."""
    bad = [5]
    whole = toy_run(bad, output_dir=str(tmp_path / "one"), max_steps=6, accumulation=2)
    assert float(whole.vitals.skipped) == 1
    done = launch("zero2", 2, not_finite=bad, output_dir=str(tmp_path / "two"), max_steps=4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "skipped_steps 1" in done.stdout
    toy_run(bad, output_dir=str(tmp_path / "one, 4 steps"), max_steps=4, accumulation=2)
    assert_same_weights(tmp_path / "two", tmp_path / "one, 4 steps")
    toy_run(bad, output_dir=str(tmp_path / "two"), max_steps=6, accumulation=2)
    assert_same_weights(tmp_path / "two", tmp_path / "one")
    done = launch("zero2", 2, not_finite=bad, output_dir=str(tmp_path / "one, 4 steps"), max_steps=6)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(tmp_path / "one, 4 steps", tmp_path / "one")


@pytest.mark.slow
@needs_deepspeed
def test_two_bf16_ranks_that_accumulate_train_as_one_process_in_bf16(tmp_path):
    """ZeRO-2 computes with bf16 weights and sums bf16 gradients, one process with fp32 weights under autocast, so they
    differ by rounding, 2^-8 of each gradient. Adam's steps are about the learning rate, 1e-3, whatever the gradient's
    size, and of its sign: where a gradient is near zero, rounding may turn a step round. So the runs are compared by
    how far they moved, 6 % apart: a rank's gradients left out, or counted twice, moves elsewhere (last line)."""
    steps = {"max_steps": 8, "precision": "bf16", "ema_decay": 0.0, "checkpoint_every": 8}
    done = launch("zero2", 2, output_dir=str(tmp_path / "two"), accumulation=2, **steps)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, accumulation in (("one", 4), ("half", 2)):
        toy_run(output_dir=str(tmp_path / name), accumulation=accumulation, **steps)
    toy_run(output_dir=str(tmp_path / "start"), **{**steps, "max_steps": 1}, not_finite=[0])
    names = ("two", "one", "half", "start")
    states = [checkpoint.newest(tmp_path / name / "checkpoints").state()["model"] for name in names]
    two, one, half, start = (torch.cat([state[name].flatten() for name in states[1]]) for state in states)
    moved, apart, otherwise = one - start, two - one, half - one
    assert moved.norm() > 0
    assert apart.norm() < 0.2 * moved.norm()
    assert otherwise.norm() > 2 * apart.norm()


@pytest.mark.slow
@needs_deepspeed
def test_zero3_is_refused_in_one_line(tmp_path):
    done = launch("zero3", 1, output_dir=str(tmp_path), max_steps=1)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0
    assert len(lines) == 1 and "ZeRO-3 is not supported" in lines[0] and "zero2.yaml" in lines[0]
    assert "exitcode  : 2" in done.stderr
