"""A run of seconds on random latents: what tests start in one process, under `accelerate launch`, or to be killed.

python tests/training/toy_run.py '{"output_dir": "DIR", "max_steps": 4}'
"""

import json
import os
import sys
from pathlib import Path

import torch

from lavin import flow
from lavin.errors import LavinError
from lavin.models.jdit import JDiT
from lavin.training.config import OptimizerConfig, RunConfig
from lavin.training.trainer import Trainer

RUN = {"batch_size": 2, "precision": "fp32", "log_every": 1, "validate_every": 0, "checkpoint_every": 2}
FOR_EVER = 10**6


def toy_run(not_finite=(), hidden_size=32, **run) -> Trainer:
    """Train a tiny J-DiT and export its average to ``output_dir``.

    Args:
        not_finite: numbers of forward passes, counted through steps and ranks, whose loss is NaN.
        run: of ``RunConfig``.
    """
    torch.manual_seed(0)
    model = JDiT(latent_channels=4, hidden_size=hidden_size, num_layers=2, num_heads=2, drop_path=0.2)
    trainer = Trainer(model, RunConfig(**{**RUN, **run}), OptimizerConfig(learning_rate=1e-3), {})
    accelerator, passes = trainer.accelerator, {"done": 0}

    def compute_loss(model, rng, generator):
        x, y = torch.from_numpy(rng.standard_normal((2, 2, 4, 1, 4, 4))).float().to(accelerator.device)
        trainer.remember(x=x, y=y)
        t = flow.draw_timesteps(2, generator, accelerator.device)
        loss = flow.loss(model, x, y, t, generator).mean()
        micro_step = passes["done"] % trainer.run.accumulation
        number = (trainer.step * trainer.run.accumulation + micro_step) * accelerator.num_processes
        passes["done"] += 1
        return loss * (float("nan") if number + accelerator.process_index in not_finite else 1.0), {}

    def export(folder):
        averaged = trainer.averaged_model()
        if averaged is not None:
            averaged.save_pretrained(folder)

    trainer.fit(compute_loss, export=export)
    export(Path(trainer.run.output_dir) / "jdit")
    trainer.end()
    return trainer


def train_for_ever(folder: str) -> None:
    """In a process group of its own, with a checkpoint every step; what it prints goes to the folder's ``log``."""
    os.setsid()
    sys.stdout = (Path(folder) / "log").open("a", buffering=1)
    torch.set_num_threads(1)
    toy_run(output_dir=folder, max_steps=FOR_EVER, checkpoint_every=1, log_every=1000)


if __name__ == "__main__":
    try:
        toy_run(**json.loads(sys.argv[1]))
    except LavinError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
