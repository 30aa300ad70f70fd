"""Labels at another size: the quantity is resized, never its coloured picture."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_label(label: Any, size: tuple[int, int], unit_vectors: bool = False) -> Any:
    """A label at another size.

    Args:
        label: bool or integer (frames, height, width): nearest; float (frames, height, width) or
            (3, frames, height, width): bilinear. Anything else stays as it is.
        size: (height, width).
        unit_vectors: normalise after resizing; zeros are invalid and stay so.
    """
    if not isinstance(label, Tensor) or label.ndim not in (3, 4) or label.shape[-2:] == size:
        return label
    if not label.is_floating_point():
        rows, columns = (nearest(*pair) for pair in zip(label.shape[-2:], size, strict=True))
        return label[..., rows, :][..., columns]
    flat = label.reshape(1, -1, *label.shape[-2:])
    label = F.interpolate(flat, size, mode="bilinear", antialias=True).reshape(*label.shape[:-2], *size)
    if unit_vectors:
        length = label.norm(dim=0, keepdim=True)
        label = torch.where(length < 0.5, 0, label / length.clamp(min=0.5))
    return label


def nearest(before: int, after: int) -> Tensor:
    """Which of ``before`` pixels lies under the centre of each of ``after`` pixels."""
    return ((torch.arange(after, dtype=torch.float64) + 0.5) * before / after).long()
