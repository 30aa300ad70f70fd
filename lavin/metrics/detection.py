"""Average precision of boxes, masks and keypoints (COCO).

torchmetrics computes it through pycocotools, a compiled dependency, and not for keypoints: so it is written out here,
once for the three, and compared with pycocotools in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lavin.metrics.base import finite
from lavin.metrics.keypoints import oks

Objects = dict[str, Tensor]
"""``labels`` int (n,) and ``boxes`` (n, 4) x0, y0, x1, y1 px or ``masks`` bool (n, ...) or ``keypoints``
(n, joints, 3); predictions have ``scores`` (n,), the truth may have ``area`` (n,) px² and ``crowd`` bool (n,)."""

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0, 1, 101)
SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""Range of areas in px², both ends included."""
LIMITS = {"boxes": 100, "masks": 100, "keypoints": 20}
"""Most detections of a class in a picture that count."""
FALSE, TRUE, IGNORED = 0, 1, 2
"""What became of a detection."""


def box_areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def over_union(intersection: np.ndarray, found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (m, n) from shared and own areas; with a crowd the union is the detection alone: it may be a part."""
    union = np.where(crowd, found[:, None], found[:, None] + true - intersection)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def box_ious(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of boxes (m, 4) with boxes (n, 4): (m, n)."""
    corner = np.minimum(found[:, None, 2:], true[:, 2:]) - np.maximum(found[:, None, :2], true[:, :2])
    return over_union(corner.clip(0).prod(-1), box_areas(found), box_areas(true), crowd)


def mask_ious(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of masks (m, pixels) with masks (n, pixels): (m, n)."""
    shared = (found.astype(np.float32) @ true.astype(np.float32).T).astype(np.float64)  # exact up to 2^24 pixels
    return over_union(shared, found.sum(1, dtype=np.float64), true.sum(1, dtype=np.float64), crowd)


def match(
    similarity: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, outside: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """What becomes of each detection at each threshold, (m, thresholds).

    Each takes the most similar true object that is left, the surest detection first. One that is not counted (wrong
    size, crowd, no labelled joint) is taken only where no other will do; then, or where there is none to take and the
    detection itself has the wrong size (``outside``), it is ignored. A crowd can be taken any number of times.

    Args:
        similarity: (m, n), the surest detection first.
        ignored, crowd: of the true objects, bool (n,).
    """
    m, n = similarity.shape
    outcome = np.where(outside[:, None], IGNORED, FALSE).repeat(len(thresholds), 1)
    free = np.ones((len(thresholds), n), bool)
    rows = np.arange(len(thresholds))
    for d in range(m if n else 0):
        near = (similarity[d] >= thresholds[:, None]) & (free | crowd)
        rank = np.where(near, similarity[d] + np.where(ignored, 0, 2), -1)
        best = n - 1 - rank[:, ::-1].argmax(1)  # the last of equals, as COCO
        taken = near[rows, best]
        free[rows[taken], best[taken]] = False
        outcome[d, taken] = np.where(ignored[best[taken]], IGNORED, TRUE)
    return outcome


def average_precision(scores: np.ndarray, outcome: np.ndarray, count: int) -> np.ndarray:
    """Mean over 101 recalls of the best precision at that recall or more, (thresholds,).

    Detections of one score come into the curve together: any order among them would depend on how the samples were
    split among processes. COCO keeps the order of the pictures there; without ties the two are the same.

    Args:
        scores: (n,).
        outcome: (n, thresholds).
        count: true objects, at least 1.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(scores[order][1:] != scores[order][:-1], True)[: len(order)]
    true, false = ((outcome[order] == kind).cumsum(0)[last] for kind in (TRUE, FALSE))
    precision = true / np.maximum(true + false, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    values = []
    for recall, curve in zip((true / count).T, best.T):
        values.append(np.append(curve, 0)[np.searchsorted(recall, RECALLS)].mean())
    return np.array(values)


class AveragePrecision(Metric):
    """COCO's AP: mean over IoU (or OKS) thresholds and over the classes that occur in the truth, in [0, 1].

    Args:
        kind: ``boxes``, ``masks`` or ``keypoints`` (with COCO's 17 joints): what is compared.
        thresholds: 0.50:0.05:0.95; ``(0.5,)`` makes it AP50.
        size: ``all``, or the APs of ``small`` (area up to 32² px²), ``medium`` or ``large`` (96² or more) objects.

    ``update`` takes the ``Objects`` of one picture. For class-agnostic AP all labels are one number. The area of an
    object is that of its mask or box where ``area`` does not say it; keypoints need it, and may have ``boxes``, for
    people without a labelled joint. Only the 100 (keypoints: 20) surest detections of a class in a picture count.

    Raises:
        ValueError: an unknown kind or size; in ``update``: a field is missing, or fields disagree in length or size.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, kind: str = "masks", thresholds: Sequence[float] = THRESHOLDS, size: str = "all", **kwargs: Any):
        super().__init__(**kwargs)
        if kind not in LIMITS or size not in SIZES:
            raise ValueError(f"kind '{kind}', size '{size}'; give one of {', '.join(LIMITS)} and {', '.join(SIZES)}")
        self.kind, self.size = kind, size
        self.thresholds = np.minimum(np.array(thresholds, np.float64), 1 - 1e-10)
        # Flat and of one type: torchmetrics stands an empty one-dimensional list in for a process without samples.
        self.set_dtype(torch.float64)
        self.add_state("detections", [], dist_reduce_fx="cat")
        self.add_state("objects", [], dist_reduce_fx="cat")

    def arrays(self, objects: Objects, needed: Sequence[str], what: str) -> dict[str, np.ndarray]:
        """The fields of one picture as numpy, masks flat."""
        missing = [name for name in needed if name not in objects]
        if missing:
            raise ValueError(f"{what} has no {' and no '.join(missing)}; AP of {self.kind} needs {', '.join(needed)}")
        lengths = {name: len(objects[name]) for name in objects}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{what} has fields of different lengths: {lengths}")
        arrays = {name: values.cpu().numpy() for name, values in objects.items()}
        for name in ("boxes", "keypoints", "scores"):
            if name in arrays:
                arrays[name] = finite(objects[name].cpu().double(), f"{what}'s {name}").numpy()
        if self.kind == "masks":
            arrays["masks"] = arrays["masks"].astype(bool).reshape(len(arrays["masks"]), -1 if lengths["masks"] else 0)
        return arrays

    def areas(self, objects: dict[str, np.ndarray]) -> np.ndarray:
        if "area" in objects:
            return objects["area"]
        if self.kind == "masks":
            return objects["masks"].sum(1)
        if self.kind == "boxes":
            return box_areas(objects["boxes"])
        points = objects["keypoints"][..., :2]
        return np.ptp(points, axis=1).prod(-1) if len(points) else np.zeros(0)

    def similarity(self, found: dict[str, np.ndarray], true: dict[str, np.ndarray], crowd: np.ndarray) -> np.ndarray:
        """(m, n) of detections and true objects."""
        if not len(found["labels"]) or not len(true["labels"]):
            return np.zeros((len(found["labels"]), len(true["labels"])))
        if self.kind == "boxes":
            return box_ious(found["boxes"], true["boxes"], crowd)
        if self.kind == "masks":
            return mask_ious(found["masks"], true["masks"], crowd)
        return keypoint_similarity(found, true)

    def outcomes(self, prediction: Objects, truth: Objects) -> tuple[np.ndarray, np.ndarray]:
        """Rows of (class, score, what became of it at each threshold), and classes of the objects that count."""
        if self.kind == "masks" and "masks" in prediction and "masks" in truth:
            sizes = [tuple(objects["masks"].shape[1:]) for objects in (prediction, truth)]
            if sizes[0] != sizes[1] and len(prediction["masks"]) and len(truth["masks"]):
                raise ValueError(f"predicted masks are {sizes[0]} but true ones {sizes[1]}; bring them to one size")
        found = self.arrays(prediction, (self.kind, "scores", "labels"), "the prediction")
        needed = (self.kind, "labels", "area") if self.kind == "keypoints" else (self.kind, "labels")
        true = self.arrays(truth, needed, "the truth")
        low, high = SIZES[self.size]
        rows, counted = [], []
        for label in np.union1d(found["labels"], true["labels"]):
            f = {name: values[found["labels"] == label] for name, values in found.items()}
            g = {name: values[true["labels"] == label] for name, values in true.items()}
            surest = np.argsort(-f["scores"], kind="stable")[: LIMITS[self.kind]]
            f = {name: values[surest] for name, values in f.items()}
            crowd = g.get("crowd", np.zeros(len(g["labels"]))).astype(bool)
            ignored = crowd | (self.areas(g) < low) | (self.areas(g) > high)
            if self.kind == "keypoints":
                ignored |= ~(g["keypoints"][..., 2] > 0).any(-1)
            outside = (self.areas(f) < low) | (self.areas(f) > high)
            outcome = match(self.similarity(f, g, crowd), ignored, crowd, outside, self.thresholds)
            rows.append(np.column_stack([np.full(len(surest), label), f["scores"], outcome]))
            counted.append(np.full((~ignored).sum(), label))
        return np.concatenate(rows or [np.zeros((0, 2 + len(self.thresholds)))]), np.concatenate(counted or [[]])

    def mean(self, detections: np.ndarray, objects: np.ndarray) -> Tensor:
        values = []
        for label in np.unique(objects):
            of_class = detections[detections[:, 0] == label]
            values.append(average_precision(of_class[:, 1], of_class[:, 2:], int((objects == label).sum())))
        return torch.tensor(np.mean(values) if values else np.nan)

    def score(self, prediction: Objects, truth: Objects) -> Tensor:
        """AP of one picture alone; NaN where it has nothing to find."""
        return self.mean(*self.outcomes(prediction, truth))

    def update(self, prediction: Objects, truth: Objects) -> None:
        detections, objects = self.outcomes(prediction, truth)
        self.detections.append(torch.from_numpy(detections.astype(np.float64).ravel()).to(self.device))
        self.objects.append(torch.from_numpy(objects.astype(np.float64)).to(self.device))

    def compute(self) -> Tensor:
        """NaN where there was nothing to find."""
        detections, objects = (
            dim_zero_cat(state).cpu().numpy() if len(state) else np.zeros(0)
            for state in (self.detections, self.objects)
        )
        return self.mean(detections.reshape(-1, 2 + len(self.thresholds)), objects).float()


def keypoint_similarity(found: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> np.ndarray:
    """OKS of detections with true people, (m, n). Of people without a labelled joint, who are only there to excuse
    detections, COCO asks how far the joints lie outside the box grown to three times its size."""
    area = torch.from_numpy(true["area"])
    points, people = torch.from_numpy(found["keypoints"]), torch.from_numpy(true["keypoints"])
    similarity = oks(points, people, area).numpy()
    if "boxes" in true:
        low, high = true["boxes"][:, :2], true["boxes"][:, 2:]
        grown = [torch.from_numpy(corner)[:, None] for corner in (low - (high - low), high + (high - low))]
        for i in np.flatnonzero(~(true["keypoints"][..., 2] > 0).any(-1)):
            inside = points[..., :2].clamp(grown[0][i], grown[1][i])
            labelled = torch.cat([inside, torch.ones_like(inside[..., :1])], -1)
            for d in range(len(points)):
                similarity[i, d] = oks(points[d : d + 1], labelled[d : d + 1], area[i : i + 1]).item()
    return similarity.T
