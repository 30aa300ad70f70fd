"""The training scripts as a user starts them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launch(*arguments):
    config = ["--config_file", "configs/accelerate/cpu.yaml"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *config, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("script", "config", "mistake", "message"),
    [
        ("train/pretrain.py", "configs/pretrain/debug.yaml", "no_such_key=1", "did you mean '"),
        ("train/stvae.py", "configs/stvae/debug.yaml", "run.max_step=3", "did you mean 'run.max_steps'"),
    ],
)
def test_mistakes_are_one_line(script, config, mistake, message):
    done = subprocess.run(
        [sys.executable, script, config, mistake], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_debug_runs_make_a_model_that_infers(tmp_path):
    """accelerate launch train/stvae.py, then train/pretrain.py on it, then the exported pipeline loads."""
    small = ["scenes.size=32", "scenes.train_scenes=80", "scenes.validation_scenes=60", "run.max_steps=4"]
    done = launch("train/stvae.py", "configs/stvae/debug.yaml", f"output_dir={tmp_path}/stvae", *small)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "stvae" / "stvae" / "diffusion_pytorch_model.safetensors").exists()
    done = launch(
        "train/pretrain.py", "configs/pretrain/debug.yaml", f"output_dir={tmp_path}/jdit",
        f"stvae={tmp_path}/stvae/stvae", "run.validate_every=4", "--overfit-one-batch", *small,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "jdit" / "logs").glob("**/events.out.tfevents.*"))
    from lavin.pipeline import LavinPipeline

    pipeline = LavinPipeline.from_pretrained(tmp_path / "jdit")
    assert pipeline.config.sample_size == 32
    assert pipeline.config.max_pairs == 1
    record = json.loads((tmp_path / "jdit" / "training.json").read_text())
    assert record["config"]["run"]["overfit_batch"] is True
