"""What a training step of the ST-VAE costs, beside its ancestor's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn

from lavin import config_dir
from lavin.models.stvae import STVAE


def step_seconds(config: str, size: int, repeats: int, device: torch.device) -> Iterator[tuple[str, float, float]]:
    """(batch, seconds of ours, of diffusers' class): medians of forward and backward passes that take turns.

    Args:
        config: a file of ``configs/stvae``, for the sizes of both.
    """
    from lavin.training.cogvideox_baseline import AutoencoderKLCogVideoX
    from lavin.training.config import STVAEConfig, load_config

    settings = dict(load_config(STVAEConfig, config_dir() / "stvae" / f"{config}.yaml").model)
    settings = {name: value for name, value in settings.items() if name not in ("kind", "linear_shortcut")}
    models = [cls(**settings).to(device) for cls in (STVAE, AutoencoderKLCogVideoX)]
    for count, frames in ((8, 1), (1, 9), (1, 17)):
        clip = torch.rand(count, 3, frames, size, size, device=device) * 2 - 1
        rounds = [[seconds(model, clip) for model in models] for _ in range(repeats + 1)][1:]  # the first warms up
        ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
        yield f"{count} x {frames} frame{'s' * (frames > 1)}", ours, theirs


def seconds(model: nn.Module, clip: torch.Tensor) -> float:
    """Of a forward and backward pass."""
    start = time.perf_counter()
    output = model(clip, sample_posterior=True)
    loss = (output.sample - clip).square().mean() + 1e-6 * output.posterior.logvar.mean()
    loss.backward()
    model.zero_grad(set_to_none=True)
    loss.item()  # waits for the device
    return time.perf_counter() - start
