"""Large pictures in overlapping tiles, long clips in chunks, big batches one by one: the ST-VAE in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor, nn

from lavin.models.stvae_layers import Frames


def run_in_tiles(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: tuple[int, int], overlap: tuple[int, int], scale: Fraction
) -> Tensor:
    """Apply a function to overlapping tiles of (..., height, width) and blend the results.

    In the overlap of two tiles the weight of one falls linearly while that of the other rises: the border of a tile,
    where the function saw less than there is, hardly counts, and no seam shows.

    Args:
        function: tile -> result whose sides are ``scale`` times the tile's; all tiles have one size.
        tile: height and width of a tile; a picture that is smaller along a side is one tile along it.
        overlap: least overlap of neighbours, smaller than the tile.
        scale: of the result; sides, tiles and overlaps must stay whole numbers under it.
    """
    sides = [min(size, side) for size, side in zip(x.shape[-2:], tile, strict=True)]
    starts = [tile_starts(size, side, by) for size, side, by in zip(x.shape[-2:], sides, overlap, strict=True)]
    ramps = [tile_weights(int(side * scale), int(by * scale)).to(x.device) for side, by in zip(sides, overlap)]
    result, total = None, None
    for top in starts[0]:
        for left in starts[1]:
            done = function(x[..., top : top + sides[0], left : left + sides[1]])
            if result is None:
                size = [int(length * scale) for length in x.shape[-2:]]
                result = torch.zeros(*done.shape[:-2], *size, dtype=torch.float32, device=done.device)
                total = torch.zeros(size, device=done.device)
            place = (..., slice(int(top * scale), None), slice(int(left * scale), None))
            weight = ramps[0][:, None] * ramps[1]
            height, width = weight.shape
            result[place][..., :height, :width] += done * weight
            total[place][:height, :width] += weight
    return (result / total).to(done.dtype)


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: ``tile - overlap`` apart, the last one flush with the end."""
    return [*range(0, size - tile, tile - overlap), size - tile]


def tile_weights(size: int, overlap: int) -> Tensor:
    """A tile's weights along a side: 1 inside, falling linearly over the overlap towards both ends, never 0."""
    distance = torch.arange(size) + 0.5
    return (torch.minimum(distance, size - distance) / max(overlap, 1)).clamp_max(1)


def run_in_chunks(network: nn.Module, clip: Tensor, size: int | None) -> Tensor:
    """Run an encoder or decoder over a long clip chunk by chunk, each convolution keeping its last frames for the next.

    Args:
        network: called as ``network(chunk, frames)``.
        clip: (batch, channels, frames, height, width).
        size: frames of a chunk; the first one takes what does not divide evenly too. None: the whole clip at once.
    """
    count = clip.shape[2]
    if size is None or count < 2 * size:
        return network(clip)
    first = count - (count // size - 1) * size
    history: dict[nn.Module, Tensor] = {}
    chunks = clip.split([first] + [size] * (count // size - 1), dim=2)
    done = [
        network(chunk, Frames(chunk.shape[2], lone=int(number == 0), history=history))
        for number, chunk in enumerate(chunks)
    ]
    return torch.cat(done, dim=2)
