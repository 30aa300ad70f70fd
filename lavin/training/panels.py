"""Pictures for people: rows of equally large images in one frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.utils import make_grid


def to_uint8(clip: Tensor) -> Tensor:
    """[-1, 1] -> uint8 of the same shape."""
    return clip.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def grid(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Rows of uint8 pictures (3, height, width), all of one size -> one picture with narrow white borders."""
    pictures = torch.stack([picture for row in rows for picture in row])
    return make_grid(pictures, nrow=len(rows[0]), padding=2, pad_value=255)
