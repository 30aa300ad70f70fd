"""Every registered task reads back what it paints."""

import json

import numpy as np
import pytest
import torch

from lavin.tasks import REGISTRY, HeldOut
from lavin.tasks.codes import normalise_disparity
from tests.tasks.conftest import make_sample, rectangle, thing

EVERY_TASK = pytest.mark.parametrize("name", sorted(REGISTRY))

LEVELS_FORGIVEN = {
    "foreground": 42,
    "semantic": 42,
    "instance": 42,
    "detection": 126,
    "referring": 126,
    "edges": 126,
    "depth": 0,
    "normals": 0,
    "colorization": 0.49,
    "inpainting": 0.49,
    "denoising": 0.49,
}
"""Error per channel, in 8-bit levels, that a task's label survives unchanged (with any definition)."""


def random_sample(seed: int):
    """A sample of up to six random rectangles that do not overlap."""
    rng = np.random.default_rng(seed)
    taken, things = torch.zeros(1, 64, 64, dtype=torch.bool), []
    for _ in range(6):
        height, width = rng.integers(8, 30, 2)
        y, x = rng.integers(64 - height), rng.integers(64 - width)
        mask = rectangle(y, y + height, x, x + width)
        if not (mask & taken).any():
            taken |= mask
            names = str(rng.choice(["sphere", "box"])), str(rng.choice(["red", "blue"]))
            things.append(thing(mask, *names, distance_m=rng.uniform(1, 9)))
    return make_sample(things, seed)


def cases(task, vocabulary, wanted=6):
    """Samples that the task accepts, with a definition drawn for each."""
    found = []
    for seed in range(400):
        sample, definition = random_sample(seed), task.draw_definition(np.random.default_rng(seed), vocabulary)
        if task.accepts(sample, definition):
            found.append((sample, definition))
        if len(found) == wanted:
            return found
    raise AssertionError(f"{task.name} accepted {len(found)} of 400 random samples")


def same_instances(found: torch.Tensor, truth: torch.Tensor) -> bool:
    groups = {frozenset((truth.flatten() == k).nonzero().flatten().tolist()) for k in truth.unique().tolist() if k > 0}
    return groups == {
        frozenset((found.flatten() == k).nonzero().flatten().tolist()) for k in found.unique().tolist() if k > 0
    }


def is_read_back(name: str, found: torch.Tensor, truth: torch.Tensor) -> bool:
    if name == "depth":
        valid = truth.isfinite()
        return (found - normalise_disparity(truth))[valid].abs().max() <= 1 / 510 + 1e-5
    if name == "normals":
        valid = truth.abs().sum(0) > 0
        cosine = (found.double() * truth.double()).sum(0)[valid].clamp(-1, 1)
        return cosine.arccos().rad2deg().max() < 0.4 and not found[:, ~valid].any()
    if name == "instance":
        return same_instances(found, truth)
    if truth.is_floating_point():
        return torch.allclose(found, truth, atol=1e-5)
    return torch.equal(found, truth)


@EVERY_TASK
def test_labels_survive_being_painted_and_the_noise_their_code_forgives(name, vocabulary):
    task, generator = REGISTRY[name], torch.Generator().manual_seed(1)
    for sample, definition in cases(task, vocabulary):
        truth = task.label(sample, definition)
        clip = task.paint(truth, definition)
        assert is_read_back(name, task.read(clip, definition), truth)
        sign = torch.randint(2, clip.shape, generator=generator) * 2 - 1
        assert is_read_back(name, task.read(clip + sign * LEVELS_FORGIVEN[name] / 127.5, definition), truth)


@EVERY_TASK
def test_inputs_and_targets_are_clips_of_whole_levels(name, vocabulary):
    task = REGISTRY[name]
    for sample, definition in cases(task, vocabulary):
        for clip in task.example(sample, definition, np.random.default_rng(0)):
            assert clip.shape == (3, *sample.size) and clip.dtype == torch.float32
            levels = (clip.double() + 1) * 127.5
            assert (levels - levels.round()).abs().max() < 1e-4 and 0 <= levels.round().min() <= levels.max() < 255.5


@EVERY_TASK
def test_examples_depend_on_the_generator_alone_and_leave_the_sample_as_it_was(name, vocabulary):
    task = REGISTRY[name]
    sample, definition = cases(task, vocabulary, wanted=1)[0]
    photo = sample.clip.clone()
    first, second = (task.example(sample, definition, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first.input, second.input) and torch.equal(first.target, second.target)
    assert torch.equal(sample.clip, photo)


@EVERY_TASK
def test_a_perfect_reading_has_a_nearly_perfect_score(name, vocabulary):
    task = REGISTRY[name]
    metric = task.metric()
    for sample, definition in cases(task, vocabulary):
        truth = task.label(sample, definition)
        metric.update(task.read(task.paint(truth, definition), definition), truth)
    score = metric.compute().item()
    ceiling = {"depth": 0.02, "normals": 0.2}  # AbsRel of whole levels at 10 m; degrees
    assert score >= 0.999 if metric.higher_is_better else score <= ceiling.get(name, 1e-9)


@EVERY_TASK
def test_definitions_survive_json_and_evaluation_has_one_style(name, vocabulary):
    task = REGISTRY[name]
    for seed in range(50):
        definition = task.draw_definition(np.random.default_rng(seed), vocabulary)
        assert task.definition_type.from_dict(json.loads(json.dumps(definition.to_dict()))) == definition
    drawn = ("class_name", "colour", "relation", "colours")
    styles = {
        tuple((key, value) for key, value in definition.to_dict().items() if key not in drawn)
        for definition in (
            task.draw_definition(np.random.default_rng(s), vocabulary, evaluation=True) for s in range(20)
        )
    }
    assert len(styles) == 1


@EVERY_TASK
def test_held_out_names_and_colours_are_never_drawn(name, vocabulary):
    held_out = HeldOut(classes=("box",), colours=("red",), palettes=((255, 0, 0), (0, 255, 0), (0, 0, 85)))
    for seed in range(200):
        for evaluation in (False, True):
            definition = REGISTRY[name].draw_definition(
                np.random.default_rng(seed), vocabulary, evaluation=evaluation, held_out=held_out
            )
            written = json.dumps(definition.to_dict())
            assert not any(word in written for word in ('"box"', '"red"', "[255, 0, 0]", "[0, 255, 0]", "[0, 0, 85]"))
