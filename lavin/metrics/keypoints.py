"""Scores of keypoints: object keypoint similarity (COCO) and the share of correct keypoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lavin.metrics.base import PooledMean, finite
from lavin.metrics.regions import assign

People = dict[str, Tensor]
"""``keypoints``: (people, joints, 3), x and y in pixels and v, 0 = not there; in the truth also ``area`` (people,) in
px² and ``boxes`` (people, 4), x0, y0, x1, y1."""

COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035),  # nose, eyes, ears
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),  # shoulders, elbows, wrists
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),  # hips, knees, ankles
)
"""Spread of each joint's annotations, as a share of the object's size (COCO)."""


def oks(found: Tensor, true: Tensor, area: Tensor, sigmas: Sequence[float] = COCO_SIGMAS) -> Tensor:
    """Similarity of every true person to every found one, in [0, 1]: float64 (n, m); 0 where no joint is labelled.

        OKS = mean over joints with v > 0 of exp(-d² / (2 * area * (2 * sigma)²))

    Args:
        found: (m, joints, 2 or more), x and y in pixels; whether they were seen is not asked.
        true: (n, joints, 3), x, y, v.
        area: of the true people, (n,) px².

    Raises:
        ValueError: the joints do not agree, or those found are not finite.
    """
    if not found.shape[1] == true.shape[1] == len(sigmas):
        raise ValueError(f"{found.shape[1]} predicted and {true.shape[1]} true joints, but {len(sigmas)} sigmas")
    found, true = finite(found[..., :2].double(), "the predicted keypoints"), true.to(found.device).double()
    spread = (2 * torch.tensor(sigmas, dtype=torch.float64, device=found.device)).square()
    squared = (true[:, None, :, :2] - found).square().sum(-1)
    tiny = torch.finfo(torch.float64).eps  # an area of 0 must not divide by 0, and COCO adds just this
    similarity = (-squared / (2 * (area.to(found.device).double()[:, None, None] + tiny) * spread)).exp()
    labelled = (true[:, None, :, 2] > 0).double()
    return (similarity * labelled).sum(-1) / labelled.sum(-1).clamp(min=1)


def labelled_people(people: People) -> People:
    """Those with at least one labelled joint."""
    keep = (people["keypoints"][..., 2] > 0).any(-1)
    return {name: values[keep] for name, values in people.items()}


class MatchedPeople(PooledMean):
    """Something of every true person and the found one that it is matched to, one to one with the largest sum of OKS.

    ``update`` takes two ``People``; true people without a labelled joint are left out.

    Args:
        sigmas: as in ``oks``; of other skeletons than COCO's, their own.
    """

    higher_is_better = True

    def __init__(self, sigmas: Sequence[float] = COCO_SIGMAS, **kwargs: Any):
        super().__init__(**kwargs)
        self.sigmas = tuple(sigmas)

    @abstractmethod
    def of_people(self, similarity: Tensor, found: Tensor, true: People) -> Tensor:
        """What matched people bring: OKS (n,), found keypoints (n, joints, 3), truth of n people -> (n, ...).

        A person that nobody found has OKS 0 and joints with v = 0.
        """

    def values(self, prediction: People, truth: People) -> Tensor:
        truth = labelled_people(truth)
        found, true = prediction["keypoints"].cpu(), truth["keypoints"].cpu()
        similarity = oks(found, true, truth["area"].cpu(), self.sigmas)
        rows, columns = assign(similarity)
        best, matched = similarity.new_zeros(len(true)), torch.zeros_like(true, dtype=torch.float64)
        best[rows], matched[rows] = similarity[rows, columns], found[columns].double()
        return self.of_people(best, matched, truth).flatten()


class MeanOKS(MatchedPeople):
    """Mean over all true people of the OKS of the found one, 0 without. ``AveragePrecision`` scores false ones too."""

    def of_people(self, similarity: Tensor, found: Tensor, true: People) -> Tensor:
        return similarity


class PCK(MatchedPeople):
    """Share of labelled joints that are found within ``alpha`` times the longer side of the person's box
    (Yang and Ramanan 2013). A joint with predicted v = 0 is missed.

    Args:
        alpha: 0.2 is usual for whole bodies, 0.1 and 0.05 are strict.
    """

    def __init__(self, alpha: float = 0.2, sigmas: Sequence[float] = COCO_SIGMAS, **kwargs: Any):
        super().__init__(sigmas, **kwargs)
        self.alpha = alpha

    def of_people(self, similarity: Tensor, found: Tensor, true: People) -> Tensor:
        joints, boxes = true["keypoints"].cpu().double(), true["boxes"].cpu().double()
        longer_side = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
        distance = (found[..., :2] - joints[..., :2]).norm(dim=-1)
        correct = (distance <= self.alpha * longer_side) & (found[..., 2] > 0)
        return correct[joints[..., 2] > 0]
