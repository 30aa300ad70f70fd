"""POSE: what is drawn where, and joints that come back as people."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from lavin.tasks import skeleton
from lavin.tasks.codes import levels_from_clip
from lavin.tasks.skeleton import BONES, COLOURS, People, decode_pose, encode_pose
from tests.tasks.conftest import person


def people_of(*figures, size=(64, 64)) -> People:
    return People(
        torch.stack([figure.keypoints for figure in figures]),
        torch.tensor([float(figure.mask.sum()) for figure in figures]),
        torch.stack([figure.box[0] for figure in figures]),
        size,
    )


def distance_to_segment(px, py, ax, ay, bx, by) -> float:
    length2 = (bx - ax) ** 2 + (by - ay) ** 2
    t = 0.0 if length2 == 0 else max(0.0, min(1.0, ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / length2))
    return math.hypot(ax + t * (bx - ax) - px, ay + t * (by - ay) - py)


def drawn_slowly(people: People, radius: float = 2.0, bone: float = 1.0) -> np.ndarray:
    """The drawing pixel by pixel, straight from its description."""
    height, width = people.size
    canvas = np.zeros((height, width, 3), int)
    for index in sorted(range(len(people["area"])), key=lambda i: -people["area"][i]):
        joints = people["keypoints"][index].double().tolist()
        for row in range(height):
            for column in range(width):
                x, y = column + 0.5, row + 0.5
                for a, b in BONES:
                    labelled = joints[a][2] and joints[b][2]
                    if labelled and distance_to_segment(x, y, *joints[a][:2], *joints[b][:2]) <= bone / 2:
                        canvas[row, column] = 128
        for joint, (jx, jy, v) in enumerate(joints):
            for row in range(height):
                for column in range(width):
                    if v and math.hypot(column + 0.5 - jx, row + 0.5 - jy) <= radius:
                        canvas[row, column] = COLOURS[joint]
    return canvas


def test_the_drawing_is_the_slow_one():
    """Two people, one over the other, the smaller partly outside and without its left arm."""
    figures = person(3, 2, 25, 38, size=(1, 40, 48)), person(20, 12, 44, 41, (1, 40, 48), set(range(17)) - {7, 9})
    people = people_of(*figures, size=(40, 48))
    found = levels_from_clip(encode_pose(people))[:, 0].round().int().permute(1, 2, 0).numpy()
    assert (found == drawn_slowly(people)).all()


@pytest.mark.parametrize("seed", range(4))
def test_any_joints_are_drawn_as_the_slow_one_does(seed):
    """Joints anywhere, outside too, some of them missing or on one point: bones of every slope and length."""
    rng = np.random.default_rng(seed)
    figure = person(0, 0, 20, 20, (1, 30, 34))
    figure.keypoints[:, :2] = torch.from_numpy(rng.uniform(-8, 40, (17, 2)).astype(np.float32))
    figure.keypoints[rng.integers(17, size=3), 2] = 0
    figure.keypoints[5, :2], figure.keypoints[6, 1] = figure.keypoints[7, :2], figure.keypoints[8, 1]
    people = people_of(figure, size=(30, 34))
    found = levels_from_clip(encode_pose(people))[:, 0].round().int().permute(1, 2, 0).numpy()
    assert (found == drawn_slowly(people)).all()


def test_wide_bones_and_discs_are_drawn_as_the_slow_one_does(monkeypatch):
    """As in a picture of side 512, without one so large."""
    figure = person(4, 3, 30, 36, (1, 40, 40))
    people = people_of(figure, size=(40, 40))
    monkeypatch.setattr(skeleton, "disc_radius", lambda side: 512 / 85)
    monkeypatch.setattr(skeleton, "bone_width", lambda side: 4.0)
    found = levels_from_clip(encode_pose(people))[:, 0].round().int().permute(1, 2, 0).numpy()
    assert (found == drawn_slowly(people, radius=512 / 85, bone=4.0)).all()


def test_skeleton_is_cocos():
    assert len(BONES) == len(set(BONES)) == 19 and len(COLOURS) == 17
    assert all(0 <= joint < 17 for bone in BONES for joint in bone)
    left_to_right = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    mirrored = {frozenset(left_to_right[joint] for joint in bone) for bone in BONES}
    assert mirrored == {frozenset(bone) for bone in BONES}


def test_colours_are_127_apart_in_some_channel():
    for a, b in combinations(skeleton.TABLE, 2):
        assert max(abs(x - y) for x, y in zip(a, b)) >= 127


@pytest.mark.parametrize("side, radius, width", [(64, 2.0, 1.0), (170, 2.0, 170 / 128), (256, 256 / 85, 2.0)])
def test_widths_follow_the_picture(side, radius, width):
    assert skeleton.disc_radius(side) == radius and skeleton.bone_width(side) == width


@pytest.mark.parametrize("size", [(128, 128), (256, 256), (96, 160)])
def test_joints_come_back_within_seven_tenths_of_a_pixel(size):
    generator = np.random.default_rng(0)
    height, width = size
    for _ in range(5):
        w, h = generator.uniform(0.4, 0.6) * width, generator.uniform(0.7, 0.9) * height
        x, y = generator.uniform(4, width - w - 4), generator.uniform(4, height - h - 4)
        truth = people_of(person(x, y, x + w, y + h, (1, *size)), size=size)
        found = decode_pose(encode_pose(truth))
        assert found["keypoints"].shape == (1, 17, 3) and (found["keypoints"][..., 2] == 2).all()
        error = (found["keypoints"] - truth["keypoints"])[..., :2].norm(dim=-1)
        assert error.max() <= 0.7


def test_colours_forgive_63_levels():
    truth = people_of(person(10, 5, 100, 120, (1, 128, 128)), size=(128, 128))
    clip = encode_pose(truth)
    sign = torch.randint(2, clip.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, noisy = decode_pose(clip), decode_pose(clip + sign * 63 / 127.5)
    assert torch.equal(found["keypoints"], noisy["keypoints"])


def test_three_people_are_told_apart():
    figures = [person(x, y, x + 34, y + 80, (1, 128, 128)) for x, y in ((4, 10), (46, 30), (88, 6))]
    truth = people_of(*figures, size=(128, 128))
    found = decode_pose(encode_pose(truth))["keypoints"]
    assert len(found) == 3
    order = found[:, 0, 0].argsort()
    assert (found[order] - truth["keypoints"])[..., :2].norm(dim=-1).max() <= 0.7


def test_hidden_joints_and_their_bones_are_left_out():
    legless = people_of(person(10, 5, 100, 120, (1, 128, 128), visible=range(13)), size=(128, 128))
    clip = encode_pose(legless)
    assert (clip[:, 0, 90:] == -1).all()
    found = decode_pose(clip)
    assert len(found["keypoints"]) == 1
    assert found["keypoints"][0, :, 2].tolist() == [2.0] * 13 + [0.0] * 4


def test_joints_beyond_a_hidden_one_are_the_nearest_persons():
    """Two people without elbows: no bone leads to their wrists, which are nearer to their own shoulders."""
    seen = [joint for joint in range(17) if joint not in (7, 8)]
    figures = [person(x, 10, x + 34, 96, (1, 128, 128), visible=seen) for x in (4, 84)]
    found = decode_pose(encode_pose(people_of(*figures, size=(128, 128))))["keypoints"]
    assert len(found) == 2
    found = found[found[:, 0, 0].argsort()]
    assert ((found[..., 2] > 0) == torch.tensor([joint in seen for joint in range(17)])).all()
    for one, figure in zip(found[:, seen], figures, strict=True):
        assert (one - figure.keypoints[seen])[:, :2].norm(dim=-1).max() <= 0.7


def test_parts_far_apart_are_two_people():
    """A head on one side and legs on the other, a sixth of the picture or more between them."""
    head = person(4, 4, 40, 90, (1, 128, 128), visible=range(5))
    legs = person(80, 4, 120, 120, (1, 128, 128), visible=range(11, 17))
    found = decode_pose(encode_pose(people_of(head, legs, size=(128, 128))))["keypoints"]
    assert sorted((found[..., 2] > 0).sum(1).tolist()) == [5, 6]


def test_smaller_people_lie_over_larger_ones():
    large, small = person(10, 0, 110, 128, (1, 128, 128)), person(40, 40, 80, 110, (1, 128, 128))
    for order in ((large, small), (small, large)):
        found = levels_from_clip(encode_pose(people_of(*order, size=(128, 128)))).round().int()
        x, y, _ = small.keypoints[0].floor().int().tolist()
        assert found[:, 0, y, x].tolist() == [255, 0, 0]


def test_nobody_is_nobody():
    nobody = People(torch.zeros(0, 17, 3), torch.zeros(0), torch.zeros(0, 4), (32, 32))
    clip = encode_pose(nobody)
    assert (clip == -1).all() and clip.shape == (3, 1, 32, 32)
    assert decode_pose(clip)["keypoints"].shape == (0, 17, 3)
    assert decode_pose(clip, single=True)["keypoints"].shape == (0, 17, 3)


def test_a_single_person_has_the_largest_part_of_each_colour():
    truth = people_of(person(10, 5, 100, 120, (1, 128, 128), visible=[0, 5, 15]), size=(128, 128))
    clip = encode_pose(truth)
    clip[:, 0, 124:127, 1:3] = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1)  # a speck of the nose's colour
    found = decode_pose(clip, single=True)["keypoints"]
    assert len(found) == 1 and (found[0, :, 2] > 0).nonzero().flatten().tolist() == [0, 5, 15]
    assert (found[0, 0] - truth["keypoints"][0, 0])[:2].norm() < 0.7
    assert len(decode_pose(clip)["keypoints"]) == 4  # no bone joins them, and the speck counts as somebody's nose


def test_people_are_resized_with_their_picture():
    truth = people_of(person(8, 4, 24, 60))
    half = truth.resized((32, 128))
    assert torch.equal(half["keypoints"][..., 0], 2 * truth["keypoints"][..., 0])
    assert torch.equal(half["keypoints"][..., 1], truth["keypoints"][..., 1] / 2)
    assert torch.equal(half["boxes"], truth["boxes"] * torch.tensor([2, 0.5, 2, 0.5]))
    assert half.size == (32, 128) and torch.equal(half["area"], truth["area"])
