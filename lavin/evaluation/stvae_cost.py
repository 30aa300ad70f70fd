"""What the ST-VAE costs: memory and arithmetic by size and length, a training step beside its ancestor's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from lavin import config_dir
from lavin.errors import InputError
from lavin.evaluation.cost import counted, preset
from lavin.models.stvae import SPACE_FACTOR, STVAE, TIME_FACTOR, latent_frames


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


def memory(name: str, sides: Sequence[int], lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Bytes of activations and operations of encoding and decoding one clip in bf16, its weights apart: whole, in
    chunks of time (where it is long enough to have two), and in tiles (where it is larger than one). From shapes alone.

    Args:
        name: a file of ``configs/models``, e.g. ``stvae_full``.
        sides: of the pictures in pixels, multiples of 8.
        lengths: frames, 1 + 4k.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        for side in sides:
            for frames in lengths:
                clip = torch.randn(1, 3, frames, side, side, dtype=torch.bfloat16)
                cells = side // SPACE_FACTOR
                latent = torch.randn(1, 16, latent_frames(frames), cells, cells, dtype=torch.bfloat16)
                for how, stvae in ways(name):
                    if (how == "chunks" and frames < 2 * stvae.chunk_frames) or (
                        how == "tiles" and side <= stvae.tile_sample_min_height
                    ):
                        continue
                    row: dict[str, Any] = {"side": side, "frames": frames, "how": how}
                    row["encode_flops"], row["encode_bytes"] = counted(lambda s=stvae, c=clip: s.encode(c).latent_dist)
                    row["decode_flops"], row["decode_bytes"] = counted(lambda s=stvae, z=latent: s.decode(z).sample)
                    yield row


def check(sides: Sequence[int], lengths: Sequence[int]) -> None:
    """Refuse clips that no ST-VAE encodes as they are.

    Raises:
        InputError: it says what would be right.
    """
    for side in sides:
        if side < SPACE_FACTOR or side % SPACE_FACTOR:
            raise InputError(f"--size is {side}; it must be a multiple of {SPACE_FACTOR}")
    for frames in lengths:
        if frames < 1 or frames % TIME_FACTOR != 1:
            raise InputError(f"--frames is {frames}; clips have 1 + 4k frames, e.g. {1 + 4 * max(0, frames // 4)}")


def ways(name: str) -> Iterator[tuple[str, STVAE]]:
    """The ST-VAE as it is, and as it is asked to save memory."""
    for how in ("whole", "chunks", "tiles"):
        stvae = preset(name, STVAE)
        if how == "chunks":
            stvae.enable_chunking()
        elif how == "tiles":
            stvae.enable_tiling()
        yield how, stvae
