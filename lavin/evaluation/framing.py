"""What of a picture a benchmark shows, as the square that a model sees: a crop, picture and labels at one size."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lavin.data.sample import Instance, Sample
from lavin.errors import InputError
from lavin.tasks.resizing import resize_label

CROPS = ("whole", "centre", "centre111", "eigen")
"""``whole``: squashed. ``centre``: the largest square in the middle, i.e. the short side at the model's size and the
middle cut out. ``centre111``: 111 pixels a side of the middle (Bar et al. 2022). ``eigen``: NYUv2's rows 45 ... 470 and
columns 41 ... 600, inside the white border (Eigen et al. 2014)."""
EIGEN = (45, 41, 426, 560)
NYU_SIZE = (480, 640)
KNOWN = 0.5
"""Share of a new pixel's neighbourhood that must be known for its depth or normal to be."""


def window(crop: str, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop in a picture.

    Raises:
        InputError: the picture has no such crop.
    """
    if crop == "whole":
        return 0, 0, height, width
    if crop == "eigen":
        if (height, width) != NYU_SIZE:
            raise InputError(f"crop 'eigen' is of NYUv2's pictures of 640x480; this one is {width}x{height}")
        return EIGEN
    side = min(height, width, 111 if crop == "centre111" else height)
    return (height - side) // 2, (width - side) // 2, side, side


def frame(sample: Sample, crop: str, size: int) -> Sample:
    """A sample of one picture as a square: bicubic with antialias, ids nearest, depth and normals over known pixels.

    Args:
        crop: one of ``CROPS``.
        size: side in pixels.
    """
    top, left, height, width = window(crop, *sample.size[1:])
    rows, columns = slice(top, top + height), slice(left, left + width)
    square = (size, size)

    def cut(values: Tensor) -> Tensor:
        return values[..., rows, columns]

    pictures = sample.clip[:, rows, columns].permute(0, 3, 1, 2)
    if (height, width) != square:
        pictures = F.interpolate(pictures, square, mode="bicubic", antialias=True)
    scale = torch.tensor([size / width, size / height] * 2)
    corner = torch.tensor([left, top] * 2)

    def moved(thing: Instance) -> Instance:
        return replace(thing, mask=resize_label(cut(thing.mask), square), box=(thing.box - corner) * scale)

    labels = {
        "semantic": lambda ids: resize_label(cut(ids), square),
        "boundaries": lambda share: resize_label(cut(share), square),
        "depth": lambda depth: resize_known(cut(depth), cut(depth).isfinite(), square),
        "normals": lambda normals: frame_normals(cut(normals), square),
        "instances": lambda things: [moved(thing) for thing in things],
    }
    framed = {name: of(getattr(sample, name)) for name, of in labels.items() if getattr(sample, name) is not None}
    gone = {"panoptic": None, "flow": None, "K": None, "pose": None}
    return replace(sample, clip=pictures.permute(0, 2, 3, 1).contiguous(), **framed, **gone)


def resize_known(values: Tensor, known: Tensor, size: tuple[int, int]) -> Tensor:
    """Float values (frames, height, width) at another size: means of known pixels only, NaN where most are unknown."""
    weight = resize_label(known.float(), size)
    total = resize_label(torch.where(known, values, 0), size)
    return torch.where(weight >= KNOWN, total / weight.clamp(min=KNOWN), torch.nan)


def frame_normals(normals: Tensor, size: tuple[int, int]) -> Tensor:
    """Unit vectors (3, frames, height, width) at another size: over known pixels, then normalised; zeros unknown."""
    if normals.shape[-2:] == size:
        return normals
    known = normals.abs().sum(0) > 0
    mean = torch.stack([resize_known(axis, known, size) for axis in normals]).nan_to_num(0)
    return F.normalize(mean, dim=0)
