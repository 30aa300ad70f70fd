"""Scores of optical flow: (2, frames, height, width), u right and v down in pixels; NaN in the truth is invalid."""

from __future__ import annotations

from torch import Tensor

from lavin.metrics.base import PooledMean, beside, finite


def end_point_errors(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of the predicted from the true end point, and the true flow's length, at valid pixels: px, both (n,).

    Raises:
        ValueError: sizes differ, or the prediction is not finite at a valid pixel.
    """
    truth = beside(prediction, truth)
    valid = truth.isfinite().all(0)
    found, true = finite(prediction[:, valid].double(), "the predicted flow"), truth[:, valid].double()
    return (found - true).norm(dim=0), true.norm(dim=0)


class EndPointError(PooledMean):
    """EPE: mean distance between predicted and true end points in pixels, pooled over all valid pixels."""

    higher_is_better = False

    def values(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return end_point_errors(prediction, truth)[0]


class FlowOutliers(PooledMean):
    """Fl: share of valid pixels that are off by more than 3 px and by more than 5 % of the true length (KITTI 2015)."""

    higher_is_better = False

    def values(self, prediction: Tensor, truth: Tensor) -> Tensor:
        error_px, length_px = end_point_errors(prediction, truth)
        return (error_px > 3) & (error_px > 0.05 * length_px)
