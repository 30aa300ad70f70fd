"""Depth, normals and edges of samples."""

import numpy as np
import torch

from lavin.tasks import get_task
from lavin.tasks.geometry import DepthDefinition, EdgesDefinition
from tests.tasks.conftest import make_sample


def square(inside: int, outside: int) -> torch.Tensor:
    photo = torch.full((1, 64, 64, 3), outside, dtype=torch.uint8)
    photo[:, 16:48, 16:48] = inside
    return photo


def test_edges_are_a_thin_line_around_a_square():
    sample = make_sample()
    sample.clip = square(200, 50)
    edges = get_task("edges").label(sample, EdgesDefinition())
    away = torch.zeros_like(edges)
    away[:, 14:50, 14:50] = True
    away[:, 18:46, 18:46] = False
    assert not (edges & ~away).any() and 100 <= edges.sum() <= 140  # its outline is 4 x 32 pixels long


def test_edges_follow_the_thresholds():
    """A step of h levels has a Sobel gradient of 4 h."""
    sample = make_sample()
    sample.clip = square(90, 60)  # gradient 120
    task = get_task("edges")
    assert not task.label(sample, EdgesDefinition((100, 200))).any()
    assert task.label(sample, EdgesDefinition((50, 100))).any()


def test_blur_removes_the_edges_of_noise():
    task, sample = get_task("edges"), make_sample(seed=3)
    sample.clip = (sample.clip.float() * 0.5 + 60).to(torch.uint8)
    plain, blurred = (task.label(sample, EdgesDefinition(blur=blur)).sum() for blur in (False, True))
    assert blurred < 0.7 * plain


def test_sky_is_black_in_depth():
    sample = make_sample()
    task = get_task("depth")
    clip = task.paint(task.label(sample, DepthDefinition()), DepthDefinition())
    assert (clip[:, :, :8] == -1).all() and clip[:, :, 8:].max() == 1


def test_relative_disparity_goes_in_as_it_is():
    sample, task = make_sample(), get_task("depth")
    sample.depth, sample.depth_kind = torch.linspace(0, 7, 64).expand(1, 64, 64).clone(), "relative_disparity"
    found = task.read(task.paint(task.label(sample, DepthDefinition()), DepthDefinition()), DepthDefinition())
    inner = slice(1, -1)  # the outer columns lie beyond the quantiles
    line = np.polyfit(sample.depth[0, 0, inner], found[0, 0, inner], 1)
    residual = found[0, 0, inner].numpy() - np.polyval(line, sample.depth[0, 0, inner])
    assert line[0] > 0 and np.abs(residual).max() < 1 / 200


def test_training_varies_what_the_specification_varies(vocabulary):
    rng = np.random.default_rng(0)
    depths = [get_task("depth").draw_definition(rng, vocabulary).colour_map != "grey" for _ in range(1000)]
    normals = [get_task("normals").draw_definition(rng, vocabulary) for _ in range(1000)]
    permuted = [(d.axes, d.signs) != ((0, 1, 2), (1, 1, 1)) for d in normals]
    assert 0.25 < np.mean(depths) < 0.35 and 0.06 < np.mean(permuted) < 0.14
    assert all(sorted(d.axes) == [0, 1, 2] for d in normals)
