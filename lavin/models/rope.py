"""3D rotary position encoding: queries and keys turned by angles that depend on (t, y, x) (paper, J-DiT).

Attention scores then depend on coordinate differences only. Tables are computed in float32 from integer
coordinates at every call, never stored: a model cast to bfloat16 would round stored ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

THETA = 10000.0


class Rope(NamedTuple):
    """Cosines and sines of every token's angles, each float32 (tokens, 1, head_dim / 2)."""

    cos: Tensor
    sin: Tensor


def axis_channels(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that encode t, y and x: 2 * floor(head_dim / 6) for y and x each, the rest for t."""
    plane = 2 * (head_dim // 6)
    return head_dim - 2 * plane, plane, plane


def coordinates(start: int, frames: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Integer (t, y, x) of every patch of a latent clip whose first frame stands at time ``start``.

    Returns:
        int64 (frames * height * width, 3), frames outermost; height and width count patches.
    """
    t = torch.arange(start, start + frames, device=device)
    y, x = (torch.arange(length, device=device) for length in (height, width))
    return torch.cartesian_prod(t, y, x)


def rotation(coords: Tensor, head_dim: int) -> Rope:
    """Angles of tokens: axis of n channels, frequency i of n / 2: coordinate * 10000^(-2i / n).

    Args:
        coords: (tokens, 3) coordinates t, y, x.
        head_dim: channels of a head, even.
    """
    angles = []
    for axis, channels in enumerate(axis_channels(head_dim)):
        exponents = torch.arange(0, channels, 2, device=coords.device, dtype=torch.float32) / max(channels, 1)
        angles.append(coords[:, axis, None].float() * THETA**-exponents)
    angle = torch.cat(angles, dim=1)[:, None]
    return Rope(angle.cos(), angle.sin())


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) of channels by its token's angle.

    The axes share one half-split of the head; which channels make a pair is free as long as queries and keys agree.

    Args:
        x: queries or keys, (batch, tokens, heads, head_dim).
        rope: one row a token.
    """
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * rope.cos - second * rope.sin, first * rope.sin + second * rope.cos), dim=-1)
    return turned.to(x.dtype)
