"""How fast a J-DiT trains here: whole optimizer steps on random latents, against the device's rate of products."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lavin import config_dir
from lavin.bundled import bundled_models
from lavin.errors import InputError
from lavin.evaluation import cost
from lavin.models.jdit import JDiT
from lavin.suggest import unknown
from lavin.training.arithmetic import SequenceCost
from lavin.training.buckets import buckets_of
from lavin.training.config import CacheConfig, PretrainConfig
from lavin.training.monitor import RATE_SIDE
from lavin.training.objective import draw_timesteps, sequence_loss
from lavin.training.run_config import OptimizerConfig, RunConfig
from lavin.training.trainer import Trainer

SMALL = "small"
"""The J-DiT of configs/pretrain/small.yaml."""


@dataclass
class Setting:
    """What is measured.

    Args:
        model: a bundled model, ``small``, or a size of the paper: ``0.1b``, ``1.0b``, ``3.4b``.
        resolution: side of the pictures, pixels.
        pairs: of the context; a sequence has one more, the query's.
        batch_size: sequences of each process.
        attention: ``full`` or ``causal``, which trains all of a sequence's targets; None for the model's own.
        precision: as ``RunConfig.precision``.
    """

    model: str
    resolution: int = 256
    pairs: int = 4
    batch_size: int = 1
    attention: str | None = None
    precision: str = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False


def sizes(model: str) -> dict[str, Any]:
    """Arguments of ``JDiT``.

    Raises:
        InputError: no such model.
    """
    from omegaconf import OmegaConf

    if model in bundled_models():
        config = JDiT.load_config(bundled_models()[model] / "jdit")
        return {name: value for name, value in config.items() if not name.startswith("_")}
    if model == SMALL:
        return OmegaConf.to_container(OmegaConf.load(config_dir() / "pretrain" / "small.yaml").model)
    if model not in cost.PRESETS:
        raise InputError(unknown("model", model, [*bundled_models(), SMALL, *cost.PRESETS]))
    return OmegaConf.to_container(OmegaConf.load(config_dir() / "models" / f"jdit_{model}.yaml"))


def measure(setting: Setting, steps: int = 3, warmups: int = 1) -> dict[str, Any]:
    """Train some steps and throw the result away: forward, backward, clipping, AdamW and EMA, as a run does them.

    Args:
        steps: that are timed.
        warmups: before them.

    Returns:
        The setting and its parameters, tokens, seconds a step (median), samples a second of all processes, the
        device's rate and the share of it that is reached, and the peak of memory in bytes.

    Raises:
        InputError: an unknown model.
    """
    model = sizes(setting.model) | ({"attention": setting.attention} if setting.attention else {})
    with tempfile.TemporaryDirectory() as scratch:
        run = RunConfig(
            output_dir=scratch,
            batch_size=setting.batch_size,
            precision=setting.precision,
            gradient_checkpointing=setting.gradient_checkpointing,
            compile=setting.compile,
            trackers=[],
        )
        setting = replace(setting, precision=run.precision)  # what auto is here
        whole = setting.pairs + 1
        config = PretrainConfig(run=run, model=model, train_pairs=whole, cache=CacheConfig(pairs=whole))
        config.scenes.size = setting.resolution
        network = JDiT(**model)
        for weight in network.parameters():  # zero gates would leave most gradients zero
            if not weight.any():
                nn.init.normal_(weight, std=0.02)
        trainer = Trainer(network, run, OptimizerConfig(), {})
        return time_steps(trainer, config, setting, steps, warmups)


def time_steps(trainer: Trainer, config: PretrainConfig, setting: Setting, steps: int, warmups: int) -> dict[str, Any]:
    device, ranks = trainer.accelerator.device, trainer.accelerator.num_processes
    (bucket,), pairs = buckets_of(config), setting.pairs + 1
    channels = trainer.bare_model.config.latent_channels
    shapes = SequenceCost(config, channels)
    condition, targets = (part.to(device) for part in shapes.sequence(bucket, pairs))
    condition, targets = (part.repeat(setting.batch_size, 1, 1, 1, 1) for part in (condition, targets))

    def compute_loss(model, rng, generator):
        t = draw_timesteps(targets, pairs, config.causal, generator, 0.0)
        return sequence_loss(model, condition, targets, t, pairs, generator).mean(), {}

    def step() -> float:
        start = time.perf_counter()
        trainer.train_step(compute_loss)["loss"].item()  # waits for the device
        trainer.step += 1
        return time.perf_counter() - start

    trainer.started_at = 0, time.perf_counter()
    for _ in range(warmups):
        step()
    cost.reset_peak(device)
    seconds = [step() for _ in range(steps)]
    memory = cost.peak_bytes(device)
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    trainer.accelerator.wait_for_everyone()  # all ranks measure together: they share the machine's rate as they train
    rate = cost.matmul_rate(device, dtype, RATE_SIDE.get(device.type, 2048))
    median = statistics.median(seconds)
    operations = shapes.training(bucket, pairs) * setting.batch_size
    return {
        **vars(setting),
        "attention": trainer.bare_model.config.attention,
        "processes": ranks,
        "threads": torch.get_num_threads(),
        "parameters": shapes.parameters,
        "tokens": shapes.tokens(bucket, pairs),
        "seconds_a_step": median,
        "seconds_spread": max(seconds) - min(seconds),
        "samples_per_s": setting.batch_size * ranks / median,
        "flops_a_step": operations,
        "matmul_flops_per_s": rate,
        "matmul_share": operations / median / rate,
        "peak_memory_bytes": memory,
    }
