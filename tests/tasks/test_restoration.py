"""How photos are damaged."""

import numpy as np
import pytest
import torch

from lavin.errors import InputError
from lavin.tasks import degradations, get_task
from lavin.tasks.restoration import (
    DenoisingDefinition,
    GlassBlurDefinition,
    InpaintingDefinition,
    MotionBlurDefinition,
    RainDefinition,
)
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


FILTERS = ("deglassblur", "demotionblur", "deraining")


def drawn(name: str, evaluation: bool, count=400) -> list:
    rng = np.random.default_rng(0)
    return [get_task(name).draw_definition(rng, None, evaluation=evaluation) for _ in range(count)]


def test_training_ranges_of_the_filters():
    glass, motion, rain = (drawn(name, evaluation=False) for name in FILTERS)
    assert 0.4 <= min(d.sigma_px for d in glass) < 0.45 and 0.95 < max(d.sigma_px for d in glass) <= 1
    assert {d.max_delta_px for d in glass} == {2, 3, 4, 5, 6} and {d.iterations for d in glass} == {1, 2, 3}
    assert {d.side_px for d in motion} == {3, 5, 7, 9, 11, 13, 15}
    assert 0 <= min(d.angle_deg for d in motion) < 10 and 350 < max(d.angle_deg for d in motion) < 360
    for values in ([d.bias for d in motion], [d.shift[0] for d in motion], [d.shift[1] for d in motion]):
        assert -1 <= min(values) < -0.9 and 0.9 < max(values) <= 1
    assert {d.drops for d in rain} == {1 / 4, 1 / 3, 1, 2} and {d.slant_px for d in rain} == set(range(-10, 11))
    assert not any(d.mixed for d in glass + motion + rain)


def test_evaluation_has_the_standard_filters():
    glass, motion, rain = (drawn(name, evaluation=True) for name in FILTERS)
    assert set(glass) == {GlassBlurDefinition(0.7, 4, 2)}
    assert {d.side_px for d in motion} == {3, 5, 7} and max(d.angle_deg for d in motion) > 350
    assert {d.drops for d in rain} == {1 / 3} and {d.slant_px for d in rain} == set(range(-10, 11))


def test_motion_has_no_randomness_of_its_own():
    sample, definition = make_sample(), MotionBlurDefinition(7, 30.0, 0.2, (0.1, 0.3))
    damaged = get_task("demotionblur").input(sample, definition, np.random.default_rng(0))
    wanted = degradations.motion_blur(sample.clip[0].numpy(), degradations.motion_kernel(7, 30.0, 0.2, (0.1, 0.3)))
    assert torch.equal(((damaged[:, 0] + 1) * 127.5).round(), torch.from_numpy(wanted).permute(2, 0, 1).float())


@pytest.mark.parametrize(
    "name, definition", [("deglassblur", GlassBlurDefinition()), ("deraining", RainDefinition(1.0, 3))]
)
def test_drops_and_swaps_are_each_pictures_own(name, definition):
    sample = make_sample()
    first, again, other = (get_task(name).input(sample, definition, np.random.default_rng(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_rain_has_as_many_drops_as_it_says():
    """On black, streaks that do not meet add up: 64 / 4 drops of 8 + 1 pixels, each spread to a sum of 200 * 0.7."""
    sample = make_sample(size=(1, 64, 640))
    sample.clip[:] = 0
    damaged = get_task("deraining").input(sample, RainDefinition(1 / 4), np.random.default_rng(0))
    light = ((damaged[0] + 1) * 127.5).sum().item() / (200 * 0.7 * 9)
    assert 14.5 < light < 17.5  # rounding to whole levels, and mirrored borders, move it a little


def test_mixed_pictures_draw_their_own_parameters():
    sample, task = make_sample(), get_task("demotionblur")
    shared = MotionBlurDefinition(7, 0.0)
    mixed = MotionBlurDefinition(7, 0.0, mixed=True)
    inputs = {
        definition: [task.input(sample, definition, np.random.default_rng(s)) for s in range(6)]
        for definition in (shared, mixed)
    }
    assert all(torch.equal(inputs[shared][0], clip) for clip in inputs[shared])
    assert len({clip.numpy().tobytes() for clip in inputs[mixed]}) == 6


@pytest.mark.parametrize("fill", ["black", "grey"])
def test_composite_keeps_every_known_pixel_and_takes_the_hole_from_the_prediction(fill):
    """The hole is found again to the pixel, wherever it lies and whatever its size."""
    task = get_task("inpainting")
    for seed, hole in enumerate((1 / 8, 0.3, 0.5)):
        sample, definition = make_sample(size=(1, 64, 48)), InpaintingDefinition(hole, fill)
        shown = task.input(sample, definition, np.random.default_rng(seed))
        prediction = torch.rand_like(shown) * 2 - 1
        pasted, photo = task.composite(prediction, shown, definition), sample.rgb()
        changed = (shown != photo).any(0)
        assert round(hole * 48) ** 2 >= changed.sum() > 0.9 * round(hole * 48) ** 2
        assert torch.equal(pasted[:, changed], prediction[:, changed])
        taken = (pasted != photo).any(0)
        assert taken.sum() <= round(hole * 48) ** 2 and torch.equal(pasted[:, ~taken], photo[:, ~taken])


def test_a_hole_of_noise_cannot_be_found():
    task, definition = get_task("inpainting"), InpaintingDefinition(fill="noise")
    shown = task.input(make_sample(size=(1, 16, 16)), definition, np.random.default_rng(0))
    with pytest.raises(InputError, match="a hole filled with noise cannot be told from the photo; only black or grey"):
        task.composite(shown, shown, definition)
