"""Scores of regions: masks, boxes as masks, class maps, instances. All are shares in [0, 1], more is better."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lavin.metrics.base import SampleMean

IGNORE = 255


def mask_iou(prediction: Tensor, truth: Tensor) -> Tensor:
    """|P and G| / |P or G| of two bool tensors of one shape; 1 where both are empty."""
    union = (prediction | truth).sum()
    return ((prediction & truth).sum() / union if union else torch.ones((), device=truth.device)).double()


class MaskIoU(SampleMean):
    """Mean over samples of the IoU of two masks, bool (frames, height, width)."""

    higher_is_better = True

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return mask_iou(prediction, truth.to(prediction.device))


class BoxIoU(MaskIoU):
    """Mean over samples of the IoU of two boxes, which are given as filled rectangles."""


def class_areas(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of every class, each int64 (256,); pixels whose truth is 255 are left out."""
    valid = truth != IGNORE
    prediction, truth = prediction[valid].long(), truth[valid].long()
    intersection = truth[prediction == truth].bincount(minlength=256)
    union = prediction.bincount(minlength=256) + truth.bincount(minlength=256) - intersection
    union[IGNORE] = 0  # predicting "none" is no class; it already counts against the true one
    return intersection, union


def mean_over_classes(intersection: Tensor, union: Tensor) -> Tensor:
    """Mean of intersection / union over the classes that occur in prediction or truth."""
    occurs = union > 0
    return (intersection[occurs] / union[occurs]).double().mean()


class MeanIoU(Metric):
    """Class-wise mIoU: areas are pooled over the whole set, then IoU per class, then the mean over classes.

    ``update`` takes class ids, int (frames, height, width); 255 in the truth is left out.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("intersection", torch.zeros(256, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("union", torch.zeros(256, dtype=torch.long), dist_reduce_fx="sum")

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """mIoU of one picture alone."""
        return mean_over_classes(*class_areas(prediction, truth.to(prediction.device)))

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        intersection, union = class_areas(prediction, truth.to(prediction.device))
        self.intersection += intersection.to(self.intersection.device)
        self.union += union.to(self.union.device)

    def compute(self) -> Tensor:
        return mean_over_classes(self.intersection, self.union).float()


def instance_ious(prediction: Tensor, truth: Tensor) -> Tensor:
    """IoU of every true instance with the predicted one that Hungarian matching gives it, 0 without: (n,).

    Args:
        prediction: int (frames, height, width), 0 = none; the numbers mean nothing but "same" and "different".
        truth: the same; negative pixels are left out.
    """
    from scipy.optimize import linear_sum_assignment

    valid = truth >= 0
    found, predicted = prediction[valid].unique(return_inverse=True)
    given, true = truth[valid].unique(return_inverse=True)
    overlap = (true * len(found) + predicted).bincount(minlength=len(given) * len(found))
    overlap = overlap.view(len(given), len(found)).double()
    union = overlap.sum(1, keepdim=True) + overlap.sum(0, keepdim=True) - overlap
    iou = (overlap / union)[given != 0][:, found != 0]
    best = torch.zeros(len(iou), dtype=torch.float64)
    rows, columns = linear_sum_assignment(iou.cpu().numpy(), maximize=True)
    best[rows] = iou.cpu()[rows, columns]
    return best


class InstanceIoU(Metric):
    """Mean over all true instances of the set of their IoU, matched within each picture (or clip).

    Instances that nobody asked for lower no IoU by themselves; they cost the true ones their pixels.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("instances", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Mean over one picture's instances; NaN where it has none."""
        return instance_ious(prediction, truth.to(prediction.device)).mean()

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        ious = instance_ious(prediction, truth.to(prediction.device))
        self.total += ious.sum().to(self.total.device)
        self.instances += len(ious)

    def compute(self) -> Tensor:
        return (self.total / self.instances).float()
