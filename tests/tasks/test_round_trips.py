"""Every registered task reads back what it paints."""

import json

import numpy as np
import pytest
import torch

from lavin.errors import InputError
from lavin.tasks import REGISTRY, HeldOut
from lavin.tasks.codes import normalise_disparity
from tests.tasks.conftest import make_sample, person, rectangle, thing

EVERY_TASK = pytest.mark.parametrize("name", sorted(REGISTRY))
WITH_PEOPLE = ("pose", "pose_to_image")

LEVELS_FORGIVEN = {
    "foreground": 42,
    "semantic": 42,
    "instance": 42,
    "panoptic": 19,  # of 4 classes: the step is 42
    "video_instance": 42,
    "detection": 126,
    "referring": 126,
    "referring_caption": 126,
    "pose": 63,
    "edges": 126,
    "depth": 0,
    "normals": 0,
    "video_depth": 0,
    "video_normals": 0,
    "optical_flow": 0,
}
"""Error per channel, in 8-bit levels, that a task's label survives unchanged (with any definition); where the label is
the picture itself, what rounding removes."""


def random_things(seed: int, size: tuple[int, int, int]) -> list:
    """Up to six rectangles that do not overlap, each with an expression of its own."""
    rng = np.random.default_rng(seed)
    taken, things = torch.zeros(size, dtype=torch.bool), []
    for number in range(6):
        height, width = rng.integers(8, 30, 2)
        y, x = rng.integers(64 - height), rng.integers(64 - width)
        mask = rectangle(y, y + height, x, x + width, size)
        if not (mask & taken).any():
            taken |= mask
            names = str(rng.choice(["sphere", "box"])), str(rng.choice(["red", "blue"]))
            things.append(thing(mask, *names, distance_m=rng.uniform(1, 9), expressions=[f"thing {number}"]))
    return things


def random_people(seed: int, size: tuple[int, int, int]) -> list:
    """Two people side by side, whose discs do not touch."""
    rng = np.random.default_rng(seed)
    found = []
    for left in (4, 70):
        (x, width), (y, height) = (
            (low + rng.uniform(0, 8), rng.uniform(44, 48) * scale) for low, scale in ((left, 1), (4, 2.2))
        )
        found.append(person(x, y, x + width, y + height, size))
    return found


def random_sample(task, seed: int):
    """A sample of the kind that the task is about."""
    if task.name in WITH_PEOPLE:
        return make_sample(random_people(seed, (1, 128, 128)), seed, (1, 128, 128))
    size = (61 if task.name == "frame_prediction" else 13 if task.clips else 1, 64, 64)
    return make_sample(random_things(seed, size), seed, size)


def cases(task, vocabulary, wanted=6):
    """Samples that the task accepts, with a definition drawn for each."""
    found = []
    for seed in range(400):
        sample, definition = random_sample(task, seed), task.draw_definition(np.random.default_rng(seed), vocabulary)
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


def same_people(found: dict, truth: dict) -> bool:
    """Every joint within 0.7 px; people in any order."""
    if found["keypoints"].shape != truth["keypoints"].shape:
        return False
    first, second = (joints[joints[:, 0, 0].argsort()] for joints in (found["keypoints"], truth["keypoints"]))
    return torch.equal(first[..., 2], second[..., 2]) and (first - second)[..., :2].norm(dim=-1).max() <= 0.7


def is_read_back(name: str, found, truth, definition) -> bool:
    if name in ("depth", "video_depth"):
        valid = truth.isfinite()
        return (found - normalise_disparity(truth))[valid].abs().max() <= 1 / 510 + 1e-5
    if name in ("normals", "video_normals"):
        valid = truth.abs().sum(0) > 0
        cosine = (found.double() * truth.double()).sum(0)[valid].clamp(-1, 1)
        return cosine.arccos().rad2deg().max() < 0.4 and not found[:, ~valid].any()
    if name in ("instance", "video_instance"):
        return same_instances(found, truth)
    if name == "panoptic":
        return torch.equal(found // 1000, truth // 1000) and same_instances(found + 1, truth + 1)
    if name == "pose":
        return same_people(found, truth)
    if name == "optical_flow":
        radius = definition.radius * min(truth.shape[2:])
        known = truth.isfinite().all(0)
        shown = truth * (radius / truth.norm(dim=0).clamp(min=radius))  # longer flow has the radius as its length
        error = (found - shown).norm(dim=0)[known]
        return error.max() <= 0.007 * radius and error.mean() <= 0.002 * radius and not found[:, ~known].any()
    if truth.is_floating_point():
        return torch.allclose(found, truth, atol=1e-5)
    return torch.equal(found, truth)


@EVERY_TASK
def test_labels_survive_being_painted_and_the_noise_their_code_forgives(name, vocabulary):
    task, generator = REGISTRY[name], torch.Generator().manual_seed(1)
    for sample, definition in cases(task, vocabulary):
        truth = task.label(sample, definition)
        clip = task.paint(truth, definition)
        assert is_read_back(name, task.read(clip, definition), truth, definition)
        sign = torch.randint(2, clip.shape, generator=generator) * 2 - 1
        noisy = clip + sign * LEVELS_FORGIVEN.get(name, 0.49) / 127.5
        assert is_read_back(name, task.read(noisy, definition), truth, definition)


@EVERY_TASK
def test_inputs_and_targets_are_clips_of_whole_levels(name, vocabulary):
    task = REGISTRY[name]
    for sample, definition in cases(task, vocabulary):
        example = task.example(sample, definition, np.random.default_rng(0))
        if not task.clips:
            assert example.input.shape == example.target.shape == (3, *sample.size)
        assert all(clip.shape[1] % 4 == 1 and (clip.shape[1] > 1) == task.clips for clip in example)
        assert example.target.shape[1] == task.target_frames(example.input.shape[1], definition)
        for clip in example:
            assert clip.shape[0] == 3 and clip.shape[2:] == sample.size[1:] and clip.dtype == torch.float32
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
    floor = {"pose": 0.85}  # OKS of joints that are off by up to 0.7 px
    ceiling = {"depth": 0.02, "normals": 0.2}  # AbsRel of whole levels at 10 m; degrees
    ceiling |= {"video_depth": 0.02, "video_normals": 0.2, "optical_flow": 3}  # px: flow beyond the radius is cut
    assert score >= floor.get(name, 0.999) if metric.higher_is_better else score <= ceiling.get(name, 1e-9)


@EVERY_TASK
def test_definitions_survive_json_and_evaluation_has_one_style(name, vocabulary):
    task = REGISTRY[name]
    for seed in range(50):
        definition = task.draw_definition(np.random.default_rng(seed), vocabulary)
        assert task.definition_type.from_dict(json.loads(json.dumps(definition.to_dict()))) == definition
    drawn = ("class_name", "colour", "relation", "colours", "side_px", "angle_deg", "bias", "shift", "slant_px")
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


@EVERY_TASK
def test_a_sample_without_the_label_that_a_task_needs_is_refused_by_both_names(name, vocabulary):
    task = REGISTRY[name]
    definition = task.draw_definition(np.random.default_rng(0), vocabulary, evaluation=True)
    bare = make_sample(size=(21 if task.clips else 1, 16, 16))
    bare.id = "photos/7"
    for label in ("instances", "semantic", "panoptic", "depth", "normals", "flow"):
        setattr(bare, label, None)
    if not task.needs:
        assert task.accepts(bare, definition)
        return
    assert not task.accepts(bare, definition)
    needed = ".*".join(task.needs)
    with pytest.raises(InputError, match=f"task '{name}' needs {needed}.* which sample 'photos/7' lacks"):
        task.example(bare, definition, np.random.default_rng(0))


@pytest.mark.parametrize("name", sorted(name for name, task in REGISTRY.items() if task.clips))
def test_a_picture_is_no_clip_and_the_error_says_so(name, vocabulary):
    definition = REGISTRY[name].draw_definition(np.random.default_rng(0), vocabulary, evaluation=True)
    picture = make_sample(random_things(0, (1, 64, 64)))
    assert not REGISTRY[name].accepts(picture, definition)
    with pytest.raises(InputError, match=f"task '{name}' needs a clip of .*this one has 1.*, which sample '0' lacks"):
        REGISTRY[name].example(picture, definition, np.random.default_rng(0))
