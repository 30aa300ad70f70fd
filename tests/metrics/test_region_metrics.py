"""Region scores against hand cases and slow loops."""

import itertools

import numpy as np
import pytest
import torch

from lavin.metrics import BoxIoU, InstanceIoU, MaskIoU, MeanIoU

RNG = np.random.default_rng(0)


def row(*values) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, -1)


def mask(*values) -> torch.Tensor:
    return row(*values).bool()


def test_mask_iou_is_the_mean_over_samples_not_over_pixels():
    metric = MaskIoU()
    metric.update(mask(1, 1, 0, 0), mask(0, 1, 1, 0))  # 1 / 3
    metric.update(mask(1, 0, 0, 0), mask(1, 0, 0, 0))  # 1; pooled over pixels it would be 2 / 4
    assert metric.compute().item() == pytest.approx(2 / 3)


def test_an_empty_prediction_scores_nothing():
    assert MaskIoU().score(mask(0, 0), mask(1, 0)) == 0
    assert MaskIoU().score(mask(0, 0), mask(0, 0)) == 1


def test_boxes_are_scored_as_masks():
    found, truth = torch.zeros(2, 1, 20, 20, dtype=torch.bool)
    found[:, 0:10, 0:10] = True
    truth[:, 5:15, 0:10] = True
    assert BoxIoU().score(found, truth).item() == pytest.approx(50 / 150)


def test_mean_iou_equals_a_loop_over_classes():
    pictures = [RNG.integers(0, 5, (2, 1, 16, 16)) for _ in range(4)]
    metric = MeanIoU()
    for found, truth in pictures:
        truth[RNG.random(truth.shape) < 0.2] = 255
        found[RNG.random(found.shape) < 0.05] = 255
        metric.update(torch.from_numpy(found), torch.from_numpy(truth))
    found, truth = (np.concatenate([p[i].ravel() for p in pictures]) for i in (0, 1))
    ious = []
    for c in range(5):
        both = sum(1 for f, t in zip(found, truth) if f == c and t == c)
        either = sum(1 for f, t in zip(found, truth) if t != 255 and (f == c or t == c))
        ious.append(both / either)
    assert metric.compute().item() == pytest.approx(np.mean(ious), abs=1e-6)


def test_mean_iou_leaves_out_classes_that_never_occur():
    metric = MeanIoU()
    metric.update(row(0, 0, 7, 7), row(0, 0, 7, 0))
    assert metric.compute().item() == pytest.approx((2 / 3 + 1 / 2) / 2)
    metric.update(row(3), row(255))  # ignored pixels bring no class in
    assert metric.compute().item() == pytest.approx((2 / 3 + 1 / 2) / 2)


def best_matching(found: np.ndarray, truth: np.ndarray) -> float:
    """Textbook: try every assignment of predicted to true instances."""
    true, predicted = [k for k in np.unique(truth) if k > 0], [k for k in np.unique(found) if k > 0]
    padded = predicted + [None] * len(true)

    def iou(t, p):
        if p is None:
            return 0.0
        a, b = (truth == t), (found == p) & (truth >= 0)
        return (a & b).sum() / (a | b).sum()

    return max(np.mean([iou(t, p) for t, p in zip(true, order)]) for order in itertools.permutations(padded, len(true)))


def test_instance_iou_finds_the_best_matching():
    for _ in range(5):
        found, truth = RNG.integers(0, 4, (1, 6, 6)), RNG.integers(-1, 4, (1, 6, 6))
        score = InstanceIoU().score(torch.from_numpy(found), torch.from_numpy(truth)).item()
        assert score == pytest.approx(best_matching(found, truth), abs=1e-9)


def test_instance_iou_does_not_mind_the_numbers_and_counts_every_instance_once():
    metric = InstanceIoU()
    metric.update(row(9, 9, 4, 4, 0), row(1, 1, 2, 2, 0))  # two perfect ones
    metric.update(row(0, 0, 0, 0, 0), row(0, 5, 5, 0, 0))  # one missed
    assert metric.compute().item() == pytest.approx(2 / 3)


def test_instance_iou_leaves_crowds_out_and_matches_one_to_one():
    assert InstanceIoU().score(row(1, 1, 1, 1), row(1, 1, -1, -1)) == 1
    assert InstanceIoU().score(row(1, 1, 1, 1), row(1, 1, 2, 2)).item() == pytest.approx(1 / 4)  # one of two gets 1 / 2


@pytest.mark.parametrize("metric", [MaskIoU, BoxIoU, MeanIoU, InstanceIoU])
def test_more_is_better(metric):
    assert metric.higher_is_better
