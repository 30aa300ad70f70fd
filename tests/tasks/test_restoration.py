"""How photos are damaged."""

import numpy as np
import pytest
import torch

from lavin.tasks import get_task
from lavin.tasks.restoration import DenoisingDefinition, InpaintingDefinition
from tests.tasks.conftest import make_sample


@pytest.mark.parametrize("fill, levels", [("black", {0}), ("grey", {128}), ("noise", set(range(256)))])
@pytest.mark.parametrize("hole", [1 / 8, 0.3, 1 / 2])
def test_inpainting_cuts_one_square_somewhere(fill, levels, hole):
    sample, definition = make_sample(size=(2, 64, 96)), InpaintingDefinition(hole, fill)
    sample.clip[:] = 77
    corners = set()
    for seed in range(8):
        damaged = get_task("inpainting").input(sample, definition, np.random.default_rng(seed))
        changed = (damaged != sample.rgb()).any(0).any(0)
        y, x = changed.nonzero(as_tuple=True)
        side = round(64 * hole)
        assert y.max() - y.min() + 1 == x.max() - x.min() + 1 == side and changed.sum() == side**2
        inside = ((damaged[:, :, changed] + 1) * 127.5).round().int().unique().tolist()
        assert set(inside) <= levels and (fill != "noise" or len(inside) > 100)
        corners.add((int(y.min()), int(x.min())))
    assert len(corners) > 1


def test_the_hole_lies_anywhere_that_it_fits():
    sample = make_sample(size=(1, 4, 4))
    sample.clip[:] = 77
    inputs = [
        get_task("inpainting").input(sample, InpaintingDefinition(), np.random.default_rng(s)) for s in range(200)
    ]
    corners = [tuple((clip[0, 0] == -1).nonzero()[0].tolist()) for clip in inputs]
    assert set(corners) == {(y, x) for y in range(3) for x in range(3)}


def test_noise_has_the_contexts_sigma():
    sample = make_sample()
    sample.clip[:] = 128  # far from both ends, so that clipping does not matter
    damaged = get_task("denoising").input(sample, DenoisingDefinition(20.0), np.random.default_rng(0))
    error = (damaged - sample.rgb()) * 127.5
    assert abs(error.std() - 20) < 0.6 and abs(error.mean()) < 0.6  # 12288 draws: standard error 0.13 and 0.18


def test_colorization_shows_the_grey_of_the_photo():
    sample = make_sample()
    sample.clip[0, 0, :3] = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    grey = get_task("colorization").input(sample, get_task("colorization").definition_type(), np.random.default_rng(0))
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    levels = ((grey[0, 0, 0, :3] + 1) * 127.5).round().int().tolist()
    assert levels == [76, 150, 29]  # 0.299, 0.587 and 0.114 of 255


def test_training_ranges():
    rng = np.random.default_rng(0)
    holes = [get_task("inpainting").draw_definition(rng, None) for _ in range(300)]
    sigmas = [get_task("denoising").draw_definition(rng, None).sigma for _ in range(300)]
    assert min(d.hole for d in holes) >= 1 / 8 and max(d.hole for d in holes) <= 1 / 2
    assert {d.fill for d in holes} == {"black", "grey", "noise"}
    assert 10 <= min(sigmas) < 15 and 55 < max(sigmas) <= 60
