"""Depth and normal scores against textbook formulas."""

import numpy as np
import pytest
import torch

from lavin.metrics import (
    AbsRel,
    AngleBelow,
    AngularRMSE,
    Delta,
    Delta1,
    DepthMSE,
    DepthRMSE,
    Log10,
    MeanAngularError,
    MedianAngularError,
)
from lavin.metrics.geometry import align_disparity
from lavin.tasks import codes

RNG = np.random.default_rng(0)


def room() -> torch.Tensor:
    """Metric depth of a room, 0.7 ... 9.9 m, with a few invalid pixels."""
    y, x = np.mgrid[0:60, 0:80]
    depth = np.clip(np.minimum(120 / (y - 10).clip(4), 1.5 + 9 * np.abs(x - 15) / 65), 0.7, 9.9)
    depth[:3, :3] = np.nan
    return torch.from_numpy(depth).unsqueeze(0)


DEPTH_METRICS = {
    "AbsRel": AbsRel,
    "delta1": Delta1,
    "delta2": lambda *args, **kwargs: Delta(2, *args, **kwargs),
    "delta3": lambda *args, **kwargs: Delta(3, *args, **kwargs),
    "MSE": DepthMSE,
    "RMSE": DepthRMSE,
    "log10": Log10,
}


def textbook(prediction, depth, max_depth=None, space="disparity"):
    """All depth scores of one picture, aligned by numpy's own least squares."""
    p, d = prediction.numpy().ravel(), depth.numpy().ravel()
    valid = np.isfinite(d) & (d > 1e-3) & (d < (max_depth or np.inf))
    p, d = p[valid].astype(np.float64), d[valid].astype(np.float64)
    target = 1 / d if space == "disparity" else d
    scale, shift = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), target, rcond=None)[0]
    found = scale * p + shift
    if space == "disparity":
        found = 1 / np.maximum(found, 1e-3)
    found = np.clip(found, 1e-3, max_depth or np.inf)
    ratio = np.maximum(found / d, d / found)
    return {
        "AbsRel": np.mean(np.abs(found - d) / d),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.5625),
        "delta3": np.mean(ratio < 1.953125),
        "MSE": np.mean((found - d) ** 2),
        "RMSE": np.sqrt(np.mean((found - d) ** 2)),
        "log10": np.mean(np.abs(np.log10(found / d))),
    }


@pytest.mark.parametrize("space", ["disparity", "depth"])
@pytest.mark.parametrize("max_depth_m", [None, 8.0])
def test_depth_scores_equal_the_textbook(max_depth_m, space):
    depth = room()
    shown = 1 / depth if space == "disparity" else depth / 5
    prediction = (shown + torch.from_numpy(RNG.normal(0, 0.1, depth.shape))).nan_to_num(0)
    wanted = textbook(prediction, depth, max_depth_m, space)
    for name, metric in DEPTH_METRICS.items():
        found = metric(max_depth_m, space=space).score(prediction, depth).item()
        assert found == pytest.approx(wanted[name], rel=1e-6), name


@pytest.mark.parametrize("name", DEPTH_METRICS)
def test_depth_edge_cases(name):
    """One pixel and all-equal depth are fitted perfectly by the shift alone; no valid pixel is no sample."""
    perfect = 1 if name.startswith("delta") else 0
    flat = torch.full((1, 7, 11), 0.1, dtype=torch.float64)  # the mean of 77 times 0.1 is not 0.1 in float64
    metric = DEPTH_METRICS[name]()
    assert metric.score(flat, torch.full_like(flat, 3.0)).item() == pytest.approx(perfect, abs=1e-9)
    assert metric.score(torch.rand(1, 7, 11), torch.full((1, 7, 11), 3.0)).item() == pytest.approx(perfect, abs=1e-9)
    assert metric.score(torch.tensor([[[0.4]]]), torch.tensor([[[2.0]]])).item() == pytest.approx(perfect, abs=1e-9)
    metric.update(flat, torch.full_like(flat, torch.nan))
    metric.update(flat, torch.zeros_like(flat))
    assert metric.samples == 0 and metric.negative_scales == 0 and metric.compute().isnan()


def test_a_constant_disparity_is_the_constant_plane_whatever_its_rounding():
    depth = torch.linspace(1, 9, 77, dtype=torch.float64).view(1, 7, 11)
    plane = 1 / (1 / depth).mean()
    wanted = ((plane - depth).abs() / depth).mean().item()
    for value in (0.1, 0.3, 1 / 3, 1e4 / 7):
        assert AbsRel().score(torch.full_like(depth, value), depth).item() == pytest.approx(wanted, rel=1e-9)


def test_a_failed_prediction_is_no_empty_sample():
    depth = room()
    broken = (1 / depth).nan_to_num(0)
    broken[0, 30, 30] = torch.nan
    with pytest.raises(ValueError, match="the predicted disparity: 1 of 4791 values are NaN"):
        AbsRel().update(broken, depth)
    broken = (1 / depth).nan_to_num(0)
    broken[0, 0, 0] = torch.nan  # where the truth is not valid it does not matter
    assert AbsRel().score(broken, depth) < 1e-6
    with pytest.raises(ValueError, match="predicted normals"):
        MeanAngularError().update(torch.full((3, 1, 1, 2), torch.nan), tilted(0, 2))


def test_an_unknown_alignment_space_is_refused():
    with pytest.raises(ValueError, match="'metres'; it must be 'disparity' or 'depth'"):
        AbsRel(space="metres")


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


def normals(seed: int, shape=(1, 5, 7)) -> torch.Tensor:
    vectors = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vectors / vectors.norm(dim=0)


def test_normal_scores_equal_a_loop_over_pixels():
    metrics = [MeanAngularError(), MedianAngularError(), AngularRMSE()]
    thresholds = (5, 7.5, 11.25, 22.5, 30)
    metrics += [AngleBelow(threshold) for threshold in thresholds]
    angles = []
    for seed in range(3):
        truth = normals(seed)
        found = truth + 0.3 * normals(seed + 10)
        found /= found.norm(dim=0)
        truth[:, 0, seed, :3] = 0  # invalid
        for metric in metrics:
            metric.update(found, truth)
        for y in range(5):
            for x in range(7):
                n, m = truth[:, 0, y, x].numpy(), found[:, 0, y, x].numpy()
                if n.any():
                    angles.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(n, m)), n @ m)))
    wanted = [np.mean(angles), np.median(angles), np.sqrt(np.mean(np.square(angles)))]
    wanted += [np.mean(np.array(angles) < threshold) for threshold in thresholds]
    assert [metric.compute().item() for metric in metrics] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("pixels", [1, 2, 3, 4])
def test_the_median_is_the_middle_or_between_the_two_in_the_middle(pixels):
    angles = [10.0, 40.0, 10.0, 80.0][:pixels]
    metric = MedianAngularError()
    for angle in angles:
        metric.update(tilted(angle, 1).double(), tilted(0, 1).double())
    assert metric.compute().item() == pytest.approx(np.median(angles), abs=1e-4)  # float32 vectors from tilted()


@pytest.mark.parametrize("metric", [MeanAngularError, MedianAngularError, AngularRMSE, AngleBelow])
def test_without_valid_normals_there_is_no_score(metric):
    metric = metric()
    metric.update(normals(0), torch.zeros(3, 1, 5, 7, dtype=torch.float64))
    assert metric.compute().isnan() and metric.score(normals(0), torch.zeros(3, 1, 5, 7)).isnan()
