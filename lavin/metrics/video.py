"""Scores of clips: masks of objects through time (DAVIS), and whether a predicted clip flickers."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from lavin.metrics.base import SampleMean, beside, finite
from lavin.metrics.regions import assign

BOUNDARY_TOLERANCE = 0.008
"""Share of the diagonal by which a boundary may be off (DAVIS)."""


def frame_ious(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """IoU of every true object with every predicted one in each frame; 1 where both are absent.

    Args:
        prediction: int (frames, height, width), 0 = none; numbers are objects of the clip.
        truth: the same, negative = left out.

    Returns:
        True numbers (g,), predicted numbers (p,), IoU, float64 (g, p, frames).
    """
    given, true = truth.unique(return_inverse=True)
    found, predicted = prediction.unique(return_inverse=True)
    frame = torch.arange(len(truth), device=truth.device).view(-1, 1, 1)
    cell = ((frame * len(given) + true) * len(found) + predicted)[truth >= 0]
    table = (len(truth), len(given), len(found))
    shared = cell.bincount(minlength=math.prod(table)).view(table)
    union = shared.sum(2, keepdim=True) + shared.sum(1, keepdim=True) - shared
    iou = torch.where(union > 0, shared.double() / union, 1)
    return given[given > 0], found[found > 0], iou[:, given > 0][:, :, found > 0].movedim(0, -1)


def contour(masks: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or both: bool (..., height, width), as in DAVIS."""
    right, below, both = (np.zeros_like(masks) for _ in range(3))
    right[..., :-1] = masks[..., 1:]
    below[..., :-1, :] = masks[..., 1:, :]
    both[..., :-1, :-1] = masks[..., 1:, 1:]
    edges = (masks ^ right) | (masks ^ below) | (masks ^ both)
    edges[..., -1, :] = (masks ^ right)[..., -1, :]
    edges[..., -1] = (masks ^ below)[..., -1]
    edges[..., -1, -1] = False
    return edges


def boundary_f(prediction: np.ndarray, truth: np.ndarray) -> float:
    """F of the boundaries of two masks, bool (height, width), with 0.8 % of the diagonal as slack (DAVIS, 2016).

    Both without boundary score 1, only one of them 0.
    """
    from scipy.ndimage import distance_transform_edt

    found, true = contour(prediction), contour(truth)
    if not found.any() or not true.any():
        return float(not found.any() and not true.any())
    radius_px = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape))
    precision = (distance_transform_edt(~true)[found] <= radius_px).mean()
    recall = (distance_transform_edt(~found)[true] <= radius_px).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class VideoObjects(SampleMean):
    """Mean over frames, then over a clip's true objects, then over clips.

    Each true object is compared with the predicted one that Hungarian matching over the clip gives it (by the mean
    over frames of their IoU), or with an empty mask. Frames where both are absent count as found.

    Args:
        skip: frames at the start that are left out, because the context showed them.

    ``update`` takes int (frames, height, width), 0 = none; negative pixels of the truth are left out.

    Raises:
        ValueError: in ``update``: sizes differ, or no frame is left.
    """

    higher_is_better = True

    def __init__(self, skip: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.skip = skip

    @abstractmethod
    def of_object(self, ious: Tensor, prediction: Tensor, truth: Tensor) -> Tensor:
        """Score of one object in every frame, (frames,), from its IoU there and its masks, bool (f, height, width)."""

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        truth = beside(prediction, truth)[self.skip :]
        prediction = prediction[self.skip :]
        if not len(truth):
            raise ValueError(f"no frame is left to score: the clip is not longer than the {self.skip} that are skipped")
        given, found, ious = frame_ious(prediction, truth)
        rows, columns = assign(ious.mean(-1))
        partner = dict(zip(rows.tolist(), columns.tolist()))
        scores = []
        for i, number in enumerate(given):
            mask, seen = truth == number, torch.zeros_like(truth, dtype=torch.bool)
            iou = (~mask.flatten(1).any(1)).double()  # what an empty mask has
            if i in partner:
                seen, iou = (prediction == found[partner[i]]) & (truth >= 0), ious[i, partner[i]]
            scores.append(self.of_object(iou, seen, mask).mean())
        return torch.stack(scores).mean() if scores else torch.tensor(torch.nan)


def boundary_scores(prediction: Tensor, truth: Tensor) -> Tensor:
    """``boundary_f`` of every frame, float64 (frames,)."""
    pairs = zip(prediction.cpu().numpy(), truth.cpu().numpy())
    return torch.tensor([boundary_f(found, true) for found, true in pairs], dtype=torch.float64)


class VideoJ(VideoObjects):
    """J: IoU of the masks."""

    def of_object(self, ious: Tensor, prediction: Tensor, truth: Tensor) -> Tensor:
        return ious


class VideoF(VideoObjects):
    """F: F-measure of the masks' boundaries."""

    def of_object(self, ious: Tensor, prediction: Tensor, truth: Tensor) -> Tensor:
        return boundary_scores(prediction, truth)


class VideoJF(VideoObjects):
    """J&F: the mean of J and F."""

    def of_object(self, ious: Tensor, prediction: Tensor, truth: Tensor) -> Tensor:
        return (ious.cpu() + boundary_scores(prediction, truth)) / 2


def warp_back(frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Frames seen from the ones before: the values at the flow's end points, bilinear.

    Args:
        frames: (n, channels, height, width).
        flow: (n, 2, height, width), from the frames before to these, in pixels; NaN = invalid.

    Returns:
        Warped frames, and where they are known: bool (n, height, width); elsewhere they are 0.
    """
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ends = torch.stack([x, y]).to(flow) + flow
    limits = torch.tensor([width - 1, height - 1]).to(flow).view(2, 1, 1)
    known = ((ends >= 0) & (ends <= limits)).all(1)  # NaN is neither
    grid = (2 * ends / limits.clamp(min=1) - 1).movedim(1, -1).nan_to_num(0)
    return grid_sample(frames, grid, align_corners=True) * known.unsqueeze(1), known


class WarpError(SampleMean):
    """Temporal consistency: mean squared difference between a predicted frame and the next one, brought back by the
    true flow (Lai et al. 2018). Over channels and known pixels of a frame, then over frames, then over
    clips, in the square of the clip's own unit. 0 is steady, but so is a constant clip: report an
    accuracy beside it.

    ``update`` takes a clip (channels, frames, height, width), and the flow of each frame to the next one,
    (2, frames, height, width) in pixels, NaN where invalid or hidden in the next frame; the last one is not used.

    Raises:
        ValueError: in ``update``: frames or sizes differ, or the clip is not finite.
    """

    higher_is_better = False

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        beside(prediction[0], truth[0])
        if len(truth) != 2:
            raise ValueError(f"flow is {tuple(truth.shape)}; it must be (2, frames, height, width)")
        frames = finite(prediction.double(), "the predicted clip").transpose(0, 1)
        flow = truth.to(frames).transpose(0, 1)
        warped, known = warp_back(frames[1:], flow[:-1])
        squared = (frames[:-1] - warped).square().mean(1) * known
        pixels = known.flatten(1).sum(1)
        return (squared.flatten(1).sum(1) / pixels)[pixels > 0].mean()
