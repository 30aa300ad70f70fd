"""Every metric where there is nothing to score, one pixel, or nothing but ties: each answer follows by hand."""

import math

import pytest
import torch

from tests.metrics.test_accumulation import CASES

NAN = math.nan


def full(value, *shape):
    return torch.full(shape, value)


def ids(*values):
    return torch.tensor(values).view(1, 1, -1)


def boxes(*corners):
    found = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
    return {"boxes": found, "labels": torch.zeros(len(found)), "scores": torch.full((len(found),), 0.5)}


def joints(*places):
    """People of one labelled joint each, the nose."""
    keypoints = torch.zeros(len(places), 17, 3)
    for one, place in zip(keypoints, places, strict=True):
        one[0] = torch.tensor([*place, 1.0])
    count = len(places)
    return {
        "keypoints": keypoints,
        "area": full(100.0, count),
        "boxes": torch.tensor([0.0, 0, 10, 10]).expand(count, 4),
    }


NOTHING, ONE_PIXEL = torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
ONE_PIXEL[0, 1, 2] = True
UP, ZERO = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1), torch.zeros(3, 1, 1, 1)
SIDE = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1)
GREY = torch.zeros(3, 1, 16, 16)
UNKNOWN_FLOW = full(NAN, 2, 2, 3, 3)
STILL = torch.zeros(2, 2, 3, 3)
MASKS = {"empty": (NOTHING, NOTHING), "one pixel": (ONE_PIXEL, ONE_PIXEL), "missed": (NOTHING, ONE_PIXEL)}
DEPTHS = {
    "no valid pixel": (full(0.3, 1, 2, 2), full(NAN, 1, 2, 2)),
    "one pixel": (full(0.3, 1, 1, 1), full(2.0, 1, 1, 1)),
    "all-equal depth": (torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(0)), full(2.0, 1, 3, 3)),
    "all-equal prediction": (full(0.3, 1, 1, 2), torch.tensor([[[1.0, 1 / 3]]])),  # disparities 1 and 3: depth 1 / 2
}
NORMALS = {
    "no valid pixel": (UP, ZERO),
    "one pixel": (UP, UP),
    "no normal": (ZERO, UP),
    "ties": (torch.cat([UP, SIDE, SIDE], 3), UP.expand(3, 1, 1, 3)),  # 0, 90 and 90 degrees
}
CLIPS = {"empty": (ids(0, 0), ids(0, 0)), "one pixel": (ids(4, 0), ids(7, 0)), "void": (ids(4, 0), ids(-1, -1))}
CLASSES = {
    "void": (ids(3, 3), ids(255, 255)),
    "one pixel": (ids(3), ids(3)),
    "ties": (ids(1, 1, 2, 2), ids(1, 2, 1, 2)),
}
FLOWS = {"no valid pixel": (STILL, UNKNOWN_FLOW), "still": (STILL, STILL)}
PICTURES = {"equal": (GREY, GREY), "black and white": (GREY - 1, GREY + 1)}
PEOPLE = {"nobody": (joints(), joints()), "missed": (joints(), joints((5, 5))), "equal": (joints((5, 5)),) * 2}

EXPECTED = {
    "AbsRel": (DEPTHS, NAN, 0, 0, (1 / 2 + 1 / 2) / 2),
    "DepthMSE": (DEPTHS, NAN, 0, 0, (1 / 4 + 1 / 36) / 2),
    "DepthRMSE": (DEPTHS, NAN, 0, 0, math.sqrt((1 / 4 + 1 / 36) / 2)),
    "Log10": (DEPTHS, NAN, 0, 0, (math.log10(2) + math.log10(1.5)) / 2),
    "Delta1": (DEPTHS, NAN, 1, 1, 0),
    "Delta": (DEPTHS, NAN, 1, 1, 1 / 2),  # k = 2: 1.5 is below 1.5625, 2 is not
    "MeanAngularError": (NORMALS, NAN, 0, 90, 60),
    "MedianAngularError": (NORMALS, NAN, 0, 90, 90),
    "AngularRMSE": (NORMALS, NAN, 0, 90, 90 * math.sqrt(2 / 3)),
    "AngleBelow": (NORMALS, NAN, 1, 0, 1 / 3),
    "MaskIoU": (MASKS, 1, 1, 0),
    "BoxIoU": (MASKS, 1, 1, 0),
    "PrecisionAt": (MASKS, 1, 1, 0),
    "OverallIoU": (MASKS, NAN, 1, 0),
    "EdgeF": (MASKS, 1, 1, 0),
    "EdgeODS": (MASKS, 0, 1, 0),
    "EdgeOIS": (MASKS, 0, 1, 0),
    "MeanIoU": (CLASSES, NAN, 1, 1 / 3),
    "ForegroundIoU": (CLASSES, NAN, 1, 1 / 3),
    "FBIoU": (CLASSES, NAN, 1, 1),  # all of it is foreground, which is one class there
    "InstanceIoU": (CLIPS, NAN, 1, NAN),
    "VideoJ": (CLIPS, NAN, 1, NAN),
    "VideoF": (CLIPS, NAN, 1, NAN),
    "VideoJF": (CLIPS, NAN, 1, NAN),
    "PanopticQuality": (
        {
            "void": (ids(1, 1), ids(-1, -1)),
            "one pixel": (ids(1), ids(1)),
            "ties": (ids(1, 1), ids(1, 2)),  # IoU 1 / 2 is no match
        },
        NAN,
        1,
        0,
    ),
    "EndPointError": (FLOWS, NAN, 0),
    "FlowOutliers": (FLOWS, NAN, 0),
    "WarpError": ({"no valid pixel": (STILL, UNKNOWN_FLOW), "steady": (STILL, STILL)}, NAN, 0),
    "MSE": (PICTURES, 0, 1),
    "ImageNetMSE": (PICTURES, 0, sum(1 / s**2 for s in (0.229, 0.224, 0.225)) / 3),
    "PSNR": (PICTURES, 100, 0),
    "SSIM": (PICTURES, 1, 6.5025 / (255**2 + 6.5025)),  # without variance, C1 = (0.01 * 255)²
    "LPIPS": ({"equal": (torch.zeros(3, 1, 32, 32),) * 2}, 0),
    "FID": ({"equal": (torch.zeros(3, 4, 16, 16),) * 2}, 0),
    "KID": ({"equal": (-torch.ones(3, 4, 16, 16),) * 2}, 0),  # black: the cubes of brighter features drown 1e-6
    "MeanOKS": (PEOPLE, NAN, 0, 1),
    "PCK": (PEOPLE, NAN, 0, 1),
    "AveragePrecision": (
        {
            "nothing": (boxes(), boxes()),
            "missed": (boxes(), boxes((0, 0, 1, 1))),
            "one pixel": (boxes((0, 0, 1, 1)), boxes((0, 0, 1, 1))),
            "ties": (boxes((0, 0, 1, 1), (5, 5, 6, 6)), boxes((0, 0, 1, 1))),
        },
        NAN,
        0,
        1,
        1 / 2,
    ),
}
"""Metric -> its cases, and the value of each in their order; NaN is "nothing to score"."""


def test_every_metric_has_its_edge_cases():
    assert EXPECTED.keys() == CASES.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_edge_cases(name, random_squeezenet):
    cases, *wanted = EXPECTED[name]
    for (what, pair), value in zip(cases.items(), wanted, strict=True):
        metric = CASES[name][0]()
        metric.update(*pair)
        found = float(metric.compute())
        assert found == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), what
