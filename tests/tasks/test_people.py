"""Pose of samples: who is drawn, and the crop around one person."""

import numpy as np
import pytest
import torch

from lavin.tasks import get_task
from lavin.tasks.people import PoseDefinition, crop, square_around
from tests.tasks.conftest import make_sample, person, rectangle, thing

SCENE, PERSON = PoseDefinition("scene"), PoseDefinition("person")
SIZE = (1, 96, 96)


def test_everybody_is_drawn_but_crowds_and_those_without_joints():
    figures = [person(4, 4, 40, 90, SIZE), person(50, 20, 90, 80, SIZE)]
    crowd, unlabelled = person(0, 0, 90, 90, SIZE), person(0, 0, 9, 9, SIZE, visible=[])
    crowd.crowd = True
    sample = make_sample([*figures, crowd, unlabelled, thing(rectangle(0, 9, 0, 9, SIZE))], size=SIZE)
    label = get_task("pose").label(sample, SCENE)
    assert torch.equal(label["keypoints"], torch.stack([figure.keypoints for figure in figures]))
    assert label["area"].tolist() == [36 * 86, 40 * 60] and label.size == (96, 96)


@pytest.mark.parametrize("joints, accepted", [(4, False), (5, True)])
def test_somebody_must_have_five_joints(joints, accepted):
    sample = make_sample([person(4, 4, 40, 90, SIZE, visible=range(joints))], size=SIZE)
    assert get_task("pose").accepts(sample, SCENE) == accepted
    assert get_task("pose").accepts(sample, PERSON) == accepted


def test_a_clip_has_no_pose():
    size = (5, 64, 64)
    assert not get_task("pose").accepts(make_sample([person(4, 4, 40, 60, size)], size=size), SCENE)


def test_the_crop_is_a_square_around_the_largest_person():
    """A box of 40 x 64 around (44, 48) becomes a square of side 80: the scale is 96 / 80."""
    small, large = person(2, 2, 12, 22, SIZE), person(24, 16, 64, 80, SIZE)
    sample = make_sample([small, large], size=SIZE)
    assert square_around(large) == (4, 8, 80)
    label = get_task("pose").label(sample, PERSON)
    wanted = (large.keypoints[:, :2] - torch.tensor([4.0, 8.0])) * 1.2
    torch.testing.assert_close(label["keypoints"][:, :, :2], wanted.unsqueeze(0))
    torch.testing.assert_close(label["boxes"], torch.tensor([[24.0, 9.6, 72.0, 86.4]]))
    torch.testing.assert_close(label["area"], torch.tensor([40 * 64 * 1.44]))


def test_what_the_crop_shows_lies_where_its_joints_are():
    """A white square around the nose is found around the nose's new place."""
    figure = person(24, 16, 64, 80, SIZE)
    sample = make_sample([figure], size=SIZE)
    x, y = figure.keypoints[0, :2].floor().int().tolist()
    sample.clip[:] = 0
    sample.clip[0, y - 3 : y + 4, x - 3 : x + 4] = 255
    shown = get_task("pose").input(sample, PERSON)
    row, column = (shown[0, 0] > 0).nonzero().double().add(0.5).mean(0).tolist()
    nose = get_task("pose").label(sample, PERSON)["keypoints"][0, 0]
    assert abs(column - nose[0]) < 1 and abs(row - nose[1]) < 1
    assert shown.shape == (3, 1, 96, 96)


def test_beyond_the_photo_a_crop_is_black():
    clip = torch.ones(3, 1, 20, 20)
    found = crop(clip, -10, -10, 40)
    assert (found[:, :, 6:14, 6:14] == 1).all() and (found[:, :, :4] == -1).all() and (found[:, :, :, 16:] == -1).all()
    assert torch.equal(crop(clip, 0, 0, 20), clip)


def test_pose_to_image_is_pose_backwards():
    sample = make_sample([person(24, 16, 64, 80, SIZE)], size=SIZE)
    for definition in (SCENE, PERSON):
        there = get_task("pose").example(sample, definition, np.random.default_rng(0))
        back = get_task("pose_to_image").example(sample, definition, np.random.default_rng(0))
        assert torch.equal(there.input, back.target) and torch.equal(there.target, back.input)


def test_training_draws_both_views_and_evaluation_the_scene():
    task, rng = get_task("pose"), np.random.default_rng(0)
    views = [task.draw_definition(rng, None).view for _ in range(200)]
    assert 0.4 < np.mean([view == "person" for view in views]) < 0.6
    assert task.draw_definition(rng, None, evaluation=True) == SCENE
