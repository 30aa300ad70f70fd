"""Scores of clips against loops over frames, objects and pixels."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from lavin.metrics import VideoF, VideoJ, VideoJF, WarpError
from lavin.metrics.video import boundary_f, contour

RNG = np.random.default_rng(0)


def clip_of_blobs(seed: int, objects: int, frames: int = 3, size: int = 20) -> np.ndarray:
    """Objects 3, 6, 9 ... as rectangles that move, the later ones in front; some leave the picture."""
    rng = np.random.default_rng(seed)
    clip = np.zeros((frames, size, size), int)
    for number in range(objects):
        y, x, height, width = *rng.integers(0, 15, 2), *rng.integers(3, 9, 2)
        for t in range(frames):
            clip[t, y + 2 * t : y + 2 * t + height, x + 2 * t : x + 2 * t + width] = 3 * (number + 1)
    return clip


def slow_contour(mask: np.ndarray) -> set[tuple[int, int]]:
    height, width = mask.shape
    points = set()
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(v < height and u < width and mask[v, u] != mask[y, x] for v, u in others):
                points.add((y, x))
    return points


def slow_boundary_f(found: np.ndarray, truth: np.ndarray) -> float:
    a, b = slow_contour(found), slow_contour(truth)
    if not a or not b:
        return float(not a and not b)
    radius = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))

    def share(points, others):
        return np.mean([any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points])

    precision, recall = share(a, b), share(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_contours_and_their_f_equal_a_loop_over_pixels():
    for density in (0.02, 0.5, 0.97):
        found, truth = RNG.random((2, 12, 15)) < density
        assert set(map(tuple, np.argwhere(contour(found)).tolist())) == slow_contour(found)
        assert boundary_f(found, truth) == pytest.approx(slow_boundary_f(found, truth), abs=1e-9)
    blob, nothing = np.zeros((2, 12, 15), bool)
    blob[3:8, 4:9] = True
    assert [boundary_f(*pair) for pair in ((blob, nothing), (nothing, blob), (nothing, nothing))] == [0, 0, 1]


def slow_scores(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """J and F of a clip: every assignment is tried, frames and objects are averaged one by one."""
    truth_valid = truth >= 0
    true, predicted = [k for k in np.unique(truth) if k > 0], [k for k in np.unique(found) if k > 0]

    def ious(t, p):
        values = []
        for frame in range(len(truth)):
            a, b = truth[frame] == t, (found[frame] == p) & truth_valid[frame]
            values.append((a & b).sum() / (a | b).sum() if (a | b).any() else 1.0)
        return values

    choices = predicted + [None] * len(true)
    best = max(
        itertools.permutations(choices, len(true)),
        key=lambda order: sum(np.mean(ious(t, p)) for t, p in zip(true, order) if p is not None),
    )
    j = np.mean([np.mean(ious(t, -5 if p is None else p)) for t, p in zip(true, best)])
    masks = [
        (truth == t, np.zeros_like(truth_valid) if p is None else (found == p) & truth_valid)
        for t, p in zip(true, best)
    ]
    f = np.mean([np.mean([slow_boundary_f(b[i], a[i]) for i in range(len(truth))]) for a, b in masks])
    return float(j), float(f)


@pytest.mark.parametrize("objects, predicted", [(2, 2), (3, 1), (1, 3), (2, 0)])
def test_j_and_f_equal_loops(objects, predicted):
    truth = clip_of_blobs(objects, objects)
    found = np.roll(clip_of_blobs(objects, predicted), 1, axis=2)
    truth[:, :3, :4] = -1
    j, f = slow_scores(found, truth)
    pair = torch.from_numpy(found), torch.from_numpy(truth)
    wanted = (j, f, (j + f) / 2)
    assert [metric().score(*pair).item() for metric in (VideoJ, VideoF, VideoJF)] == pytest.approx(wanted, abs=1e-9)


def test_frames_that_the_context_showed_are_left_out():
    truth = torch.from_numpy(clip_of_blobs(1, 2))
    wrong_first = truth.clone()
    wrong_first[0] = 0
    assert VideoJF(skip=1).score(wrong_first, truth) == 1 > VideoJF().score(wrong_first, truth)
    with pytest.raises(ValueError, match="not longer than the 3 that are skipped"):
        VideoJ(skip=3).update(truth, truth)


def test_identities_hold_for_the_whole_clip():
    """Two objects that swap numbers half way are each right in half of the frames."""
    truth = torch.zeros(4, 10, 10, dtype=torch.long)
    truth[:, :3, :3], truth[:, 6:, 6:] = 1, 2
    swapped = truth.clone()
    swapped[2:] = torch.tensor([0, 2, 1])[truth[2:]]
    assert VideoJ().score(swapped, truth).item() == pytest.approx(0.5)
    assert VideoJ().score(3 * truth, truth) == 1


def test_a_clip_without_objects_is_no_sample_and_a_single_pixel_is_one():
    metric = VideoJF()
    nothing = torch.zeros(2, 4, 4, dtype=torch.long)
    metric.update(nothing, nothing)
    assert metric.compute().isnan()
    one = nothing.clone()
    one[0, 1, 1] = 7
    metric.update(one, one)
    assert metric.compute() == 1


def test_warp_error_equals_a_loop_with_another_interpolation():
    frames, height, width = 3, 6, 7
    clip, flow = RNG.random((2, frames, height, width)), RNG.normal(0, 1.5, (2, frames, height, width))
    flow[:, 0, 2, 3] = np.nan
    values = []
    for t in range(frames - 1):
        errors = []
        for y in range(height):
            for x in range(width):
                u, v = x + flow[0, t, y, x], y + flow[1, t, y, x]
                if 0 <= u <= width - 1 and 0 <= v <= height - 1:
                    seen = [map_coordinates(channel[t + 1], [[v], [u]], order=1)[0] for channel in clip]
                    errors.append(np.mean((clip[:, t, y, x] - seen) ** 2))
        values.append(np.mean(errors))
    score = WarpError().score(torch.from_numpy(clip), torch.from_numpy(flow)).item()
    assert score == pytest.approx(np.mean(values), rel=1e-6)


def test_what_moves_with_the_flow_is_steady():
    scene = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))
    clip = torch.stack([scene[:, :, t : t + 8] for t in range(4)], 1)
    flow = torch.tensor([-1.0, 0.0]).view(2, 1, 1, 1).expand(2, 4, 8, 8)
    assert WarpError().score(clip, flow) < 1e-12 < 0.01 < WarpError().score(clip, torch.zeros(2, 4, 8, 8))
    metric = WarpError()
    metric.update(clip, torch.full((2, 4, 8, 8), torch.nan))
    assert metric.compute().isnan() and not metric.higher_is_better
    with pytest.raises(ValueError, match=r"prediction is \(4, 8, 8\) but truth is \(3, 8, 8\)"):
        metric.update(clip, flow[:, :3])
