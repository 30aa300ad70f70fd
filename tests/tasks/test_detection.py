"""Boxes: which are asked for, how they are drawn, and read."""

import numpy as np
import pytest
import torch

from lavin.tasks import HeldOut, get_task
from lavin.tasks.detection import DetectionDefinition
from lavin.tasks.selection import boxes
from tests.tasks.conftest import make_sample, rectangle, thing

FILLED, OUTLINE = DetectionDefinition("sphere"), DetectionDefinition("sphere", style="outline")


def test_detection_wants_the_only_object_of_a_fair_size(sample):
    task = get_task("detection")
    assert task.accepts(sample, FILLED)
    assert not task.accepts(sample, DetectionDefinition("box"))  # two of them
    assert task.accepts(sample, DetectionDefinition("box", "blue"))
    tiny, huge = make_sample([thing(rectangle(0, 6, 0, 6))]), make_sample([thing(rectangle(0, 64, 0, 40))])
    assert not task.accepts(tiny, FILLED) and not task.accepts(huge, FILLED)


def test_detection_paints_the_box_and_reads_the_largest_component():
    task = get_task("detection")
    round_thing = make_sample([thing(rectangle(20, 30, 10, 40) & ~rectangle(20, 25, 10, 20))])
    assert boxes(task.label(round_thing, FILLED)).tolist() == [[10, 20, 40, 30]]
    seen = rectangle(5, 15, 5, 15) | rectangle(15, 20, 15, 25) | rectangle(40, 50, 40, 50)  # the first two touch
    clip = task.paint(seen, FILLED)
    assert boxes(task.read(clip, FILLED)).tolist() == [[5, 5, 25, 20]]


@pytest.mark.parametrize("style", ["filled", "outline"])
def test_detection_of_nothing_is_nothing(sample, style):
    task, definition = get_task("detection"), DetectionDefinition("sphere", "blue", style)
    label = task.label(sample, definition)
    assert not label.any() and boxes(label).isnan().all()
    assert not task.read(task.paint(label, definition), definition).any()


def grey_photo(level=77):
    sample = make_sample([thing(rectangle(20, 50, 10, 40))])
    sample.clip[:] = level
    return sample


def test_an_outline_is_a_red_frame_over_the_photo():
    sample = grey_photo()
    target = get_task("detection").target(sample, OUTLINE)
    frame = rectangle(20, 50, 10, 40) & ~rectangle(23, 47, 13, 37)
    assert torch.equal((target != sample.rgb()).any(0), frame)
    assert ((target[:, frame] + 1) * 127.5).round().unique(dim=1).flatten().tolist() == [255, 0, 0]
    assert (sample.clip == 77).all()


@pytest.mark.parametrize("levels", [0, 31])
def test_an_outline_is_read_from_the_photo_as_its_box(levels):
    """On a photo of colours that only just count as not red."""
    task, generator = get_task("detection"), torch.Generator().manual_seed(0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y, x, height, width = rng.integers(0, 24, 2).tolist() + rng.integers(8, 40, 2).tolist()
        sample = make_sample([thing(rectangle(y, y + height, x, x + width))], seed)
        sample.clip[..., 0], sample.clip[..., 1:] = 200, sample.clip[..., 1:].clamp(min=97)
        assert task.accepts(sample, OUTLINE)
        target = task.target(sample, OUTLINE)
        sign = torch.randint(2, target.shape, generator=generator) * 2 - 1
        assert torch.equal(task.read(target + sign * levels / 127.5, OUTLINE), task.label(sample, OUTLINE))


def test_an_outline_on_a_photo_with_red_in_it_is_refused():
    sample = grey_photo()
    sample.clip[0, 0, 0] = torch.tensor([255, 90, 90])
    task = get_task("detection")
    assert task.accepts(sample, FILLED) and not task.accepts(sample, OUTLINE)


def test_only_training_draws_outlines_and_never_where_red_is_held_out(vocabulary):
    task = get_task("detection")
    styles = {
        evaluation: [
            task.draw_definition(np.random.default_rng(s), vocabulary, evaluation=evaluation).style for s in range(400)
        ]
        for evaluation in (False, True)
    }
    assert 0.25 < np.mean([style == "outline" for style in styles[False]]) < 0.35 and set(styles[True]) == {"filled"}
    held_out = HeldOut(palettes=((255, 0, 0),))
    rng = np.random.default_rng(0)
    assert {task.draw_definition(rng, vocabulary, held_out=held_out).style for _ in range(100)} == {"filled"}
