"""Weights of diffusers' ``AutoencoderKLCogVideoX``, the release's ancestor, in our ST-VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lavin.bundled import read_json
from lavin.errors import InputError
from lavin.models.released import STVAE_NAMES, released_names, released_shapes
from lavin.models.stvae import STVAE
from lavin.models.weights import build, differences, fill, open_component, refuse

CHUNK_FRAMES = 8
"""What diffusers' class encodes at a time, and decodes as two latent frames."""
SAME = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
    "act_fn": "silu",
    "norm_eps": 1e-6,
    "temporal_compression_ratio": 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "latents_mean": None,
    "latents_std": None,
}
"""Settings that the ST-VAE has built in; a file that does not say takes diffusers' default, which is the same."""
SIZES = {
    "latent_channels": 16,
    "block_out_channels": [128, 256, 256, 512],
    "layers_per_block": 3,
    "norm_num_groups": 32,
}
"""Settings that it takes over, and diffusers' defaults."""


def load_cogvideox(folder: str | Path, norm_scope: str = "clip", dtype: torch.dtype | None = None) -> STVAE:
    """An ``AutoencoderKLCogVideoX`` saved by diffusers as an ST-VAE.

    All weights agree one to one, and with ``norm_scope="clip"`` images and clips encode and decode as in diffusers.
    What differs, and what is done about it:

    - Diffusers' class cuts a clip of 16 frames or more into chunks of 8 (4 latents or more into chunks of 2), each with
      norm statistics of its own. The ST-VAE that is returned does the same; ``disable_chunking()`` makes it take clips
      whole, as the release does.
    - The latent's scale stands in the config as ``scale`` (CogVideoX: ``scaling_factor``) and ``shift``
      (``shift_factor``); ``invert_scale_latents``, a rule of one pipeline for its condition images, has no counterpart.
    - Clips have 1 + 4k frames here, also when an even number of latents is decoded; from these diffusers' class makes
      4 frames each, the first one too. It also encodes 4k frames, the first averaged with the second.
    - With tiling, tiles and their blending are ours.

    Args:
        folder: a model folder with ``config.json`` and safetensors, or a pipeline's with these in ``vae``.
        norm_scope: ``frame`` makes it causal in time, to fine-tune from: images stay, clips change.
        dtype: None for the stored one.

    Raises:
        InputError: no such folder, another class or layout (all that differs is named), or weights that do not fit.

    Example:
        >>> vae = load_cogvideox("CogVideoX-2b/vae")
        >>> vae.reconstruct(clip)
    """
    folder = Path(folder)
    folder = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json here; give the folder that diffusers saved the autoencoder in")
    config = read_json(folder / "config.json")
    refuse({folder / "config.json": [disagreement(config)]} if disagreement(config) else {})
    settings = {name: config.get(name, default) for name, default in SIZES.items()}
    settings |= {"norm_scope": norm_scope, "scale": config.get("scaling_factor", 1.15258426)}
    vae = build(STVAE, settings | {"shift": config.get("shift_factor") or 0.0}, folder)
    weights, names = open_component(folder), released_names(vae.state_dict(), STVAE_NAMES)
    refuse({weights.origin: differences(weights, released_shapes(vae, names))})
    vae = fill(vae, weights.renamed(names), dtype)
    if norm_scope == "clip":
        vae.enable_chunking(CHUNK_FRAMES)
    return vae


def disagreement(config: dict[str, Any]) -> str:
    """What the configuration has that the ST-VAE cannot be, or nothing."""
    found = config.get("_class_name", "AutoencoderKLCogVideoX")
    if found != "AutoencoderKLCogVideoX":
        return f"it describes a {found}, not an AutoencoderKLCogVideoX"
    other = [f"{name} {config[name]} (not {value})" for name, value in SAME.items() if config.get(name, value) != value]
    return f"the ST-VAE cannot have {', '.join(other)}" if other else ""
