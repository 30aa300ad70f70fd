"""Photos of drawn labels."""

import numpy as np
import pytest
import torch

from lavin.tasks import get_task
from lavin.tasks.geometry import DepthDefinition, NormalsDefinition
from tests.tasks.conftest import make_sample


@pytest.mark.parametrize(
    "back, there, definition, frames",
    [
        ("depth_to_image", "depth", DepthDefinition("ice"), 1),
        ("normals_to_image", "normals", NormalsDefinition((2, 0, 1), (1, -1, 1)), 1),
        ("depth_to_video", "video_depth", DepthDefinition(), 5),
        ("normals_to_video", "video_normals", NormalsDefinition(), 9),
    ],
)
def test_generation_is_its_label_s_task_backwards(back, there, definition, frames):
    sample, rng = make_sample(size=(frames, 32, 32)), np.random.default_rng(0)
    forwards, backwards = (get_task(name).example(sample, definition, rng) for name in (there, back))
    assert torch.equal(forwards.input, backwards.target) and torch.equal(forwards.target, backwards.input)


@pytest.mark.parametrize("back, there", [("depth_to_image", "depth"), ("normals_to_image", "normals")])
def test_definitions_are_those_of_the_label_s_task(back, there, vocabulary):
    for seed in range(30):
        drawn = [get_task(name).draw_definition(np.random.default_rng(seed), vocabulary) for name in (back, there)]
        assert drawn[0] == drawn[1]
