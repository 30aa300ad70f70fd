"""Scores of geometry: depth up to scale and shift, angles between normals."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lavin.metrics.base import PooledMean, SampleMean, beside, finite
from lavin.metrics.edges import EdgeF  # noqa: F401  tasks.geometry finds the metrics of its three tasks here

MIN_DEPTH_M = 1e-3
MIN_DISPARITY = 1e-3
FLAT = 1e-12
"""Relative spread below which a prediction is constant: far below float32's steps, far above float64's rounding."""


def fit(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (s, t) = argmin of the sum of (s * p + t - y)², by plain least squares in float64.

    A constant prediction has scale 0 and the target's mean as shift; without pixels the shift is NaN.

    Args:
        prediction: p, (n,).
        target: y of the same pixels, (n,).
    """
    p, y = prediction.double(), target.double()
    centred = p - p.mean()
    variance = centred.square().sum()
    flat = variance <= FLAT**2 * p.square().sum()
    scale = torch.zeros_like(variance) if flat else (centred * y).sum() / variance
    return scale, y.mean() - scale * p.mean()


def align_disparity(disparity: Tensor, depth_m: Tensor, max_depth_m: float | None = None) -> Tensor:
    """Depth that a relative disparity means once its scale and shift are fitted to the truth's (Ranftl et al. 2020).

    depth = 1 / max(s * p + t, 1e-3), clipped to [1e-3, max_depth]
    """
    scale, shift = fit(disparity, 1 / depth_m.double())
    depth = 1 / (scale * disparity.double() + shift).clamp(min=MIN_DISPARITY)
    return depth.clamp(MIN_DEPTH_M, max_depth_m)


def align_depth(depth: Tensor, depth_m: Tensor, max_depth_m: float | None = None) -> Tensor:
    """Metres that a relative depth means once its scale and shift are fitted to the truth (Ke et al. 2024).

    depth = s * p + t, clipped to [1e-3, max_depth]
    """
    scale, shift = fit(depth, depth_m)
    return (scale * depth.double() + shift).clamp(MIN_DEPTH_M, max_depth_m)


class AlignedDepth(SampleMean):
    """A score of relative depth: align over the valid pixels of a picture (or of a clip, with one scale and shift),
    score, then the mean over pictures. Valid is 1e-3 < depth < ``max_depth_m``.

    Args:
        max_depth_m: where the truth ends, e.g. 10 for NYUv2; None for none.
        space: what is predicted, and so where scale and shift are fitted: ``disparity`` or ``depth``. Fitting the
            one as if it were the other costs a perfect prediction several per cent of AbsRel.

    ``update`` takes disparity (or depth) up to scale and shift, (frames, height, width), and depth in metres, NaN =
    invalid. A benchmark's crop is a matter of the truth: set what lies outside to NaN.
    ``negative_scales`` counts pictures whose prediction came out upside down: they are failures, and not repaired.

    Raises:
        ValueError: an unknown space; in ``update``: sizes differ, or the prediction is not finite at a valid pixel.
    """

    def __init__(self, max_depth_m: float | None = None, space: str = "disparity", **kwargs: Any):
        super().__init__(**kwargs)
        if space not in ("disparity", "depth"):
            raise ValueError(f"space is '{space}'; it must be 'disparity' or 'depth'")
        self.max_depth_m = max_depth_m
        self.space = space
        self.add_state("negative_scales", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def pixels(self, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and true depth of the pixels that are scored, float64 (n,)."""
        truth = beside(prediction, truth)
        valid = truth.isfinite() & (truth > MIN_DEPTH_M)
        if self.max_depth_m is not None:
            valid &= truth < self.max_depth_m
        return finite(prediction[valid].double(), f"the predicted {self.space}"), truth[valid].double()

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        found, depth_m = self.pixels(prediction, truth)
        align = align_disparity if self.space == "disparity" else align_depth
        return self.compare(align(found, depth_m, self.max_depth_m), depth_m)

    @abstractmethod
    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        """The score of aligned depth, both (n,)."""

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        super().update(prediction, truth)
        found, depth_m = self.pixels(prediction, truth)
        scale, _ = fit(found, 1 / depth_m if self.space == "disparity" else depth_m)
        self.negative_scales += int(scale < 0)


class AbsRel(AlignedDepth):
    """Mean of |found - true| / true, as a share (0.06 is 6 %)."""

    higher_is_better = False

    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        return ((found_m - true_m).abs() / true_m).mean()


class DepthMSE(AlignedDepth):
    """Mean of (found - true)², in m²."""

    higher_is_better = False

    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        return (found_m - true_m).square().mean()


class DepthRMSE(DepthMSE):
    """Root of a picture's mean of (found - true)², in metres; then the mean over pictures."""

    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        return super().compare(found_m, true_m).sqrt()


class Log10(AlignedDepth):
    """Mean of |log10 found - log10 true|."""

    higher_is_better = False

    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        return (found_m.log10() - true_m.log10()).abs().mean()


class Delta(AlignedDepth):
    """Share of pixels with max(found / true, true / found) < 1.25^k (Ladicky et al. 2014).

    Args:
        k: 1, 2 or 3.
    """

    higher_is_better = True

    def __init__(self, k: int = 1, max_depth_m: float | None = None, space: str = "disparity", **kwargs: Any):
        super().__init__(max_depth_m, space, **kwargs)
        self.k = k

    def compare(self, found_m: Tensor, true_m: Tensor) -> Tensor:
        return (torch.maximum(found_m / true_m, true_m / found_m) < 1.25**self.k).double().mean()


class Delta1(Delta):
    """Share of pixels with max(found / true, true / found) < 1.25."""

    def __init__(self, max_depth_m: float | None = None, space: str = "disparity", **kwargs: Any):
        super().__init__(1, max_depth_m, space, **kwargs)


def angles_deg(prediction: Tensor, truth: Tensor) -> Tensor:
    """Angles between unit vectors (3, frames, height, width) where the truth is not zero, in degrees: float64 (n,).

    A prediction of zeros, "no normal here", counts as 90 degrees.

    Raises:
        ValueError: sizes differ, or the prediction is not finite at a valid pixel.
    """
    truth = beside(prediction, truth)
    valid = truth.abs().sum(0) > 0
    cosine = (prediction.double() * truth.double()).sum(0)[valid]
    return finite(cosine, "the cosine to the predicted normals").clamp(-1, 1).arccos().rad2deg()


class AngularMetric(PooledMean):
    """Mean of a function of the angle, pooled over all valid pixels of all pictures (as DSINE does)."""

    @abstractmethod
    def of_angle(self, angle_deg: Tensor) -> Tensor:
        """What is averaged, (n,) from (n,)."""

    def values(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return self.of_angle(angles_deg(prediction, truth))


class MeanAngularError(AngularMetric):
    """Mean angle in degrees."""

    higher_is_better = False

    def of_angle(self, angle_deg: Tensor) -> Tensor:
        return angle_deg


class AngularRMSE(AngularMetric):
    """Root of the mean squared angle, in degrees."""

    higher_is_better = False

    def of_angle(self, angle_deg: Tensor) -> Tensor:
        return angle_deg.square()

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return super().score(prediction, truth).sqrt()

    def compute(self) -> Tensor:
        return (self.total / self.count).sqrt().float()


class AngleBelow(AngularMetric):
    """Share of pixels whose angle is below a threshold in degrees: 5, 7.5, 11.25, 22.5 or 30 in the literature."""

    higher_is_better = True

    def __init__(self, threshold_deg: float = 11.25, **kwargs: Any):
        super().__init__(**kwargs)
        self.threshold_deg = threshold_deg

    def of_angle(self, angle_deg: Tensor) -> Tensor:
        return (angle_deg < self.threshold_deg).double()


def median(values: Tensor) -> Tensor:
    """The middle of (n,) values, or the mean of the two in the middle; NaN of none."""
    n = len(values)
    if not n:
        return torch.tensor(torch.nan)
    low, high = (values.kthvalue(k).values for k in ((n + 1) // 2, n // 2 + 1))
    return (low + high) / 2


class MedianAngularError(Metric):
    """Median angle in degrees over all valid pixels of all pictures (as DSINE does).

    A median has no running sum: every angle is kept, 4 bytes a pixel (0.7 GB for NYUv2's 654 pictures).
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("angles", [], dist_reduce_fx="cat")

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """The median of one picture alone; NaN where it has no valid pixel."""
        return median(angles_deg(prediction, truth))

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        self.angles.append(angles_deg(prediction, truth).to(self.device, self.dtype))

    def compute(self) -> Tensor:
        return median(dim_zero_cat(self.angles) if len(self.angles) else torch.empty(0)).float()
