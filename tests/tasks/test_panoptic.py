"""Panoptic labels of samples, and their score."""

import numpy as np
import torch

from lavin.tasks import HeldOut, get_task
from tests.tasks.conftest import make_sample, rectangle, thing


def standard(vocabulary, **options):
    return get_task("panoptic").draw_definition(np.random.default_rng(0), vocabulary, evaluation=True, **options)


def test_things_are_numbered_within_their_class_and_stuff_comes_from_the_classes(sample, vocabulary):
    """The sample has a sphere and two boxes on ground (class 2) under sky (class 3)."""
    label = get_task("panoptic").label(sample, standard(vocabulary))
    assert torch.equal(label // 1000, sample.semantic.long())
    numbers = label % 1000
    sphere, first, second = (instance.mask for instance in sample.instances)
    assert (numbers[sphere] == 1).all() and (numbers[first] == 1).all() and (numbers[second] == 2).all()
    assert not numbers[~(sphere | first | second)].any()


def test_stuff_may_be_segments_of_its_own(sample, vocabulary):
    """A source whose panoptic map has everything needs no class map."""
    wanted = get_task("panoptic").label(sample, standard(vocabulary))
    ground, sky = sample.semantic == 2, sample.semantic == 3
    for class_id, mask in ((2, ground), (3, sky)):
        stuff = thing(mask, vocabulary.classes[class_id])
        stuff.is_thing = False
        sample.instances.append(stuff)
        sample.panoptic[mask] = len(sample.instances)
    sample.semantic = None
    assert torch.equal(get_task("panoptic").label(sample, standard(vocabulary)), wanted)


def test_a_crowd_keeps_its_class_and_is_black(vocabulary):
    crowd = thing(rectangle(20, 40, 20, 40), "box", crowd=True)
    sample, task = make_sample([thing(rectangle(10, 16, 2, 12)), crowd]), get_task("panoptic")
    definition = standard(vocabulary)
    label = task.label(sample, definition)
    assert label[crowd.mask].unique().tolist() == [-2 - 1]
    assert (task.paint(label, definition)[:, crowd.mask] == -1).all()
    metric = task.metric()
    metric.update(task.read(task.paint(label, definition), definition), label)
    assert metric.compute() == 1


def test_held_out_classes_are_void(sample, vocabulary):
    definition = standard(vocabulary, held_out=HeldOut(classes=("box",)))
    classes = get_task("panoptic").label(sample, definition) // 1000
    boxes = sample.instances[1].mask | sample.instances[2].mask
    assert (classes[boxes] == -1).all() and set(classes[~boxes].tolist()) == {0, 2, 3}
    assert definition.num_classes == 4  # so that the other classes keep their colours


def test_permuted_classes_must_show_in_some_pair(sample, vocabulary):
    task = get_task("panoptic")
    plain = standard(vocabulary)
    permuted = next(
        definition
        for definition in (task.draw_definition(np.random.default_rng(s), vocabulary) for s in range(20))
        if definition.codes != definition.class_ids
    )
    label = task.label(sample, plain)
    without_boxes = label.clone()
    without_boxes[label // 1000 == 1] = 2000
    assert task.inferable([without_boxes], label, plain)
    assert not task.inferable([without_boxes], label, permuted)
    assert task.inferable([without_boxes, label], label, permuted)
    assert task.inferable([without_boxes], without_boxes, permuted)


def test_half_of_training_permutes_the_classes(vocabulary):
    task = get_task("panoptic")
    drawn = [task.draw_definition(np.random.default_rng(s), vocabulary) for s in range(400)]
    assert all(sorted(definition.codes) == [0, 1, 2, 3] for definition in drawn)
    share = np.mean([definition.codes != definition.class_ids for definition in drawn])
    assert 0.4 < share < 0.56  # half, less the permutations that change nothing: 1 of 24


def test_a_wrong_class_and_a_merged_pair_of_things_cost_quality(sample, vocabulary):
    """Four classes, five segments. Calling both boxes one leaves class 1 with one match of the larger box:
    IoU = 768 / 868 and one missed, so its PQ is 768 / 868 / 1.5; the other classes keep 1."""
    task = get_task("panoptic")
    truth = task.label(sample, standard(vocabulary))
    merged = truth.clone()
    merged[truth // 1000 == 1] = 1001
    metric = task.metric()
    metric.update(merged, truth)
    assert abs(metric.compute().item() - (3 + 768 / 868 / 1.5) / 4) < 1e-6
