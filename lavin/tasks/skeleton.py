"""POSE: people as coloured joints and grey bones on black.

Joints are COCO's 17, left before right: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
Coordinates are in pixels from the picture's top left corner, so that pixel (row, column) has its centre at
(column + 0.5, row + 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lavin.tasks.codes import clip_from_levels, levels_from_clip

JOINTS = 17
BONES = (
    ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10))
    + ((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))
)  # fmt: skip
"""COCO's 19 pairs of joints: legs, hips, trunk, arms, face, ears to shoulders."""
COLOURS = (
    ((255, 0, 0), (255, 128, 0), (255, 255, 0), (128, 255, 0), (0, 255, 0), (0, 255, 128), (0, 255, 255))
    + ((0, 128, 255), (0, 0, 255), (128, 0, 255), (255, 0, 255), (255, 0, 128), (255, 128, 128))
    + ((128, 255, 128), (128, 128, 255), (255, 255, 255), (128, 0, 0))
)  # fmt: skip
"""Of each joint; any two, and grey and black, are at least 127 levels apart in some channel."""
TABLE = ((0, 0, 0), (128, 128, 128), *COLOURS)
BONE = 1
"""Number of grey in ``TABLE``; joint j is number 2 + j."""
LEAST_DRAWN = 0.8
"""Share of a bone's pixels that must be drawn for its joints to be one person's."""
MOST_APART = 1 / 6
"""Share of the shorter side within which joints that no drawn bone joins are taken for one person's."""
LEAST_DISC = 0.25
"""Share of a disc that must show to be taken for a joint."""


class People(dict[str, Tensor]):
    """The people of one picture, as the metrics take them, and the picture's size.

    Args:
        keypoints: float32 (people, 17, 3): x, y in pixels and v, 0 = not labelled, 1 = hidden, 2 = visible.
        area: float32 (people,), px² of each.
        boxes: float32 (people, 4): x0, y0, x1, y1 in pixels.
        size: (height, width) of the picture.
    """

    def __init__(self, keypoints: Tensor, area: Tensor, boxes: Tensor, size: tuple[int, int]):
        super().__init__(keypoints=keypoints, area=area, boxes=boxes)
        self.size = tuple(size)

    def resized(self, size: tuple[int, int]) -> People:
        """The same people in a picture resized to (height, width)."""
        scale_y, scale_x = (new / old for new, old in zip(size, self.size, strict=True))
        keypoints = self["keypoints"] * torch.tensor([scale_x, scale_y, 1.0])
        boxes = self["boxes"] * torch.tensor([scale_x, scale_y, scale_x, scale_y])
        return People(keypoints, self["area"] * scale_x * scale_y, boxes, size)


def disc_radius(side: int) -> float:
    """Radius of a joint in pixels, max(2, S / 85)."""
    return max(2.0, side / 85)


def bone_width(side: int) -> float:
    """Width of a bone in pixels, max(1, S / 128)."""
    return max(1.0, side / 128)


# --- Drawing ----------------------------------------------------------------------------------------------------------


def encode_pose(people: People) -> Tensor:
    """POSE: clip (3, 1, height, width), without antialiasing: a pixel is drawn where its centre is covered.

    Larger people come first, so that smaller ones lie over them; of each, bones first, then joints in COCO's order.
    Joints with v = 0 and their bones are left out. S, of the widths, is the picture's shorter side.
    """
    side = min(people.size)
    canvas = np.zeros(people.size, np.uint8)
    for person in people["area"].argsort(descending=True, stable=True).tolist():
        joints = people["keypoints"][person].double().numpy()
        labelled = joints[:, 2] > 0
        bones = [(a, b) for a, b in BONES if labelled[a] and labelled[b]]
        _draw_bones(canvas, joints[np.array(bones, int).reshape(-1, 2), :2], bone_width(side))
        _draw_discs(canvas, joints[labelled, :2], disc_radius(side), 2 + labelled.nonzero()[0])
    return clip_from_levels(torch.tensor(TABLE)[torch.from_numpy(canvas).long()].permute(2, 0, 1).unsqueeze(1))


def _draw_bones(canvas: np.ndarray, ends: np.ndarray, width_px: float) -> None:
    """Grey where a pixel's centre is at most half a width from some segment; ends (bones, 2, 2) of (x, y).

    Only pixels near the segments are looked at: for each step along a bone's longer axis, a few across it.
    """
    if not len(ends):
        return
    steep = np.abs(ends[:, 1, 1] - ends[:, 0, 1]) > np.abs(ends[:, 1, 0] - ends[:, 0, 0])
    ends = np.where(steep[:, None, None], ends[..., ::-1], ends)  # now every bone runs along its first coordinate
    start, direction = ends[:, 0, :, None], (ends[:, 1] - ends[:, 0])[..., None]
    length = np.maximum(np.abs(direction[:, 0]), 1e-12)
    half = width_px / 2

    first = np.floor(ends[..., 0].min(1) - half)[:, None]
    along = first + np.arange(int(np.ceil(length.max() + width_px)) + 2)  # (bones, steps)
    t = ((along + 0.5 - start[:, 0]) * np.sign(direction[:, 0]) / length).clip(0, 1)
    reach = int(np.ceil(half * np.sqrt(2))) + 1
    across = np.floor(start[:, 1] + t * direction[:, 1])[..., None] + np.arange(-reach, reach + 1)
    along = np.broadcast_to(along[..., None], across.shape)

    off_along, off_across = along + 0.5 - start[:, :1], across + 0.5 - start[:, 1:]
    du, dv = direction[:, :1], direction[:, 1:]
    t = ((off_along * du + off_across * dv) / np.maximum(du**2 + dv**2, 1e-12)).clip(0, 1)
    covered = (off_along - t * du) ** 2 + (off_across - t * dv) ** 2 <= half**2
    x, y = (np.where(steep[:, None, None], *pair)[covered] for pair in ((across, along), (along, across)))
    _put(canvas, x, y, np.full(len(x), BONE))


def _draw_discs(canvas: np.ndarray, centres: np.ndarray, radius_px: float, numbers: np.ndarray) -> None:
    """Every disc's number where a pixel's centre is at most a radius from its own; later discs lie over earlier."""
    reach = int(np.ceil(radius_px)) + 1
    x, y = (np.floor(centres)[:, :, None] + np.arange(-reach, reach + 1)).transpose(1, 0, 2)
    off_x, off_y = x + 0.5 - centres[:, :1], y + 0.5 - centres[:, 1:]
    disc, row, column = (off_y[:, :, None] ** 2 + off_x[:, None] ** 2 <= radius_px**2).nonzero()
    _put(canvas, x[disc, column], y[disc, row], numbers[disc])


def _put(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, numbers: np.ndarray) -> None:
    """Write numbers where they fall on the canvas; of several at one pixel the last stays."""
    inside = (x >= 0) & (x < canvas.shape[1]) & (y >= 0) & (y < canvas.shape[0])
    canvas[y[inside].astype(int), x[inside].astype(int)] = numbers[inside]


# --- Reading ----------------------------------------------------------------------------------------------------------


def decode_pose(clip: Tensor, single: bool = False) -> People:
    """The people of a clip's first frame.

    A pixel belongs to the nearest of the joints' colours, grey and black, by the largest difference of a channel; a
    joint is the centroid of an 8-connected component of its colour. Joints are one person's where at least 80 % of the
    pixels of a bone between them (its ends' discs apart) are drawn; best bones join first, short ones before long
    ones, and never two joints of one kind. What is left over, as where a joint between is hidden, joins what is
    nearest within a sixth of the picture's shorter side. Exact up to 63 levels; within 0.7 px where a disc is not
    covered.

    Args:
        single: there is only one person: take the largest component of each colour.
    """
    levels = levels_from_clip(clip[:, 0])
    table = torch.tensor(TABLE, dtype=torch.float32, device=clip.device)
    difference = (levels.unsqueeze(0) - table.view(-1, 3, 1, 1)).abs().amax(1)
    numbers = difference.argmin(0).cpu().numpy()
    side = min(numbers.shape)
    radius = disc_radius(side)
    found = [_components(numbers == 2 + joint, LEAST_DISC * np.pi * radius**2) for joint in range(JOINTS)]
    if single:
        groups = [{joint: 0 for joint in range(JOINTS) if len(found[joint])}]
    else:
        groups = _join(found, _bones_drawn(found, numbers > 0, radius) + _neighbours(found, side * MOST_APART))
    keypoints = torch.zeros(len(groups), JOINTS, 3)
    for person, group in zip(keypoints, groups, strict=True):
        for joint, place in group.items():
            person[joint] = torch.tensor([*found[joint][place], 2.0])
    keypoints = keypoints[(keypoints[..., 2] > 0).any(1)]
    boxes = _boxes(keypoints)
    return People(keypoints, (boxes[:, 2:] - boxes[:, :2]).prod(1), boxes, numbers.shape)


def _components(mask: np.ndarray, least_px: float) -> np.ndarray:
    """Centroids (n, 2) of (x, y) of the mask's 8-connected components, the largest first."""
    from scipy.ndimage import label

    numbers, _ = label(mask, np.ones((3, 3)))
    y, x = numbers.nonzero()
    which = numbers[y, x] - 1
    area = np.bincount(which)
    centroids = np.stack([np.bincount(which, x + 0.5), np.bincount(which, y + 0.5)], 1) / area[:, None]
    order = np.argsort(-area, kind="stable")
    return centroids[order][area[order] >= least_px]


Link = tuple[tuple[int, int], tuple[int, int]]
"""Two joints that may be one person's, each a (joint, place)."""


def _bones_drawn(found: Sequence[np.ndarray], drawn: np.ndarray, radius_px: float) -> list[Link]:
    """((joint, place), (joint, place)) of every bone that is drawn, the best first."""
    from scipy.ndimage import binary_dilation

    # one pixel of slack: centroids are off by a fraction of a pixel, and a bone may be only one pixel wide
    drawn = binary_dilation(drawn, np.ones((3, 3)))
    bones = []
    for a, b in BONES:
        for i, start in enumerate(found[a]):
            for j, end in enumerate(found[b]):
                share, length = _share_drawn(drawn, start, end, radius_px)
                if share >= LEAST_DRAWN:
                    bones.append((-share, length, (a, i), (b, j)))
    return [ends for *_, start, end in sorted(bones) for ends in [(start, end)]]


def _share_drawn(drawn: np.ndarray, start: np.ndarray, end: np.ndarray, radius_px: float) -> tuple[float, float]:
    """Share of the pixels between two joints' discs that are drawn, 1 where there are none; and the bone's length."""
    length = float(np.hypot(*(end - start)))
    between = np.arange(radius_px, length - radius_px, 1.0)
    if not len(between):
        return 1.0, length
    x, y = np.floor(start + between[:, None] * (end - start) / length).astype(int).T
    return float(drawn[y, x].mean()), length


def _neighbours(found: Sequence[np.ndarray], most_px: float) -> list[Link]:
    """Every two joints of different kinds that are at most so far apart, the nearest first."""
    members = [(joint, place) for joint, places in enumerate(found) for place in range(len(places))]
    if not members:
        return []
    at, kind = np.concatenate(list(found)), np.array([joint for joint, _ in members])
    distance = np.hypot(*(at[:, None] - at).transpose(2, 0, 1))
    one, other = np.triu((distance <= most_px) & (kind[:, None] != kind)).nonzero()
    order = distance[one, other].argsort(kind="stable")
    return [(members[i], members[j]) for i, j in zip(one[order], other[order], strict=True)]


def _join(found: Sequence[np.ndarray], links: Sequence[Link]) -> list[dict[int, int]]:
    """Groups of joints, each a mapping from joint to place: every joint alone at first, then merged along links."""
    group = {(joint, place): {joint: place} for joint in range(JOINTS) for place in range(len(found[joint]))}
    for start, end in links:
        one, other = group[start], group[end]
        if one is other or one.keys() & other.keys():
            continue
        one |= other
        for member in other.items():
            group[member] = one
    return list({id(members): members for members in group.values()}.values())


def _boxes(keypoints: Tensor) -> Tensor:
    """Rectangles (people, 4) around the joints that are there, at least one pixel wide and high."""
    hidden = keypoints[..., 2:] == 0
    low = keypoints[..., :2].masked_fill(hidden, torch.inf).amin(1)
    high = keypoints[..., :2].masked_fill(hidden, -torch.inf).amax(1)
    return torch.cat([low, torch.maximum(high, low + 1)], 1)
