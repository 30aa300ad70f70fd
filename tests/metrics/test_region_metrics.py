"""Region scores against hand cases and slow loops."""

import itertools

import numpy as np
import pytest
import torch

from lavin.metrics import BoxIoU, FBIoU, ForegroundIoU, InstanceIoU, MaskIoU, MeanIoU, OverallIoU, PrecisionAt

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


def test_overall_iou_counts_pixels_and_mean_iou_counts_expressions():
    overall, mean = OverallIoU(), MaskIoU()
    for metric in (overall, mean):
        metric.update(mask(1, 1, 1, 1, 1, 1, 1, 0), mask(1, 1, 1, 1, 1, 1, 1, 1))  # 7 / 8
        metric.update(mask(0, 1, 0, 0, 0, 0, 0, 0), mask(1, 1, 0, 0, 0, 0, 0, 0))  # 1 / 2
    assert overall.compute().item() == pytest.approx(8 / 10)
    assert mean.compute().item() == pytest.approx((7 / 8 + 1 / 2) / 2)
    assert OverallIoU().score(mask(1, 0), mask(1, 1)).item() == 0.5
    overall.reset()
    overall.update(mask(0, 0), mask(0, 0))
    assert overall.compute().isnan()


def test_mask_scores_equal_counts_of_sets_of_pixels():
    """Random masks of all densities, also empty ones: mean, overall and share above a threshold from sets."""
    mean, overall, above, ious, shared, joined = MaskIoU(), OverallIoU(), PrecisionAt(0.3), [], 0, 0
    for number in range(12):
        found, truth = RNG.random((2, 2, 5, 6)) < (0, 0.05, 0.4, 0.9)[number % 4]
        for metric in (mean, overall, above):
            metric.update(torch.from_numpy(found), torch.from_numpy(truth))
        a, b = ({*np.flatnonzero(mask)} for mask in (found, truth))
        ious.append(len(a & b) / len(a | b) if a | b else 1.0)
        shared, joined = shared + len(a & b), joined + len(a | b)
    found = [metric.compute().item() for metric in (mean, overall, above)]
    wanted = [np.mean(ious), shared / joined, np.mean([iou > 0.3 for iou in ious])]
    assert found == pytest.approx(wanted, abs=1e-6) and wanted[0] != pytest.approx(wanted[1])


def test_box_iou_equals_torchvisions():
    from torchvision.ops import box_iou

    for _ in range(5):
        corners = np.sort(RNG.integers(0, 21, (2, 2, 2)), axis=1)  # box, (low, high), (x, y)
        corners[:, 1] += corners[:, 0] == corners[:, 1]
        masks = torch.zeros(2, 1, 24, 24, dtype=torch.bool)
        for mask, ((x0, y0), (x1, y1)) in zip(masks, corners, strict=True):
            mask[:, y0:y1, x0:x1] = True
        boxes = torch.from_numpy(corners.reshape(2, 1, 4)).double()
        assert BoxIoU().score(*masks).item() == pytest.approx(box_iou(boxes[0], boxes[1]).item(), abs=1e-6)


def test_precision_is_the_share_of_masks_above_a_threshold():
    """An IoU of exactly 3 / 5 is not above 0.6, whatever the rounding."""
    ious = {1: (mask(1, 0), mask(1, 0)), 0.6: (mask(1, 1, 1, 1, 0), mask(1, 1, 1, 0, 1)), 0: (mask(0), mask(1))}
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        metric = PrecisionAt(threshold)
        for pair in ious.values():
            metric.update(*pair)
        assert metric.compute().item() == pytest.approx(sum(iou > threshold for iou in ious) / 3)


def slow_few_shot(episodes):
    """mIoU over the classes of a fold and FB-IoU, from areas that are summed in loops."""
    inter, union = {}, {}
    for found, truth in episodes:
        for f, t in zip(found.flatten().tolist(), truth.flatten().tolist()):
            if t == 255:
                continue
            for key, a, b in [(c, f == c, t == c) for c in range(1, 255)] + [
                ("fg", f > 0, t > 0),
                ("bg", f == 0, t == 0),
            ]:
                inter[key] = inter.get(key, 0) + (a and b)
                union[key] = union.get(key, 0) + (a or b)
    classes = [c for c in range(1, 255) if union[c]]
    fb = (inter["fg"] / union["fg"] + inter["bg"] / union["bg"]) / 2
    return np.mean([inter[c] / union[c] for c in classes]), fb


def test_few_shot_scores_pool_areas_over_the_episodes_of_a_class():
    episodes = []
    for number in range(6):
        found, truth = (RNG.random((2, 1, 4, 5)) < 0.4) * (1 + number % 3)
        truth[RNG.random(truth.shape) < 0.1] = 255
        episodes.append((torch.from_numpy(found), torch.from_numpy(truth)))
    foreground, both = ForegroundIoU(), FBIoU()
    for episode in episodes:
        foreground.update(*episode)
        both.update(*episode)
    wanted = slow_few_shot(episodes)
    assert (foreground.compute().item(), both.compute().item()) == pytest.approx(wanted, rel=1e-6)


def test_background_is_no_class_of_a_fold():
    assert ForegroundIoU().score(row(0, 0, 0, 5), row(0, 0, 5, 5)).item() == 0.5
    assert ForegroundIoU().score(row(0, 0), row(0, 0)).isnan()
    assert FBIoU().score(row(0, 0, 0, 5), row(0, 0, 5, 5)).item() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_class_ids_beyond_255_are_refused():
    with pytest.raises(ValueError, match=r"predicted classes are 0 ... 300"):
        MeanIoU().update(row(0, 300), row(0, 1))
    with pytest.raises(ValueError, match=r"true classes are -1 ... 1"):
        MeanIoU().update(row(0, 3), row(-1, 1))


@pytest.mark.parametrize(
    "metric", [MaskIoU, BoxIoU, MeanIoU, InstanceIoU, ForegroundIoU, FBIoU, OverallIoU, PrecisionAt]
)
def test_more_is_better(metric):
    assert metric.higher_is_better
