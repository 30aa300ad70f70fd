"""Panoptic quality against a loop over sets of pixels, and against torchmetrics where the two agree."""

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality as TorchmetricsPQ

from lavin.metrics import PanopticQuality

THINGS, STUFF = (0, 1), (2, 3)


def row(*labels) -> torch.Tensor:
    return torch.tensor(labels).view(1, 1, -1)


def noisy_pair(seed: int, void_predicted: bool = True, crowds: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels in strips, and a prediction with other numbers, shifted, some of it wrong."""
    rng = np.random.default_rng(seed)
    kinds = [1, 2, 1001, 1002, 2000, 3000, -1] + [-2, -3] * crowds
    truth = np.repeat(rng.choice(kinds, 12), 5)
    found = np.roll(np.where(truth < 0, 1, truth), rng.integers(3))
    wrong = rng.random(60) < 0.25
    found[wrong] = rng.choice([1, 7, 1001, 2000] + [-1] * void_predicted, wrong.sum())
    return row(*found), row(*truth)


def slow_quality(pairs, classes):
    """PQ, SQ, RQ as the paper defines them, by sets of pixels."""
    tp, fp, fn, ious = (dict.fromkeys(range(256), 0) for _ in range(4))
    for found, truth in pairs:
        found, truth = found.flatten().tolist(), truth.flatten().tolist()
        pixels = lambda labels, label: {i for i, x in enumerate(labels) if x == label}  # noqa: E731
        void = pixels(truth, -1)
        matched = set()
        for t in {x for x in truth if x >= 0}:
            hit = False
            for p in {x for x in found if x >= 0 and x // 1000 == t // 1000}:
                a, b = pixels(found, p), pixels(truth, t)
                iou = len(a & b) / len((a - void) | b)
                if iou > 0.5:
                    hit, matched = True, matched | {p}
                    tp[t // 1000] += 1
                    ious[t // 1000] += iou
            fn[t // 1000] += not hit
        for p in {x for x in found if x >= 0} - matched:
            a = pixels(found, p)
            excused = a & (void | pixels(truth, -2 - p // 1000))
            fp[p // 1000] += len(excused) <= len(a) / 2
    parts = []
    for c in classes:
        if tp[c] + fp[c] + fn[c]:
            rq = tp[c] / (tp[c] + fp[c] / 2 + fn[c] / 2)
            sq = ious[c] / tp[c] if tp[c] else 0
            parts.append((sq * rq, sq, rq))
    return np.mean(parts, axis=0)


@pytest.mark.parametrize("classes", [None, THINGS, STUFF])
def test_panoptic_quality_equals_a_loop_over_sets(classes):
    pairs = [noisy_pair(seed) for seed in range(8)]
    wanted = slow_quality(pairs, classes or range(256))
    for measure, value in zip(("PQ", "SQ", "RQ"), wanted):
        metric = PanopticQuality(measure, classes)
        for pair in pairs:
            metric.update(*pair)
        assert 0 < value < 1 and metric.compute().item() == pytest.approx(value, abs=1e-6)


def test_without_crowds_and_predicted_void_it_is_torchmetrics_own():
    pairs = [noisy_pair(seed, void_predicted=False, crowds=False) for seed in range(8)]
    reference = TorchmetricsPQ(THINGS, STUFF, return_sq_and_rq=True)
    metrics = [PanopticQuality(measure) for measure in ("PQ", "SQ", "RQ")]
    for pair in pairs:
        both = [torch.stack([labels.div(1000, rounding_mode="floor"), labels % 1000], -1) for labels in pair]
        reference.update(*both)
        for metric in metrics:
            metric.update(*pair)
    assert [metric.compute().item() for metric in metrics] == pytest.approx(reference.compute().tolist(), abs=1e-6)


def test_hand_cases():
    pq, sq, rq = (PanopticQuality(measure).score for measure in ("PQ", "SQ", "RQ"))
    pair = row(1, 1, 1, 2000), row(5, 5, 2000, 2000)  # class 0: IoU 2 / 3; class 2: 1 / 2 is no match
    assert (pq(*pair), sq(*pair), rq(*pair)) == pytest.approx(((2 / 3) / 2, (2 / 3) / 2, 0.5))
    assert pq(row(-1, -1), row(1, 1)) == 0  # leaving it void is missing it
    assert pq(row(1, 1, 1, 9), row(-1, -1, -1, 9)) == 1  # on void nobody knows
    assert pq(row(1, 1, 9, 9), row(-2, -2, 9, 9)) == 1  # a part of a crowd of its class
    assert pq(row(1001, 1001, 9, 9), row(-2, -2, 9, 9)) == pytest.approx(1 / 2)  # not of its class
    assert pq(row(7), row(7)) == 1


def test_nothing_to_segment_is_no_score():
    metric = PanopticQuality()
    metric.update(row(3, -1), row(-1, -1))
    assert metric.compute().isnan() and PanopticQuality.higher_is_better
    assert PanopticQuality("PQ", STUFF).score(row(1), row(1)).isnan()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'F1'; it must be PQ, SQ or RQ"):
        PanopticQuality("F1")
    with pytest.raises(ValueError, match=r"predicted labels are -2 ... 5"):
        PanopticQuality().update(row(-2, 5), row(1, 5))
    with pytest.raises(ValueError, match=r"true labels are 1 ... 256000"):
        PanopticQuality().update(row(1, 5), row(1, 256000))
