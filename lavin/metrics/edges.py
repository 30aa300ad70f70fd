"""Scores of edges: F1 with one pixel of slack, and the ODS and OIS of the BSDS500 benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchmetrics import Metric

from lavin.metrics.base import SampleMean, beside, finite


def edge_f(prediction: Tensor, truth: Tensor) -> Tensor:
    """F1 of edge pixels, where one that is at most 1 px away (diagonals too) is found.

    Args:
        prediction: bool (frames, height, width).
        truth: the same. Both empty scores 1, only one of them empty 0.

    Raises:
        ValueError: sizes differ.
    """
    truth = beside(prediction, truth)
    if not prediction.any() or not truth.any():
        return torch.tensor(float(not prediction.any() and not truth.any()), dtype=torch.float64)

    def wide(edges: Tensor) -> Tensor:
        return max_pool2d(edges.float().unsqueeze(1), 3, stride=1, padding=1).squeeze(1)

    precision = wide(truth)[prediction].double().mean()
    recall = wide(prediction)[truth].double().mean()
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)


class EdgeF(SampleMean):
    """Mean over samples of the edges' F1 with a tolerance of 1 px."""

    higher_is_better = True

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return edge_f(prediction, truth)


def removable(neighbours: list[np.ndarray], second_half: bool) -> np.ndarray:
    """Which pixels Guo and Hall's condition takes away in half a pass.

    Args:
        neighbours: x1 ... x8, bool (height, width) each: the pixels to the east, north-east, ... south-east.
        second_half: whether it is the pass from the other side (condition G3' instead of G3).
    """
    x = neighbours
    crossings = sum((~x[i] & (x[i + 1] | x[(i + 2) % 8])).astype(np.uint8) for i in (0, 2, 4, 6))
    pairs = [sum((x[i] | x[(i + 1) % 8]).astype(np.uint8) for i in start) for start in ((0, 2, 4, 6), (1, 3, 5, 7))]
    fewest = np.minimum(*pairs)
    if second_half:
        side = (x[5] | x[6] | ~x[3]) & x[4]
    else:
        side = (x[1] | x[2] | ~x[7]) & x[0]
    return (crossings == 1) & (fewest >= 2) & (fewest <= 3) & ~side


def thin(mask: np.ndarray) -> np.ndarray:
    """Lines one pixel wide with the same connections: Guo and Hall's parallel thinning (1989, algorithm A1).

    It is what the benchmark does to predictions, and leaves what is thin already as it is.

    Args:
        mask: bool (height, width).
    """
    height, width = mask.shape
    padded = np.pad(mask, 1)
    around = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
    inner = padded[1:-1, 1:-1]
    changed = True
    while changed:
        changed = False
        for second_half in (False, True):
            neighbours = [padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in around]
            taken = inner & removable(neighbours, second_half)
            inner[taken] = False
            changed |= bool(taken.any())
    return inner.copy()


def matched_pixels(found: np.ndarray, true: np.ndarray, radius_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Edge pixels that a one-to-one matching of as many as possible joins over at most ``radius_px``.

    Args:
        found, true: bool (height, width).

    Returns:
        Of ``found`` and of ``true``, the same shapes.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import cKDTree

    hit, recalled = np.zeros_like(found), np.zeros_like(true)
    here, there = np.argwhere(found), np.argwhere(true)
    if len(here) and len(there):
        near = cKDTree(here).query_ball_tree(cKDTree(there), radius_px + 1e-9)
        ends = np.cumsum([0] + [len(row) for row in near])
        columns = np.array([column for row in near for column in row], dtype=np.int64)
        graph = csr_matrix((np.ones(len(columns), np.int8), columns, ends), shape=(len(here), len(there)))
        partner = maximum_bipartite_matching(graph, perm_type="column")
        hit[tuple(here[partner >= 0].T)] = True
        recalled[tuple(there[partner[partner >= 0]].T)] = True
    return hit, recalled


def f_measure(counts: Tensor) -> Tensor:
    """F of (..., 4) counts: predicted pixels matched and all of them, true pixels matched and all of them.

    0 where nothing is predicted or nothing is true.
    """
    precision, recall = (counts[..., i] / counts[..., i + 1].clamp(min=1) for i in (0, 2))
    return harmonic_mean(precision, recall)


def harmonic_mean(precision: Tensor, recall: Tensor) -> Tensor:
    """2 P R / (P + R), 0 where both are 0."""
    total = precision + recall
    return torch.where(total > 0, 2 * precision * recall / total, 0)


def best_f(counts: Tensor) -> Tensor:
    """Largest F over thresholds, precision and recall taken as straight between neighbouring ones (BSDS500).

    Args:
        counts: (thresholds, 4), as in ``f_measure``.
    """
    precision, recall = (counts[:, i] / counts[:, i + 1].clamp(min=1) for i in (0, 2))
    between = torch.linspace(0, 1, 100, dtype=counts.dtype, device=counts.device).unsqueeze(1)
    lines = [torch.lerp(curve[:-1], curve[1:], between) for curve in (precision, recall)]
    return torch.cat([harmonic_mean(*lines).flatten(), f_measure(counts)]).max()


class BoundaryBenchmark(Metric):
    """Matches of thinned predictions with several people's drawings, at every threshold (Arbelaez et al. 2011).

    A predicted pixel is right if it matches that of any drawing; true pixels count once for every drawing. Matching is
    one to one, within a share of the picture's diagonal, and joins as many pixels as possible.

    Args:
        thresholds: how many, evenly spaced inside (0, 1); the benchmark's 99 take about half a minute a picture. A
            binary prediction is the same at all of them: take 1.
        tolerance: share of the diagonal, 0.0075 for BSDS500 (0.011 is usual for NYUv2).
        thinning: thin the prediction after every threshold.

    ``update`` takes strengths in [0, 1], (frames, height, width), or bool; and the drawings, bool
    (people, frames, height, width), or (frames, height, width) of one.

    Raises:
        ValueError: in ``update``: sizes differ, or strengths are not finite or outside [0, 1].
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, thresholds: int = 99, tolerance: float = 0.0075, thinning: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.thresholds = torch.arange(1, thresholds + 1, dtype=torch.float64) / (thresholds + 1)
        self.tolerance = tolerance
        self.thinning = thinning

    def counts(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """What ``f_measure`` takes at every threshold, (thresholds, 4)."""
        drawings = truth.unsqueeze(0) if truth.ndim == prediction.ndim else truth
        beside(prediction, drawings[0])
        strength = finite(prediction.cpu().double(), "the predicted edges")
        if strength.numel() and not 0 <= strength.min() <= strength.max() <= 1:
            raise ValueError(f"edges are {strength.min():g} ... {strength.max():g}; strengths must be in [0, 1]")
        drawings = drawings.cpu().numpy()
        radius_px = self.tolerance * float(np.hypot(*prediction.shape[-2:]))
        counts = torch.zeros(len(self.thresholds), 4, dtype=torch.float64)
        for row, threshold in zip(counts, self.thresholds):
            for frame, drawn in zip((strength >= threshold).numpy(), drawings.swapaxes(0, 1)):
                row += self.frame_counts(frame, drawn, radius_px)
        return counts

    def frame_counts(self, found: np.ndarray, drawings: np.ndarray, radius_px: float) -> Tensor:
        """The four counts of one frame, (height, width), and its drawings, (people, height, width)."""
        found = thin(found) if self.thinning else found
        matches = [matched_pixels(found, drawing, radius_px) for drawing in drawings]
        right = np.any([hit for hit, _ in matches], axis=0)
        recalled = sum(int(true.sum()) for _, true in matches)
        return torch.tensor([right.sum(), found.sum(), recalled, drawings.sum()], dtype=torch.float64)

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """F of one picture at its own best threshold."""
        return f_measure(self.counts(prediction, truth)).max()


class EdgeODS(BoundaryBenchmark):
    """Optimal dataset scale: F of all pictures together, at the one threshold that suits them best."""

    def __init__(self, thresholds: int = 99, tolerance: float = 0.0075, thinning: bool = True, **kwargs: Any):
        super().__init__(thresholds, tolerance, thinning, **kwargs)
        self.add_state("pooled", torch.zeros(thresholds, 4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        self.pooled += self.counts(prediction, truth).to(self.device)

    def compute(self) -> Tensor:
        return best_f(self.pooled).float()


class EdgeOIS(BoundaryBenchmark):
    """Optimal image scale: F of all pictures together, each at the threshold that suits it best."""

    def __init__(self, thresholds: int = 99, tolerance: float = 0.0075, thinning: bool = True, **kwargs: Any):
        super().__init__(thresholds, tolerance, thinning, **kwargs)
        self.add_state("pooled", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        counts = self.counts(prediction, truth)
        self.pooled += counts[f_measure(counts).argmax()].to(self.device)

    def compute(self) -> Tensor:
        return f_measure(self.pooled).float()
