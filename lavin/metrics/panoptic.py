"""Panoptic quality: are the segments found, and how well do they fit (Kirillov et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lavin.metrics.base import beside
from lavin.metrics.regions import overlaps

CLASSES = 256
SEGMENTS = 1000
"""Numbers that a label has for the segments of a class."""
VOID = -1
"""Of a crowd of class c, VOID - 1 - c."""


class Matches(NamedTuple):
    """What panoptic quality is made of, per class, float64 (256,)."""

    iou: Tensor
    """Sum of the true positives' IoU."""
    tp: Tensor
    fp: Tensor
    fn: Tensor

    def quality(self) -> dict[str, Tensor]:
        """PQ = SQ * RQ, SQ = sum of IoU / TP and RQ = TP / (TP + FP / 2 + FN / 2), per class; NaN where nothing is."""
        occurs = self.tp + self.fp + self.fn > 0
        sq = torch.where(occurs, self.iou / self.tp.clamp(min=1), torch.nan)
        rq = self.tp / (self.tp + self.fp / 2 + self.fn / 2)
        return {"PQ": sq * rq, "SQ": sq, "RQ": rq}


def per_class(classes: Tensor, values: Tensor) -> Tensor:
    """Sum of values (n,) for each of their classes, float64 (256,)."""
    return torch.zeros(CLASSES, dtype=torch.float64, device=values.device).index_add_(0, classes, values.double())


def match_segments(prediction: Tensor, truth: Tensor) -> Matches:
    """True and false positives and false negatives of one picture, as ``PanopticQuality`` counts them.

    Raises:
        ValueError: sizes differ, or labels are out of range.
    """
    truth = beside(prediction, truth)
    for name, labels, lowest in (("predicted", prediction, VOID), ("true", truth, VOID - CLASSES)):
        if labels.numel() and not lowest <= labels.min() <= labels.max() < CLASSES * SEGMENTS:
            raise ValueError(
                f"{name} labels are {int(labels.min())} ... {int(labels.max())}; they must be {VOID} = void "
                f"or {SEGMENTS} * class + number with classes below {CLASSES}"
            )
    given, found, shared = overlaps(prediction.flatten().long(), truth.flatten().long())
    shared = shared.double()
    crowd = given < VOID
    given_class = torch.where(crowd, VOID - 1 - given, given.div(SEGMENTS, rounding_mode="floor"))
    found_class = found.div(SEGMENTS, rounding_mode="floor")
    true, predicted = given >= 0, found >= 0

    void = shared[given == VOID].sum(0)
    same = given_class[:, None] == found_class
    iou = shared / (shared.sum(1, keepdim=True) + shared.sum(0) - shared - void)
    matched = (iou > 0.5) & same & true[:, None] & predicted
    forgiven = void + (shared * (same & crowd[:, None])).sum(0) > shared.sum(0) / 2
    hit = matched.any(0)
    return Matches(
        per_class(found_class[hit], torch.where(matched, iou, 0).sum(0)[hit]),
        per_class(found_class[hit], hit[hit]),
        per_class(*(x[predicted & ~hit & ~forgiven] for x in (found_class, predicted))),
        per_class(*(x[true & ~matched.any(1)] for x in (given_class, true))),
    )


class PanopticQuality(Metric):
    """PQ, SQ or RQ: per class over the whole set, then the mean over the classes that occur. In [0, 1].

    Segments match where their class is one and IoU > 0.5, the union without the truth's void; a predicted segment
    without a match is dropped if more than half of it lies on void or on a crowd of its class. torchmetrics' class of
    this name has no crowds, and also forgives what the *prediction* leaves void, which the paper does not.

    Args:
        measure: ``PQ``, ``SQ`` or ``RQ``.
        classes: those that the mean is taken over, e.g. the things; None for all.

    ``update`` takes int (frames, height, width), 1000 * class + number of the segment, number 0 for stuff, whose pixels
    are one segment a class; classes are 0 ... 255 and -1 is void. In the truth -2 - class is a crowd of that class.
    A clip is one picture: its segments are tubes.

    Raises:
        ValueError: an unknown measure; in ``update``: sizes differ, or labels are out of range.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, measure: str = "PQ", classes: Sequence[int] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if measure not in ("PQ", "SQ", "RQ"):
            raise ValueError(f"measure is '{measure}'; it must be PQ, SQ or RQ")
        self.measure = measure
        self.classes = list(range(CLASSES) if classes is None else classes)
        for name in Matches._fields:
            self.add_state(name, torch.zeros(CLASSES, dtype=torch.float64), dist_reduce_fx="sum")

    def mean(self, matches: Matches) -> Tensor:
        """The measure's mean over the classes that occur; NaN where none does."""
        return matches.quality()[self.measure][self.classes].nanmean()

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """The measure of one picture alone."""
        return self.mean(match_segments(prediction, truth))

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        for name, value in match_segments(prediction, truth)._asdict().items():
            getattr(self, name).add_(value.to(self.device))

    def compute(self) -> Tensor:
        return self.mean(Matches(self.iou, self.tp, self.fp, self.fn)).float()
