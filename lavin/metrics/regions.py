"""Scores of regions: masks, boxes as masks, class maps, instances. All are shares in [0, 1], more is better."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lavin.metrics.base import PooledMean, SampleMean, beside

IGNORE = 255


def areas(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of |P and G| and |P or G| of two bool tensors of one shape, float64 scalars.

    Raises:
        ValueError: sizes differ.
    """
    truth = beside(prediction, truth)
    return (prediction & truth).sum().double(), (prediction | truth).sum().double()


def mask_iou(prediction: Tensor, truth: Tensor) -> Tensor:
    """|P and G| / |P or G| of two bool tensors of one shape; 1 where both are empty."""
    intersection, union = areas(prediction, truth)
    return intersection / union if union else torch.ones_like(union)


class MaskIoU(SampleMean):
    """Mean over samples of the IoU of two masks, bool (frames, height, width).

    The mIoU of referring segmentation, and of PASCAL-5i in the visual-prompting literature (Bar et al. 2022): an
    average over episodes, not over classes.
    """

    higher_is_better = True

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return mask_iou(prediction, truth)


class BoxIoU(MaskIoU):
    """Mean over samples of the IoU of two boxes, which are given as filled rectangles."""


class PrecisionAt(SampleMean):
    """P@X of referring segmentation: share of samples whose mask has an IoU above X; 0.5, 0.6 ... 0.9 are usual."""

    higher_is_better = True

    def __init__(self, threshold: float = 0.5, **kwargs: Any):
        super().__init__(**kwargs)
        self.threshold = threshold

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return (mask_iou(prediction, truth) > self.threshold).double()


class OverallIoU(Metric):
    """oIoU (cIoU) of referring segmentation: intersections of all samples over their unions, so that large objects
    count for more. ``update`` takes two masks, bool (frames, height, width)."""

    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("intersection", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("union", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """IoU of one sample alone."""
        return mask_iou(prediction, truth)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        intersection, union = areas(prediction, truth)
        self.intersection += intersection.to(self.intersection.device)
        self.union += union.to(self.union.device)

    def compute(self) -> Tensor:
        """NaN where every mask was empty."""
        return (self.intersection / self.union).float()


def class_areas(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of every class, each int64 (256,); pixels whose truth is 255 are left out.

    Raises:
        ValueError: sizes differ, or an id is not in 0 ... 255.
    """
    truth = beside(prediction, truth)
    valid = truth != IGNORE
    prediction, truth = prediction[valid].long(), truth[valid].long()
    for name, ids in (("predicted", prediction), ("true", truth)):
        if len(ids) and not 0 <= ids.min() <= ids.max() <= IGNORE:
            raise ValueError(f"{name} classes are {int(ids.min())} ... {int(ids.max())}; they must be in 0 ... 255")
    intersection = truth[prediction == truth].bincount(minlength=256)
    union = prediction.bincount(minlength=256) + truth.bincount(minlength=256) - intersection
    union[IGNORE] = 0  # predicting "none" is no class; it already counts against the true one
    return intersection, union


def mean_over_classes(intersection: Tensor, union: Tensor) -> Tensor:
    """Mean of intersection / union over the classes that occur in prediction or truth; NaN where none does."""
    occurs = union > 0
    return (intersection[occurs].double() / union[occurs]).mean()


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

    def areas(self, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Intersection and union of every class that counts, int64 (256,), 0 elsewhere."""
        return class_areas(prediction, truth)

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """mIoU of one picture alone."""
        return mean_over_classes(*self.areas(prediction, truth))

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        intersection, union = self.areas(prediction, truth)
        self.intersection += intersection.to(self.intersection.device)
        self.union += union.to(self.union.device)

    def compute(self) -> Tensor:
        return mean_over_classes(self.intersection, self.union).float()


class ForegroundIoU(MeanIoU):
    """mIoU of the few-shot literature on PASCAL-5i (Shaban et al. 2017): intersections and unions are pooled over the
    episodes of each class, then the mean over a fold's classes; background is no class. One metric a fold.

    ``update`` takes int (frames, height, width), 0 = background and elsewhere the episode's class, 1 ... 254;
    255 in the truth is left out.
    """

    def areas(self, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        intersection, union = super().areas(prediction, truth)
        intersection[0] = union[0] = 0
        return intersection, union


class FBIoU(MeanIoU):
    """FB-IoU of the few-shot literature (Rakelly et al. 2018): mean of the foreground's and the background's IoU, each
    pooled over all episodes, whatever their class. ``update`` takes what ``ForegroundIoU`` does."""

    def areas(self, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        foreground = [torch.where(ids == IGNORE, ids, (ids > 0).to(ids.dtype)) for ids in (prediction, truth)]
        return super().areas(*foreground)


def overlaps(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels that every true segment shares with every predicted one.

    Args:
        prediction: segment of each pixel, int (n,).
        truth: the same.

    Returns:
        The true segments' numbers (g,), the predicted ones' (p,), shared pixels, int64 (g, p).
    """
    given, true = truth.unique(return_inverse=True)
    found, predicted = prediction.unique(return_inverse=True)
    shared = (true * len(found) + predicted).bincount(minlength=len(given) * len(found))
    return given, found, shared.view(len(given), len(found))


def assign(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the one-to-one matching with the largest sum, (min(g, p),) each, from (g, p)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity.cpu().numpy(), maximize=True)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def instance_ious(prediction: Tensor, truth: Tensor) -> Tensor:
    """IoU of every true instance with the predicted one that Hungarian matching gives it, 0 without: (n,).

    Args:
        prediction: int (frames, height, width), 0 = none; the numbers mean nothing but "same" and "different".
        truth: the same; negative pixels are left out.
    """
    truth = beside(prediction, truth)
    valid = truth >= 0
    given, found, shared = overlaps(prediction[valid], truth[valid])
    union = shared.sum(1, keepdim=True) + shared.sum(0, keepdim=True) - shared
    iou = (shared.double() / union)[given != 0][:, found != 0].cpu()
    best = torch.zeros(len(iou), dtype=torch.float64)
    rows, columns = assign(iou)
    best[rows] = iou[rows, columns]
    return best


class InstanceIoU(PooledMean):
    """Mean over all true instances of the set of their IoU, matched within each picture (or clip).

    Instances that nobody asked for lower no IoU by themselves; they cost the true ones their pixels.
    """

    higher_is_better = True

    def values(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return instance_ious(prediction, truth)
