"""Example and Context: input-target pairs and a query, and how they become one sequence of latent frames.

Knows tensors only: reading folders is ``lavin.data.folders``, encoding to latents is the ST-VAE's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lavin.errors import InputError


class Example(NamedTuple):
    """One demonstration of a task: both clips float (3, frames, height, width) RGB in [-1, 1]."""

    input: Tensor
    target: Tensor


@dataclass
class Context:
    """Examples that share one definition of a task, and a query whose target is wanted.

    Args:
        pairs: demonstrations, in the order in which the model sees them.
        query: clip (3, frames, height, width) in [-1, 1].

    Raises:
        InputError: a pair's input or target has not the query's height and width.
    """

    pairs: list[Example]
    query: Tensor

    def __post_init__(self):
        for number, pair in enumerate(self.pairs, 1):
            for role, clip in zip(Example._fields, pair, strict=True):
                if clip.shape[-2:] != self.query.shape[-2:]:
                    (height, width), (rows, columns) = clip.shape[-2:], self.query.shape[-2:]
                    raise InputError(
                        f"context pair {number}: its {role} is {width}x{height}, but the query is {columns}x{rows}; "
                        "all pictures of a context must have one size"
                    )

    def clips(self) -> list[Tensor]:
        """Clips in the model's order of time: input 1, target 1, ..., input N, target N, query."""
        return [clip for pair in self.pairs for clip in pair] + [self.query]


def clip_frames(condition_frames: int, target_frames: int, pairs: int) -> list[int]:
    """Latent frames of every clip of a condition x1 y1 ... xn whose targets are ``target_frames`` long each.

    Inputs may be longer or shorter than targets, all of them equally.
    """
    input_frames, rest = divmod(condition_frames - (pairs - 1) * target_frames, pairs)
    if rest or input_frames < 1:
        raise ValueError(f"{condition_frames} frames are no {pairs} inputs and {pairs - 1} targets of {target_frames}")
    return [input_frames, target_frames] * (pairs - 1) + [input_frames]


def condition(pair_latents: Sequence[tuple[Tensor, Tensor]], query_latent: Tensor) -> Tensor:
    """The clean condition sequence of latent frames: input 1, target 1, ..., input N, target N, query.

    Args:
        pair_latents: (input, target) latents, each (batch, channels, latent_frames, height, width).
        query_latent: the query's latent, (batch, channels, latent_frames, height, width).

    Returns:
        (batch, channels, all latent frames, height, width).
    """
    return torch.cat([latent for pair in pair_latents for latent in pair] + [query_latent], dim=2)


def unconditional(query_latent: Tensor) -> Tensor:
    """The condition without a task, for guidance: one all-zero latent frame, then the query (paper's release).

    Args:
        query_latent: (batch, channels, latent_frames, height, width), already in the J-DiT's scale.

    Returns:
        (batch, channels, 1 + latent_frames, height, width).
    """
    return torch.cat([torch.zeros_like(query_latent[:, :, :1]), query_latent], dim=2)
