"""What the ST-VAE costs: memory by resolution and length, and a training step beside its ancestor's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from lavin import config_dir
from lavin.errors import InputError
from lavin.evaluation.cost import counted, preset, random_latents
from lavin.models.stvae import SPACE_FACTOR, STVAE, TIME_FACTOR, latent_frames


def memory_rows(sizes: Sequence[int], lengths: Sequence[int], chunk: int) -> Iterator[dict[str, Any]]:
    """Most bytes held at once beside weights and input, of the full size in bf16; computed from shapes.

    Args:
        sizes: sides in pixels, multiples of 8.
        lengths: frames, 1 + 4k each.
        chunk: frames of a chunk, a multiple of 4.

    Raises:
        InputError: one of them is not.
    """
    for size in sizes:
        if size < SPACE_FACTOR or size % SPACE_FACTOR:
            raise InputError(f"--resolutions has {size}; sides are multiples of {SPACE_FACTOR}")
    for frames in lengths:
        if frames < 1 or frames % TIME_FACTOR != 1:
            raise InputError(f"--lengths has {frames}; clips have 1 + 4k frames")
    if chunk < TIME_FACTOR or chunk % TIME_FACTOR:
        raise InputError(f"--chunk is {chunk}; it must be a multiple of {TIME_FACTOR}")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        model = preset("stvae_full", STVAE)
        for size in sizes:
            for frames in lengths:
                row = {"size": size, "frames": frames, "chunk": chunk}
                yield row | held(model, size, frames, "") | held(model, size, frames, "_chunked", chunk)


def held(model: STVAE, size: int, frames: int, suffix: str, chunk: int | None = None) -> dict[str, int]:
    """``encode`` and ``decode`` with that suffix, in bytes."""
    if chunk:
        model.enable_chunking(chunk)
    else:
        model.disable_chunking()
    clip = torch.randn(1, 3, frames, size, size, dtype=torch.bfloat16)
    latent = random_latents(latent_frames(frames), size)
    return {
        f"encode{suffix}": counted(lambda: model.encode(clip).latent_dist.mode())[1],
        f"decode{suffix}": counted(lambda: model.decode(latent).sample)[1],
    }


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
