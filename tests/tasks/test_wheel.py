"""FLOW: the Middlebury wheel, against torchvision's and against a search for the nearest colour."""

import math

import pytest
import torch
from torchvision.utils import flow_to_image

from lavin.tasks.codes import clip_from_levels, levels_from_clip
from lavin.tasks.wheel import decode_flow, encode_flow, wheel


def disc(seed=0, size=(2, 40, 50), radius=16.0) -> torch.Tensor:
    """Flow of every direction, no longer than the radius."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(size, generator=generator) * 2 * math.pi
    length = torch.rand(size, generator=generator).sqrt() * radius
    return torch.stack([length * angle.cos(), length * angle.sin()])


def test_the_wheel_has_the_hues_of_middlebury():
    colours = wheel().int().tolist()
    assert len(colours) == 55 and colours[0] == [255, 0, 0] and colours[15] == [255, 255, 0]
    assert colours[21] == [0, 255, 0] and colours[25] == [0, 255, 255]
    assert colours[36] == [0, 0, 255] and colours[49] == [255, 0, 255]


def test_colours_are_torchvisions():
    """torchvision truncates levels where we round, and divides by the longest flow: here exactly 16 px."""
    flow = disc()
    flow[:, 0, 0, 0] = torch.tensor([0.0, 16.0])
    found = levels_from_clip(encode_flow(flow, 16.0)).round().transpose(0, 1)
    wanted = torch.cat([flow_to_image(frame.unsqueeze(0) / flow.norm(dim=0).max() * 16) for frame in flow.unbind(1)])
    per_frame = flow.norm(dim=0).flatten(1).amax(1)  # it scales each frame by its own longest flow
    assert per_frame.min() > 15.9
    assert (found - wanted.float()).abs().max() <= 2


def test_right_is_red_still_is_white_and_unknown_is_black():
    flow = torch.tensor([[16.0, 0, math.nan, 0], [0, 0, 0, 16.0]]).view(2, 1, 1, 4)
    levels = levels_from_clip(encode_flow(flow, 16.0)).round()[:, 0, 0].T.tolist()
    assert levels[0] == [255, 0, 42] or levels[0] == [255, 0, 0]  # both ends of the wheel mean right
    assert levels[1:3] == [[255, 255, 255], [0, 0, 0]]
    assert levels[3] == [255, 230, 0]  # down: position 13.5 of 54, between 238 and 221 of green on the way to yellow


@pytest.mark.parametrize("radius", [4.0, 16.0, 64.0])
def test_flow_comes_back_within_the_tolerance(radius):
    flow = disc(radius=radius)
    error = (decode_flow(encode_flow(flow, radius), radius) - flow).norm(dim=0)
    assert error.max() <= 0.007 * radius and error.mean() <= 0.002 * radius


def test_every_direction_comes_back_around_the_circle():
    """One degree apart, at full length: the seam between the wheel's ends included."""
    angle = torch.arange(360).deg2rad().view(1, 1, -1)
    flow = torch.stack([angle.cos(), angle.sin()])
    error = (decode_flow(encode_flow(flow, 1.0), 1.0) - flow).norm(dim=0)
    assert error.max() < 0.007


def test_long_flow_keeps_its_direction_and_has_the_radius():
    flow = torch.tensor([30.0, 40.0]).view(2, 1, 1, 1)
    found = decode_flow(encode_flow(flow, 10.0), 10.0).flatten()
    torch.testing.assert_close(found, torch.tensor([6.0, 8.0]), atol=0.07, rtol=0)


def test_the_decoder_finds_the_nearest_point_of_a_densely_sampled_wheel():
    """Colours off the wheel by up to 6 levels: compare with a search over 5400 directions and 100 lengths."""
    generator = torch.Generator().manual_seed(3)
    flow = disc(1, (1, 5, 6), 1.0)
    levels = (levels_from_clip(encode_flow(flow, 1.0)) + 12 * torch.rand(3, 1, 5, 6, generator=generator) - 6).clamp(
        0, 255
    )
    found = decode_flow(clip_from_levels(levels), 1.0)
    angle = torch.linspace(0, 2 * math.pi, 5401)[:-1].view(1, -1)
    length = torch.linspace(0, 1, 101).view(-1, 1)
    grid = torch.stack([length * angle.cos(), length * angle.sin()]).unsqueeze(1)
    colours = levels_from_clip(encode_flow(grid, 1.0)).flatten(1).T
    nearest = torch.cdist(levels.round().flatten(1).T, colours).argmin(1)
    wanted = grid.flatten(1)[:, nearest].view(2, 1, 5, 6)
    assert (found - wanted).norm(dim=0).max() < 0.05  # the search lets saturation and hue share the error


def test_five_levels_of_noise_cost_about_three_percent_of_the_radius():
    flow = disc(2, (1, 100, 100), 1.0)
    clip = encode_flow(flow, 1.0)
    noisy = clip + 5 / 127.5 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    error = (decode_flow(noisy, 1.0) - flow).norm(dim=0)
    assert 0.015 < error.mean() < 0.045


def test_black_and_dark_are_unknown():
    clip = torch.full((3, 1, 2, 2), -1.0)
    clip[:, 0, 0, 0] = 0.9
    assert decode_flow(clip, 1.0)[0].isnan().tolist() == [[[False, True], [True, True]]]
