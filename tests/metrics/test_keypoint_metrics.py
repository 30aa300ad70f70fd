"""Keypoint scores against loops over joints and hand cases."""

import itertools
import math

import pytest
import torch

from lavin.metrics import PCK, MeanOKS
from lavin.metrics.keypoints import COCO_SIGMAS, oks


def people(count: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    joints = 100 * torch.rand(count, 17, 3, generator=generator, dtype=torch.float64)
    joints[..., 2] = torch.randint(3, (count, 17), generator=generator)
    joints[:, 0, 2] = 2
    low, high = joints[..., :2].amin(1), joints[..., :2].amax(1)
    return {"keypoints": joints, "boxes": torch.cat([low, high], 1), "area": (high - low).prod(1) / 2}


def found_near(truth: dict[str, torch.Tensor], order: list[int], seed: int) -> dict[str, torch.Tensor]:
    keypoints = truth["keypoints"][order].clone()
    generator = torch.Generator().manual_seed(seed)
    keypoints[..., :2] += 8 * torch.randn(keypoints[..., :2].shape, generator=generator, dtype=torch.float64)
    keypoints[..., 2] = (torch.rand(keypoints.shape[:2], generator=generator) > 0.1).double()
    return {"keypoints": keypoints}


def slow_oks(found, true, area) -> float:
    values = []
    for (x, y, _), (tx, ty, v), sigma in zip(found.tolist(), true.tolist(), COCO_SIGMAS):
        if v > 0:
            values.append(math.exp(-((x - tx) ** 2 + (y - ty) ** 2) / (2 * area * (2 * sigma) ** 2)))
    return sum(values) / len(values)


def slow_match(found, truth) -> tuple[int, ...]:
    """Of all ways to give true people different found ones (or none, -1), that of the largest OKS."""

    def total(order):
        pairs = [(i, j) for i, j in enumerate(order) if j >= 0]
        return sum(slow_oks(found[j], truth["keypoints"][i], truth["area"][i].item()) for i, j in pairs)

    choices = list(range(len(found))) + [-1] * len(truth["keypoints"])
    return max(itertools.permutations(choices, len(truth["keypoints"])), key=total)


def test_scores_equal_a_loop_over_joints():
    mean_oks, pck, similarities, correct = MeanOKS(), PCK(0.1), [], []
    for seed, order in ((0, [1, 0]), (1, [2]), (2, [0, 1, 2, 0]), (3, [])):
        truth = people(3 if seed else 2, seed)
        prediction = found_near(truth, order, seed)
        for metric in (mean_oks, pck):
            metric.update(prediction, truth)
        for i, j in enumerate(slow_match(prediction["keypoints"], truth)):
            true, (x0, y0, x1, y1) = truth["keypoints"][i], truth["boxes"][i].tolist()
            found = prediction["keypoints"][j] if j >= 0 else torch.zeros(17, 3)
            similarities.append(slow_oks(found, true, truth["area"][i].item()) if j >= 0 else 0)
            for (x, y, seen), (tx, ty, v) in zip(found.tolist(), true.tolist()):
                if v > 0:
                    correct.append(seen > 0 and math.hypot(x - tx, y - ty) <= 0.1 * max(x1 - x0, y1 - y0))
    assert mean_oks.compute().item() == pytest.approx(sum(similarities) / len(similarities), rel=1e-6)
    assert 0 < sum(correct) < len(correct)
    assert pck.compute().item() == pytest.approx(sum(correct) / len(correct), rel=1e-6)


def test_oks_in_closed_form():
    """A joint that is off by 2 sigma times the square root of twice the area has similarity 1 / e."""
    truth = people(1, 0)
    off = 2 * torch.tensor(COCO_SIGMAS, dtype=torch.float64) * (2 * truth["area"]).sqrt()
    found = truth["keypoints"].clone()
    found[0, :, 0] += off
    assert oks(found, truth["keypoints"], truth["area"]).item() == pytest.approx(math.exp(-1))
    assert oks(truth["keypoints"], truth["keypoints"], truth["area"]).item() == 1


def test_pck_at_the_edge_of_its_circle():
    truth = people(1, 0)
    truth["boxes"] = torch.tensor([[0.0, 0.0, 50.0, 100.0]])
    truth["keypoints"][..., 2] = 1
    found = {"keypoints": truth["keypoints"].clone()}
    found["keypoints"][0, :10, 1] += 20.001
    found["keypoints"][0, 10:12, 2] = 0
    assert PCK(0.2).score(found, truth).item() == pytest.approx(5 / 17)


def test_people_without_labelled_joints_are_left_out_and_missed_ones_score_nothing():
    truth = people(2, 0)
    truth["keypoints"][1, :, 2] = 0
    assert MeanOKS().score({"keypoints": truth["keypoints"]}, truth) == 1
    nobody = {"keypoints": torch.zeros(0, 17, 3)}
    assert MeanOKS().score(nobody, truth) == 0 and PCK().score(nobody, truth) == 0
    truth["keypoints"][0, :, 2] = 0
    assert MeanOKS().score(nobody, truth).isnan()


def test_another_skeleton_needs_its_own_sigmas():
    truth = {name: values[:, :4] if name == "keypoints" else values for name, values in people(1, 0).items()}
    with pytest.raises(ValueError, match="4 predicted and 4 true joints, but 17 sigmas"):
        MeanOKS().update({"keypoints": truth["keypoints"]}, truth)
    assert MeanOKS((0.05,) * 4).score({"keypoints": truth["keypoints"]}, truth) == 1
