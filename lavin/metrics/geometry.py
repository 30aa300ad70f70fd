"""Scores of geometry: depth after alignment in disparity, angles between normals, edges with one pixel of slack."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchmetrics import Metric

from lavin.metrics.base import SampleMean

MIN_DEPTH_M = 1e-3
MIN_DISPARITY = 1e-3


def fit_disparity(disparity: Tensor, depth_m: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (s, t) = argmin of the sum of (s * p + t - 1 / d)², by plain least squares in float64.

    Args:
        disparity: relative disparity p, (n,).
        depth_m: true depth d > 0 of the same pixels, (n,).
    """
    p, target = disparity.double(), 1 / depth_m.double()
    centred = p - p.mean()
    variance = centred.square().sum()
    scale = (centred * target).sum() / variance if variance else torch.zeros_like(variance)
    return scale, target.mean() - scale * p.mean()


def align_disparity(disparity: Tensor, depth_m: Tensor, max_depth_m: float | None = None) -> Tensor:
    """Depth that a relative disparity means once its scale and shift are fitted to the truth.

    depth = 1 / max(s * p + t, 1e-3), clipped to [1e-3, max_depth]
    """
    scale, shift = fit_disparity(disparity, depth_m)
    depth = 1 / (scale * disparity.double() + shift).clamp(min=MIN_DISPARITY)
    return depth.clamp(MIN_DEPTH_M, max_depth_m)


class AlignedDepth(SampleMean):
    """A depth score of relative disparity: align over the valid pixels of a picture (or of a clip, with one scale
    and shift), score, then the mean over pictures. Valid is 1e-3 < depth < ``max_depth_m``.

    Args:
        max_depth_m: where the truth ends, e.g. 10 for NYUv2; None for none.

    ``update`` takes disparity (frames, height, width) up to scale and shift, and depth in metres, NaN = invalid.
    ``negative_scales`` counts pictures whose disparity came out upside down: they are failures, and not repaired.
    """

    def __init__(self, max_depth_m: float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.max_depth_m = max_depth_m
        self.add_state("negative_scales", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def pixels(self, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Disparity and depth of the pixels that are scored, float64 (n,)."""
        truth = truth.to(prediction.device)
        valid = truth.isfinite() & (truth > MIN_DEPTH_M)
        if self.max_depth_m is not None:
            valid &= truth < self.max_depth_m
        return prediction[valid].double(), truth[valid].double()

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        disparity, depth_m = self.pixels(prediction, truth)
        return self.compare(align_disparity(disparity, depth_m, self.max_depth_m), depth_m)

    @abstractmethod
    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        """The score of aligned depth, both (n,)."""

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        super().update(prediction, truth)
        scale, _ = fit_disparity(*self.pixels(prediction, truth))
        self.negative_scales += int(scale < 0)  # without pixels the scale is NaN, which is not less


class AbsRel(AlignedDepth):
    """Mean of |found - true| / true, as a share (0.06 is 6 %)."""

    higher_is_better = False

    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        return ((found_m - true_m).abs() / true_m).mean()


class Delta1(AlignedDepth):
    """Share of pixels with max(found / true, true / found) < 1.25."""

    higher_is_better = True

    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        return (torch.maximum(found_m / true_m, true_m / found_m) < 1.25).double().mean()


def angles_deg(prediction: Tensor, truth: Tensor) -> Tensor:
    """Angles between unit vectors (3, frames, height, width) where the truth is not zero, in degrees: (n,).

    A prediction of zeros, "no normal here", counts as 90 degrees.
    """
    truth = truth.to(prediction.device)
    valid = truth.abs().sum(0) > 0
    cosine = (prediction.double() * truth.double()).sum(0)[valid]
    return cosine.clamp(-1, 1).arccos().rad2deg()


class AngularMetric(Metric):
    """Mean of a function of the angle, pooled over all valid pixels of all pictures (as DSINE does)."""

    full_state_update = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pixels", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def of_angle(self, angle_deg: Tensor) -> Tensor:
        """What is averaged, (n,) from (n,)."""

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """The mean over one picture."""
        return self.of_angle(angles_deg(prediction, truth)).mean()

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        values = self.of_angle(angles_deg(prediction, truth))
        self.total += values.sum().to(self.total.device)
        self.pixels += len(values)

    def compute(self) -> Tensor:
        return (self.total / self.pixels).float()


class MeanAngularError(AngularMetric):
    """Mean angle in degrees."""

    higher_is_better = False

    def of_angle(self, angle_deg: Tensor) -> Tensor:
        return angle_deg


class AngleBelow(AngularMetric):
    """Share of pixels whose angle is below a threshold in degrees, e.g. 11.25."""

    higher_is_better = True

    def __init__(self, threshold_deg: float = 11.25, **kwargs: Any):
        super().__init__(**kwargs)
        self.threshold_deg = threshold_deg

    def of_angle(self, angle_deg: Tensor) -> Tensor:
        return (angle_deg < self.threshold_deg).double()


def edge_f(prediction: Tensor, truth: Tensor) -> Tensor:
    """F1 of edge pixels, where one that is at most 1 px away (diagonals too) is found.

    Args:
        prediction: bool (frames, height, width).
        truth: the same. Both empty scores 1, only one of them empty 0.
    """
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
        return edge_f(prediction, truth.to(prediction.device))
