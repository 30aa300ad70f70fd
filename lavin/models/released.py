"""The authors' released checkpoint: its names of weights, its order of channels, its sizes; read into our networks.

The release is a folder of ``lavin_dit.safetensors`` (or shards and their index) and ``stvae.pt``. Against our layout
only names differ, and the order of q's and k's channels: both turn half-split pairs under RoPE, the release within each
axis' share of a head, we within the whole head. An optional ``config.json`` beside them says what shapes cannot.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lavin.bundled import RELEASED_JDIT, RELEASED_STVAE, read_json
from lavin.errors import InputError
from lavin.models.jdit import JDiT
from lavin.models.rope import axis_channels
from lavin.models.stvae import STVAE
from lavin.models.weights import Weights, build, differences, fill, open_pickle, open_safetensors, refuse, shapes

CONFIG = "config.json"
STATE_DICT = "state_dict"
"""What the pickle holds the ST-VAE's weights under."""
HEAD_DIM = 72
"""Of the release: 2304 channels, 32 heads."""
SHIFT, SCALE = 0.032470703125, 1.08936170213
"""Of the latents; constants of the release's code, not in its files."""
SETTINGS = {"sample_size": 512, "time_grid": "linear_quadratic", "max_pairs": 4, "num_inference_steps": 20}
"""How the release is run: its pipeline's settings."""
FIXED = {"sandwich_norm": True, "timestep_scale": 1.0, "attention": "full"}
"""What the layout means without saying so, of the J-DiT."""

JDIT_NAMES = (
    (r"^condition_stream$", "prompt_embed"),
    (r"^target_stream$", "answer_embed"),
    (r"^condition_embedding\.", "cond_embedder."),
    (r"^target_embedding\.", "x_embedder."),
    (r"^timestep_embedding\.hidden\.", "t_embedder.mlp.0."),
    (r"^timestep_embedding\.out\.", "t_embedder.mlp.2."),
    (r"^out_scale\.", "final_layer.adaLN_modulation.1."),
    (r"^out\.", "final_layer.linear."),
    (r"\.condition\.", ".cond_"),
    (r"\.target\.", ".x_"),
    (r"\.(cond|x)_([qkv])\.", r".joint_attn.\1_\2."),
    (r"\.(cond|x)_([qk])_norm\.", r".joint_attn.\1_\2norm."),
    (r"\.(cond|x)_out\.", r".joint_attn.\1_proj."),
    (r"\.(cond|x)_mlp\.(gate|up|down)\.", r".\1_mlp.\2_proj."),
    (r"\.(cond|x)_adarn\.", r".\1_modulation.1."),
)
"""Our names to the release's, in order. Its "prompt" is the condition, its "answer" and "x" the target."""
STVAE_NAMES = (
    (r"\.(conv_in|conv_out|conv1|conv2)\.", r".\1.conv."),
    (r"\.norm\.", ".norm_layer."),
    (r"\.scale\.", ".conv_y.conv."),
    (r"\.shift\.", ".conv_b.conv."),
    (r"\.skip\.", ".conv_shortcut."),
    (r"\.blocks\.", ".resnets."),
    (r"\.middle\.", ".mid_block."),
    (r"^(encoder\..*)\.resample\.", r"\1.downsamplers.0."),
    (r"^(decoder\..*)\.resample\.", r"\1.upsamplers.0."),
    (r"^encoder\.stages\.", "encoder.down_blocks."),
    (r"^decoder\.stages\.", "decoder.up_blocks."),
)
"""Likewise; the names are those of diffusers' ``AutoencoderKLCogVideoX``, the ST-VAE's ancestor."""


def released_names(ours: Iterable[str], rules: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Our name of every weight -> the release's."""
    names = {}
    for name in ours:
        theirs = name
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        names[name] = theirs
    assert len(set(names.values())) == len(names), "two weights under one released name"
    return names


# --- Order of channels under RoPE -------------------------------------------------------------------------------------

ROTATED = re.compile(r"\.[qk](_norm)?\.weight$")
"""Our weights whose rows are rotated channels."""


def channel_order(head_dim: int) -> Tensor:
    """Which of the release's channels stands at each of ours in a head: all axes' first halves, then all second."""
    first, second, start = [], [], 0
    for channels in axis_channels(head_dim):
        middle, end = start + channels // 2, start + channels
        first += range(start, middle)
        second += range(middle, end)
        start = end
    return torch.tensor(first + second)


def to_our_order(name: str, weight: Tensor, head_dim: int) -> Tensor:
    """A J-DiT weight, under our name, with its rows in our order."""
    return reorder(weight, channel_order(head_dim)) if ROTATED.search(name) else weight


def to_released_order(name: str, weight: Tensor, head_dim: int) -> Tensor:
    """The inverse of ``to_our_order``, bit for bit."""
    return reorder(weight, channel_order(head_dim).argsort()) if ROTATED.search(name) else weight


def reorder(weight: Tensor, order: Tensor) -> Tensor:
    return weight.unflatten(0, (-1, len(order)))[:, order].flatten(0, 1)


# --- Sizes ------------------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, dict[str, Any]]:
    """Sections ``jdit``, ``stvae`` and ``pipeline`` of the ``config.json`` beside the weights; empty without one."""
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    sections = {name: config.get(name, {}) for name in ("jdit", "stvae", "pipeline")}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise InputError(f"{folder / CONFIG}: '{name}' is no JSON object")
    return sections


def commonest(weights: Weights, pattern: str, axis: int, what: str) -> int:
    """A size along ``axis`` of the weights that match: the one most of them have, so that a wrong one stands out."""
    sizes = [
        entry.shape[axis]
        for name, entry in weights.entries.items()
        if re.search(pattern, name) and -len(entry.shape) <= axis < len(entry.shape)
    ]
    if not sizes:
        raise InputError(f"{weights.origin}: not the release's layout, no weight tells the {what} (/{pattern}/)")
    return Counter(sizes).most_common(1)[0][0]


def count(weights: Weights, pattern: str) -> int:
    """How many modules a list has, by the highest number in its names."""
    numbers = [int(found[1]) for name in weights.entries if (found := re.search(pattern, name))]
    return min(1 + max(numbers, default=-1), len(weights.entries))  # a wild number builds no endless list


def check_agreement(origin: Path, section: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a configuration that says something else than the shapes."""
    for name, size in found.items():
        said = section.get(name, size)
        if (list(said) if isinstance(said, (list, tuple)) else said) != size:
            raise InputError(f"{origin}: {CONFIG} beside it says {name} {said}, its weights {size}")


def jdit_config(weights: Weights, section: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of the J-DiT in a file, from shapes; head count and patch size from the section of a config.json.

    Raises:
        InputError: sizes cannot be told, contradict the section, or need one.
    """
    origin = weights.origin
    hidden_size = commonest(weights, r"(_modulation\.1|_q|mlp\.2)\.weight$|_embed$", -1, "hidden size")
    kv_size = commonest(weights, r"joint_attn\.(cond|x)_[kv]\.weight$", 0, "key/value channels")
    token_size = commonest(weights, r"(cond|x)_embedder\.0\.weight$", -1, "channels of a patch")
    num_layers = count(weights, r"^blocks\.(\d+)\.joint_attn\.")
    patch = section.get("patch_size", 2)
    patch = patch[0] if isinstance(patch, list) and len(set(patch)) == 1 else patch
    heads = section.get("num_heads")
    if not isinstance(patch, int) or patch < 1 or token_size % patch**2:
        raise InputError(f"{origin}: patches of {token_size} numbers are not of patch_size {patch}; see {CONFIG}")
    if not isinstance(heads, int | None) or (heads is not None and (heads < 1 or hidden_size % heads)):
        raise InputError(f"{origin}: {CONFIG} beside it says num_heads {heads}, which does not divide {hidden_size}")
    head_dim = hidden_size // heads if heads else HEAD_DIM
    if hidden_size % head_dim or kv_size % head_dim:
        raise InputError(
            f"{origin}: {hidden_size} channels and {kv_size} of keys are no multiples of {head_dim}, the channels of a "
            f'head; a {CONFIG} beside it must say how many heads: {{"jdit": {{"num_heads": ..., "kv_group": ...}}}}'
        )
    num_heads, num_kv_heads = hidden_size // head_dim, kv_size // head_dim
    found = {"hidden_size": hidden_size, "num_layers": num_layers, "latent_channels": token_size // patch**2}
    check_agreement(origin, section, found | {"kv_group": num_heads // max(num_kv_heads, 1)})
    return found | FIXED | {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "patch_size": patch}


def stvae_config(weights: Weights, section: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of the ST-VAE in a file; groups of its norms, and latent statistics if not the release's, from
    the section of a config.json.

    Raises:
        InputError: sizes cannot be told or contradict the section.
    """
    stages = count(weights, r"^encoder\.down_blocks\.(\d+)\.resnets\.")
    channels = [
        commonest(weights, rf"^encoder\.down_blocks\.{stage}\.resnets\.\d+\.conv\d\.conv\.", 0, "channels of a stage")
        for stage in range(stages)
    ]
    found = {
        "block_out_channels": channels,
        "layers_per_block": count(weights, r"^encoder\.down_blocks\.\d+\.resnets\.(\d+)\."),
        "latent_channels": commonest(weights, r"^decoder\..*\.conv_[yb]\.conv\.weight$", 1, "latent channels"),
    }
    check_agreement(weights.origin, section, found | {"temporal_compression_ratio": 4})
    groups = section.get("norm_num_groups", 32)
    if not isinstance(groups, int) or groups < 1 or any(size % groups for size in channels):
        raise InputError(
            f"{weights.origin}: channels {channels} are no multiples of {groups} groups; a {CONFIG} beside it must say "
            'how many groups a norm has: {"stvae": {"norm_num_groups": ...}}'
        )
    told = {"norm_num_groups": 32, "norm_scope": "clip", "shift": SHIFT, "scale": SCALE}
    return found | {name: section.get(name, default) for name, default in told.items()}


# --- Reading ----------------------------------------------------------------------------------------------------------


@dataclass
class Release:
    """A folder in the release's layout: two networks on the meta device, and where their weights are.

    Args:
        jdit, stvae: networks without weights.
        jdit_weights, stvae_weights: under our names, in our order, read when asked for.
        settings: of the pipeline.
    """

    jdit: JDiT
    stvae: STVAE
    jdit_weights: Weights
    stvae_weights: Weights
    settings: dict[str, Any]

    def load(self, dtype: torch.dtype | None = None) -> tuple[JDiT, STVAE]:
        """Both networks with their weights; see ``load_released``."""
        return fill(self.jdit, self.jdit_weights, dtype), fill(self.stvae, self.stvae_weights, dtype)


def open_release(folder: str | Path) -> Release:
    """Read names, shapes and sizes of a release, and no weight yet.

    Raises:
        InputError: files are missing or damaged, sizes cannot be told, or keys are missing, left over, wrongly shaped
            or of a wrong type; the message lists them all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"release {folder} is no folder")
    config = read_config(folder)
    whole, index = (folder / name for name in RELEASED_JDIT)
    jdit_file = open_safetensors(index if index.is_file() and not whole.is_file() else whole)
    stvae_file = open_pickle(folder / RELEASED_STVAE, STATE_DICT)
    jdit = build(JDiT, jdit_config(jdit_file, config["jdit"]), jdit_file.origin)
    stvae = build(STVAE, stvae_config(stvae_file, config["stvae"]), stvae_file.origin)
    jdit_names = released_names(jdit.state_dict(), JDIT_NAMES)
    stvae_names = released_names(stvae.state_dict(), STVAE_NAMES)
    refuse(
        {
            jdit_file.origin: differences(jdit_file, released_shapes(jdit, jdit_names)),
            stvae_file.origin: differences(stvae_file, released_shapes(stvae, stvae_names)),
        }
    )
    head_dim = jdit.config.hidden_size // jdit.config.num_heads
    named = jdit_file.renamed(jdit_names)
    return Release(
        jdit,
        stvae,
        replace(named, read=lambda ours: to_our_order(ours, named.read(ours), head_dim)),
        stvae_file.renamed(stvae_names),
        {name: config["pipeline"].get(name, default) for name, default in SETTINGS.items()},
    )


def released_shapes(model: nn.Module, names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    return {names[ours]: shape for ours, shape in shapes(model).items()}


def load_released(folder: str | Path, dtype: torch.dtype | None = None) -> tuple[JDiT, STVAE]:
    """The J-DiT and the ST-VAE of a folder in the release's layout, of any size, ready to run on the CPU.

    Args:
        folder: holds ``lavin_dit.safetensors`` and ``stvae.pt``. Sizes are read from shapes. A ``config.json``
            (``{"jdit": {"num_heads": ..., "kv_group": ...}, "stvae": {"norm_num_groups": ...}}``) is needed where
            heads have not 72 channels or norms not 32 groups.
        dtype: of both networks; None for what each is stored in.

    Raises:
        InputError: see ``open_release``.

    Example:
        >>> jdit, stvae = load_released("release/")
        >>> velocity = jdit(noisy_target, t, condition)
    """
    return open_release(folder).load(dtype)
