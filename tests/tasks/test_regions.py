"""Which samples suit which definition, and which pixels it means."""

import numpy as np
import pytest
import torch

from lavin.data.sample import Vocabulary
from lavin.tasks import HeldOut, get_task
from lavin.tasks.regions import (
    RELATIONS,
    SECOND_FROM_LEFT,
    ForegroundDefinition,
    InstanceDefinition,
    ReferringDefinition,
)
from tests.tasks.conftest import make_sample, rectangle, thing


@pytest.mark.parametrize(
    "class_name, colour, things",
    [("box", None, [1, 2]), (None, "red", [0, 2]), ("box", "red", [2]), (None, None, [0, 1, 2])],
)
def test_foreground_selects_by_class_by_colour_or_by_both(sample, class_name, colour, things):
    mask = get_task("foreground").label(sample, ForegroundDefinition(class_name, colour))
    assert torch.equal(mask, torch.stack([sample.instances[i].mask for i in things]).any(0))


@pytest.mark.parametrize("side, accepted", [(5, False), (7, True), (49, True), (50, False)])
def test_foreground_covers_1_to_60_percent(side, accepted):
    """Of 4096 pixels: 25 are 0.6 %, 49 are 1.2 %, 2401 are 58.6 %, 2500 are 61 %."""
    sample = make_sample([thing(rectangle(0, side, 0, side))])
    assert get_task("foreground").accepts(sample, ForegroundDefinition("sphere")) == accepted
    assert not get_task("foreground").accepts(sample, ForegroundDefinition("box"))


def test_foreground_colours_are_clearly_apart(vocabulary):
    task, rng = get_task("foreground"), np.random.default_rng(0)
    drawn = [task.draw_definition(rng, vocabulary) for _ in range(400)]
    apart = [max(abs(a - b) for a, b in zip(d.foreground_rgb, d.background_rgb)) for d in drawn]
    assert min(apart) >= 170
    plain = [(d.foreground_rgb, d.background_rgb) == ((255,) * 3, (0,) * 3) for d in drawn]
    assert 0.4 < np.mean(plain) < 0.6


def test_nothing_left_to_draw_is_said():
    with pytest.raises(ValueError, match="not held out"):
        get_task("foreground").draw_definition(
            np.random.default_rng(0), Vocabulary(things=("box",)), held_out=HeldOut(classes=("box",))
        )


def test_every_class_of_the_query_must_show_in_some_pair(sample, vocabulary):
    task = get_task("semantic")
    definition = task.draw_definition(np.random.default_rng(0), vocabulary)
    full = task.label(sample, definition)
    assert full.unique().tolist() == [0, 1, 2, 3]
    without_boxes = full.masked_fill(full == 1, 2)
    without_spheres = full.masked_fill(full == 0, 255)
    assert task.inferable([without_boxes, without_spheres], full, definition)
    assert not task.inferable([without_boxes], full, definition)
    assert task.inferable([without_boxes], without_boxes.masked_fill(full == 0, 255), definition)
    assert task.inferable([without_boxes], full, task.grid_definition(vocabulary))  # known from training


def test_held_out_classes_are_black_in_semantic(sample, vocabulary):
    task = get_task("semantic")
    definition = task.draw_definition(np.random.default_rng(0), vocabulary, held_out=HeldOut(classes=("box",)))
    label = task.label(sample, definition)
    assert torch.equal(label == 255, sample.semantic == 1)
    assert (task.paint(label, definition)[:, label == 255] == -1).all()


def test_many_classes_are_cut_to_twenty_with_colours_of_their_own():
    names = tuple(f"class {i}" for i in range(150))
    definition = get_task("semantic").draw_definition(np.random.default_rng(0), Vocabulary(stuff=names))
    assert len(definition.classes) == len(set(definition.colours)) == 20
    assert definition.classes == tuple(names[i] for i in definition.class_ids)


def test_instances_are_drawn_large_to_small_and_crowds_are_ignored():
    large, small = thing(rectangle(0, 40, 0, 40)), thing(rectangle(10, 20, 10, 20))
    crowd = thing(rectangle(30, 60, 30, 60), crowd=True)
    label = get_task("instance").label(make_sample([small, large, crowd]), InstanceDefinition())
    assert label[0, 15, 15] != label[0, 5, 5] and label[0, 15, 15] > 0 < label[0, 5, 5]
    assert label[0, 35, 35] == label[0, 5, 5] and label[0, 50, 50] == -1 and label[0, 63, 0] == 0


def test_instances_of_one_class_only(sample):
    label = get_task("instance").label(sample, InstanceDefinition("box"))
    assert len(label.unique()) == 3 and not label[sample.instances[0].mask].any()


@pytest.mark.parametrize(
    "relation, wanted",
    [("leftmost", 0), ("rightmost", 2), ("largest", 1), ("smallest", 2), ("nearest", 2), (SECOND_FROM_LEFT, 1)],
)
def test_referring_means_the_one_that_wins(sample, relation, wanted):
    task, definition = get_task("referring"), ReferringDefinition(relation=relation)
    assert task.accepts(sample, definition)
    assert torch.equal(task.label(sample, definition), sample.instances[wanted].mask)


def test_referring_among_a_class(sample):
    task = get_task("referring")
    definition = ReferringDefinition("box", relation="leftmost")
    assert torch.equal(task.label(sample, definition), sample.instances[1].mask)
    assert not task.accepts(sample, ReferringDefinition("sphere", relation="leftmost"))  # only one to choose from


def test_referring_refuses_a_narrow_win_and_unknown_distance():
    task = get_task("referring")
    sample = make_sample([thing(rectangle(0, 10, 10, 20)), thing(rectangle(30, 40, 11, 21), distance_m=4.0)])
    assert not task.accepts(sample, ReferringDefinition(relation="leftmost"))  # 1 of 64 pixels
    assert not task.accepts(sample, ReferringDefinition(relation="largest"))
    assert task.accepts(sample, ReferringDefinition(relation="nearest"))
    sample.instances[0].distance_m = sample.depth = None
    assert not task.accepts(sample, ReferringDefinition(relation="nearest"))


def test_nearest_falls_back_on_depth():
    far, near = thing(rectangle(20, 30, 10, 20), distance_m=None), thing(rectangle(40, 60, 40, 50), distance_m=None)
    sample = make_sample([far, near])
    sample.depth = torch.full((1, 64, 64), 8.0).masked_fill(near.mask, 3.0)
    assert torch.equal(get_task("referring").label(sample, ReferringDefinition(relation="nearest")), near.mask)


def test_the_second_from_left_is_clearly_right_of_the_first_and_left_of_the_third():
    task, definition = get_task("referring"), ReferringDefinition(relation=SECOND_FROM_LEFT)
    for places, accepted in (((2, 20, 40), True), ((2, 3, 40), False), ((2, 20, 21), False), ((2, 20), True)):
        sample = make_sample([thing(rectangle(10 * i, 10 * i + 9, x, x + 10)) for i, x in enumerate(places)])
        assert task.accepts(sample, definition) == accepted


def test_only_training_asks_for_the_second_from_left(vocabulary):
    task = get_task("referring")
    drawn = {
        evaluation: {
            task.draw_definition(np.random.default_rng(s), vocabulary, evaluation=evaluation).relation
            for s in range(200)
        }
        for evaluation in (False, True)
    }
    assert drawn == {False: {*RELATIONS, SECOND_FROM_LEFT}, True: set(RELATIONS)}
