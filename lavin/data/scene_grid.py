"""Grids that say for each ray which solids it may meet: a ray looks its cell up instead of trying rectangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data.scene_solids import indices

CELLS = 48
"""Along each side of a view's grid."""


@dataclass
class Grid:
    """For V views CELLS x CELLS cells over two coordinates of their rays. The outer cells reach to infinity, so that
    every ray is in one."""

    low: Tensor
    """(2, V) where the first cell starts."""
    scale: Tensor
    """(2, V) cells per unit."""
    first: Tensor
    """(V * CELLS²,) where each cell's candidates start in ``slot``."""
    count: Tensor
    """(V * CELLS²,) how many they are."""
    slot: Tensor
    """Candidates of all cells, within a cell in order."""

    @property
    def frame(self) -> tuple[Tensor, Tensor]:
        """Where the cells start and how many there are to a unit, (2, V) each."""
        return self.low, self.scale

    def candidates(self, view: Tensor, low: Tensor, scale: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Slots and rays, (P,) each, of the pairs to be tried; ray by ray, then slot by slot.

        Args:
            view: (M,) of each ray.
            low, scale: (2, M) the grid's own of each ray's view.
            values: (2, M) the rays' coordinates.
        """
        column, row = ((values - low) * scale).clamp_(0, CELLS - 1).long().unbind(0)
        cell = row.mul_(CELLS).add_(column).add_(view, alpha=CELLS * CELLS)
        count = self.count.index_select(0, cell)
        some = indices(count)
        count = count.index_select(0, some)
        start = self.first.index_select(0, cell.index_select(0, some)) - (count.cumsum(0) - count)
        ray, start = (torch.repeat_interleave(values, count) for values in (some, start))
        slot = self.slot.index_select(0, start.add_(torch.arange(len(start), device=start.device)))
        return slot, ray


def _cells(values: np.ndarray, low: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """As ``candidates`` does it, in float32, so that both round alike: (axes, pieces, V, O) -> int."""
    values = (values.astype(np.float32) - low[:, None, :, None]) * scale[:, None, :, None]
    return values.clip(0, CELLS - 1).astype(np.int64)


def lay_grid(low: np.ndarray, high: np.ndarray, widest: float, device: torch.device) -> Grid:
    """Lay a grid over rectangles.

    Args:
        low, high: (2, pieces, V, O) of the solid in each slot; its cells are those that any of its pieces touches.
        widest: nothing beyond plus or minus this is worth a cell of its own.
    """
    views, slots = low.shape[2:]
    first = np.where(np.isfinite(low), low, np.inf).min((1, 3)).clip(-widest, widest)
    last = np.where(np.isfinite(high), high, -np.inf).max((1, 3)).clip(-widest, widest)
    first = np.minimum(first, last).astype(np.float32)
    scale = (CELLS / np.maximum(last - first, 1e-3)).astype(np.float32)
    start, end = _cells(low, first, scale), _cells(high, first, scale)
    cells = np.arange(CELLS)[:, None]
    marked = np.zeros((views, CELLS, CELLS, slots), bool)
    for piece in range(low.shape[1]):
        # (V, CELLS, O) each: the cells along an axis that the rectangle touches
        along = (cells >= start[:, piece, :, None]) & (cells <= end[:, piece, :, None])
        there = (low[:, piece] <= high[:, piece]).all(0)[:, None]
        marked |= along[1][:, :, None] & (along[0] & there)[:, None]
    flat = np.flatnonzero(marked)
    edges = np.searchsorted(flat, np.arange(views * CELLS * CELLS + 1) * slots)
    tables = (first, scale, edges[:-1], np.diff(edges), flat % slots)
    return Grid(*(torch.from_numpy(table).to(device) for table in tables))
