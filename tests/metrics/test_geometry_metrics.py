"""Depth, normal and edge scores against textbook formulas."""

import numpy as np
import pytest
import torch

from lavin.metrics import AbsRel, AngleBelow, Delta1, EdgeF, MeanAngularError
from lavin.metrics.geometry import align_disparity
from lavin.tasks import codes

RNG = np.random.default_rng(0)


def room() -> torch.Tensor:
    """Metric depth of a room, 0.7 ... 9.9 m, with a few invalid pixels."""
    y, x = np.mgrid[0:60, 0:80]
    depth = np.clip(np.minimum(120 / (y - 10).clip(4), 1.5 + 9 * np.abs(x - 15) / 65), 0.7, 9.9)
    depth[:3, :3] = np.nan
    return torch.from_numpy(depth).unsqueeze(0)


def textbook(disparity, depth, max_depth=None):
    """AbsRel and delta1 of one picture, aligned by numpy's own least squares."""
    p, d = disparity.numpy().ravel(), depth.numpy().ravel()
    valid = np.isfinite(d) & (d > 1e-3) & (d < (max_depth or np.inf))
    p, d = p[valid].astype(np.float64), d[valid]
    scale, shift = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), 1 / d, rcond=None)[0]
    found = np.clip(1 / np.maximum(scale * p + shift, 1e-3), 1e-3, max_depth or np.inf)
    return np.mean(np.abs(found - d) / d), np.mean(np.maximum(found / d, d / found) < 1.25)


@pytest.mark.parametrize("max_depth_m", [None, 8.0])
def test_depth_scores_equal_the_textbook(max_depth_m):
    depth = room()
    disparity = (1 / depth + torch.from_numpy(RNG.normal(0, 0.1, depth.shape))).nan_to_num(0)
    wanted = textbook(disparity, depth, max_depth_m)
    assert AbsRel(max_depth_m).score(disparity, depth).item() == pytest.approx(wanted[0], rel=1e-6)
    assert Delta1(max_depth_m).score(disparity, depth).item() == pytest.approx(wanted[1], abs=1e-6)


def test_scale_and_shift_of_the_prediction_do_not_matter():
    depth = room()
    disparity = (1 / depth).nan_to_num(0) + 0.05 * torch.from_numpy(RNG.random(depth.shape))
    scores = [AbsRel().score(a * disparity + b, depth).item() for a, b in [(1, 0), (0.3, 7), (25, -4)]]
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-6)


def test_the_alignment_space_must_match_the_code():
    """Perfect ground truth drawn as DISP: tiny when aligned in disparity, large when fitted to depth itself."""
    depth = room()
    shown = codes.decode_disparity(codes.encode_disparity(depth)).double()
    assert AbsRel().score(shown, depth) < 0.005 and Delta1().score(shown, depth) > 0.999
    valid = depth.isfinite()
    line = np.polyfit(shown[valid], depth[valid], 1)
    in_depth_space = np.mean(np.abs(np.polyval(line, shown[valid]) - depth[valid].numpy()) / depth[valid].numpy())
    assert in_depth_space > 0.05


def test_aligned_depth_is_clipped():
    depth = torch.tensor([1.0, 2.0, 4.0, 8.0])
    found = align_disparity(torch.tensor([1.0, 0.5, 0.1, -0.5]), depth, max_depth_m=10)
    assert found.max() == 10 and found.min() >= 1e-3
    assert align_disparity(torch.tensor([1.0, 0.5, 0.1, -0.5]), depth).max() <= 1000


def test_upside_down_disparity_is_counted_and_a_flat_one_is_the_constant_plane():
    depth = room()
    metric = AbsRel()
    metric.update(-(1 / depth).nan_to_num(0), depth)
    for _ in range(2):
        metric.update((1 / depth).nan_to_num(0), depth)
    assert metric.negative_scales == 1
    metric.update(torch.ones_like(depth), depth)
    valid = depth[depth.isfinite()]
    constant = 1 / (1 / valid).mean()
    wanted = ((constant - valid).abs() / valid).mean() / 4  # the others fit perfectly, one upside down
    assert metric.compute().item() == pytest.approx(wanted.item(), rel=1e-4)


def test_a_picture_without_depth_is_no_sample():
    metric = AbsRel()
    metric.update((1 / room()).nan_to_num(0), room())
    metric.update(torch.ones(1, 4, 4), torch.full((1, 4, 4), torch.nan))
    assert metric.samples == 1 and metric.compute().item() == pytest.approx(0, abs=1e-6)


def test_one_scale_and_shift_serve_a_whole_clip():
    """A frame whose disparity is off by itself cannot be repaired by a fit of its own."""
    clip = torch.cat([room(), room()])
    disparity = (1 / clip).nan_to_num(0)
    disparity[1] *= 2
    assert AbsRel().score(disparity[:1], clip[:1]) < 1e-6 < 0.05 < AbsRel().score(disparity, clip)


def tilted(degrees: float, pixels: int) -> torch.Tensor:
    angle = np.radians(degrees)
    return torch.tensor([np.sin(angle), 0, np.cos(angle)]).view(3, 1, 1, 1).expand(3, 1, 1, pixels)


def test_angles_are_pooled_over_pixels_and_invalid_truth_is_left_out():
    mean, below = MeanAngularError(), AngleBelow(11.25)
    for metric in (mean, below):
        metric.update(tilted(10, 3), tilted(0, 3))
        metric.update(tilted(50, 1), tilted(0, 1))
        metric.update(tilted(50, 5), torch.zeros(3, 1, 1, 5))
    assert mean.compute().item() == pytest.approx((3 * 10 + 50) / 4, abs=1e-4)
    assert below.compute().item() == pytest.approx(3 / 4)
    assert MeanAngularError().score(torch.zeros(3, 1, 1, 2), tilted(0, 2)).item() == pytest.approx(90)
    assert not MeanAngularError.higher_is_better and AngleBelow.higher_is_better


def slow_edge_f(found, truth):
    def hits(points, others):
        return np.mean([any(abs(y - v) <= 1 and abs(x - u) <= 1 for v, u in others) for y, x in points])

    a, b = np.argwhere(found), np.argwhere(truth)
    precision, recall = hits(a, b), hits(b, a)
    return 2 * precision * recall / (precision + recall)


def test_edge_f_equals_a_loop_over_pixels():
    for _ in range(3):
        found, truth = RNG.random((2, 20, 24)) < 0.06
        score = EdgeF().score(torch.from_numpy(found)[None], torch.from_numpy(truth)[None]).item()
        assert score == pytest.approx(slow_edge_f(found, truth), abs=1e-9)


@pytest.mark.parametrize("shift, wanted", [(0, 1), (1, 1), (2, 0)])
def test_a_line_may_be_one_pixel_off(shift, wanted):
    found, truth = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    truth[:, :, 5] = True
    found[:, :, 5 + shift] = True
    assert EdgeF().score(found, truth) == wanted


def test_no_edges_are_right_only_where_there_are_none():
    none, some = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    some[0, 1] = True
    assert [EdgeF().score(*pair).item() for pair in [(none, none), (some, none), (none, some)]] == [1, 0, 0]
