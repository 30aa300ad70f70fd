"""Pictures at the pipeline's border: files, PIL images, arrays and tensors in; clips at the model's size; and out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lavin.clips import Clip, read_media
from lavin.data.folders import load_pairs
from lavin.errors import InputError
from lavin.io import to_rgb


class Picture(NamedTuple):
    """A picture or clip as it came: uint8 or float in [-1, 1], (frames, 3, height, width)."""

    frames: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return tuple(self.frames.shape[2:])


def read_context(context: str | Path | Sequence[tuple[Any, Any]]) -> list[tuple[Picture, Picture]]:
    """The pairs as pictures; input and target of a pair have one size."""
    if isinstance(context, (str, Path)):
        context = load_pairs(context)
    if not isinstance(context, Sequence) or len(context) == 0:
        raise InputError("the context has no pairs; give at least one (input, target), or a folder of them")
    names = getattr(context, "names", range(1, len(context) + 1))
    pairs = []
    for name, pair in zip(names, context, strict=True):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"context pair '{name}' is {type(pair).__name__}; an (input, target) tuple is needed")
        halves = [as_picture(half, f"context pair '{name}', {side}") for half, side in zip(pair, ("input", "target"))]
        if halves[0].size != halves[1].size:
            sizes = " but target ".join(describe(half) for half in halves)
            raise InputError(f"context pair '{name}': input is {sizes}; both must have one size")
        pairs.append(tuple(halves))
    check_lengths([tuple(len(half.frames) for half in pair) for pair in pairs], list(names))
    return pairs


def check_lengths(lengths: Sequence[tuple[int, int]], names: Sequence[Any]) -> None:
    """Refuse pairs of which one has more frames than another: how long a target is could not be told."""
    for name, found in zip(names, lengths, strict=True):
        if found != lengths[0]:
            raise InputError(
                f"context pair '{name}': input and target have {found[0]} and {found[1]} frames, those of pair "
                f"'{names[0]}' {lengths[0][0]} and {lengths[0][1]}; all pairs must be equally long"
            )


def read_queries(query: Any) -> list[Picture]:
    """One picture, or a list of them, as a list of pictures with equally many frames."""
    queries = list(query) if isinstance(query, (list, tuple)) else [query]
    if not queries:
        raise InputError("there is no query; give at least one picture")
    pictures = [as_picture(item, f"query {number}") for number, item in enumerate(queries, 1)]
    lengths = sorted({len(picture.frames) for picture in pictures})
    if len(lengths) > 1:
        raise InputError(
            f"queries of {' and '.join(map(str, lengths))} frames cannot share a batch; call once for each"
        )
    return pictures


def describe(picture: Picture) -> str:
    height, width = picture.size
    frames = len(picture.frames)
    return f"{width}x{height}" + (f" with {frames} frames" if frames > 1 else "")


def as_picture(item: Any, name: str) -> Picture:
    """Any accepted kind of picture; see ``LavinPipeline.__call__``."""
    if isinstance(item, (str, Path)):
        item = read_media(item)
    if isinstance(item, Clip):
        item = item.frames
    if isinstance(item, Image.Image):
        item = np.array(to_rgb(item, name))
    if isinstance(item, np.ndarray):
        return Picture(from_array(item, name))
    if isinstance(item, Tensor):
        return Picture(from_tensor(item, name))
    raise InputError(f"{name} is {type(item).__name__}; a path, PIL image, numpy array or torch tensor is needed")


def from_array(array: np.ndarray, name: str) -> Tensor:
    """(height, width, 3) or (frames, height, width, 3), uint8 or float in [0, 1] -> (frames, 3, height, width)."""
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or array.size == 0:
        raise InputError(
            f"{name} is an array of {array.shape}; (height, width, 3) or (frames, height, width, 3) is needed"
        )
    frames = torch.from_numpy(np.require(array, requirements="CW")).reshape(-1, *array.shape[-3:]).permute(0, 3, 1, 2)
    if array.dtype == np.uint8:
        return frames
    if array.dtype.kind != "f":
        raise InputError(f"{name} is an array of {array.dtype}; uint8, or float in [0, 1], is needed")
    check_range(frames, 0, name)
    return frames.float() * 2 - 1


def from_tensor(tensor: Tensor, name: str) -> Tensor:
    """(3, height, width) or (3, frames, height, width), float in [-1, 1] -> (frames, 3, height, width)."""
    if tensor.ndim not in (3, 4) or tensor.shape[0] != 3 or tensor.numel() == 0:
        raise InputError(
            f"{name} is a tensor of {tuple(tensor.shape)}; (3, height, width) or (3, frames, height, width) is needed"
        )
    if not tensor.is_floating_point():
        raise InputError(f"{name} is a tensor of {tensor.dtype}; float in [-1, 1] is needed")
    check_range(tensor, -1, name)
    tensor = tensor.detach().cpu().float()
    return tensor[None] if tensor.ndim == 3 else tensor.transpose(0, 1)


def check_range(values: Tensor, low: int, name: str) -> None:
    """Refuse values that are not in [low, 1], NaN included."""
    least, most = values.min().item(), values.max().item()
    if not (least >= low - 1e-3 and most <= 1 + 1e-3):
        raise InputError(f"{name} has values from {least:.4g} to {most:.4g}; they must lie in [{low}, 1]")


def squash(frames: Tensor, size: int) -> Tensor:
    """The whole picture as a square, aspect ratio not kept (release): bicubic with antialias.

    Args:
        frames: uint8, or float in [-1, 1], (frames, 3, height, width).

    Returns:
        Clip (3, frames, size, size), float32 in [-1, 1].
    """
    # An 8-bit picture stays 8-bit until it is small: 20,000 pixels across would take gigabytes in float.
    if frames.shape[2:] != (size, size):
        frames = F.interpolate(frames, (size, size), mode="bicubic", antialias=True)
    frames = frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames
    return frames.clamp(-1, 1).transpose(0, 1)


def to_output(clip: Tensor, size: tuple[int, int], output_type: str) -> Any:
    """A predicted clip at the query's size (height, width), as ``LavinOutput.images`` has it."""
    frames = clip.transpose(0, 1)
    if output_type == "pil":
        # From 8 bits by Pillow, which needs no float copy of a picture that may be 20,000 pixels wide.
        levels = ((frames + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        pictures = [Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC) for frame in levels]
        return pictures[0] if len(pictures) == 1 else pictures
    if frames.shape[2:] != size:
        frames = F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(-1, 1)
    if output_type == "pt":
        return frames.transpose(0, 1)
    array = (frames.permute(0, 2, 3, 1).numpy() + 1) / 2
    return array[0] if len(array) == 1 else array


def to_uint8(clip: Tensor) -> Tensor:
    """[-1, 1] -> uint8 levels of the same shape."""
    return clip.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def from_uint8(levels: Tensor) -> Tensor:
    """Inverse of ``to_uint8``, float32."""
    return levels.float().div_(127.5).sub_(1)
