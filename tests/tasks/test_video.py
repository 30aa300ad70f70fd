"""Clips: which are accepted, what is shown of them, and flow over several frames."""

import numpy as np
import pytest
import torch

from lavin.tasks import REGISTRY, get_task
from lavin.tasks.codes import P63
from lavin.tasks.geometry import DepthDefinition
from lavin.tasks.regions import InstanceDefinition
from lavin.tasks.video import FlowDefinition, FramePredictionTask, FramesDefinition, chain_flow
from tests.tasks.conftest import make_sample, rectangle, thing

LABELLED = sorted(name for name, task in REGISTRY.items() if task.clips and name != "frame_prediction")


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("frames, accepted", [(1, False), (4, False), (5, True), (8, False), (9, True)])
def test_clips_have_1_plus_4k_frames(name, frames, accepted, vocabulary):
    size = (frames, 32, 32)
    sample = make_sample([thing(rectangle(5, 20, 5, 20, size))], size=size)
    definition = REGISTRY[name].draw_definition(np.random.default_rng(0), vocabulary, evaluation=True)
    assert REGISTRY[name].accepts(sample, definition) == accepted


def test_one_scale_of_disparity_serves_the_clip():
    """A clip that ends twice as far away as it starts: the last frame is darker than the first, not as bright."""
    sample, task = make_sample(size=(5, 16, 16)), get_task("video_depth")
    sample.depth = torch.linspace(2, 4, 5).view(-1, 1, 1).expand(5, 16, 16).clone()
    levels = task.example(sample, DepthDefinition(), np.random.default_rng(0)).target[0].mean((1, 2))
    wanted = 2 * (1 / torch.linspace(2, 4, 5) - 1 / 4) / (1 / 2 - 1 / 4) - 1
    torch.testing.assert_close(levels, wanted, atol=1 / 127.5, rtol=0)


def test_an_instance_that_comes_later_counts_and_keeps_its_colour():
    """It shows from frame 2 on, first in cell 0, and moves on to cell 62."""
    size = (5, 70, 90)
    late = torch.zeros(size, dtype=torch.bool)
    late[2, :8, :8], late[3:, 62:, 82:] = True, True
    sample, task = make_sample([thing(late)], size=size), get_task("video_instance")
    assert task.accepts(sample, InstanceDefinition()) and not get_task("instance").accepts(sample, InstanceDefinition())
    target = task.example(sample, InstanceDefinition(), np.random.default_rng(0)).target
    assert torch.equal(target[:, 2, 4, 4], target[:, 4, 66, 86])
    assert ((target[:, 2, 4, 4] + 1) * 127.5).round().tolist() == list(P63[0])


def test_frame_prediction_shows_nine_frames_and_asks_for_the_ninth_and_twelve_more():
    sample, task = make_sample(size=(24, 8, 8)), get_task("frame_prediction")
    example = task.example(sample, FramesDefinition(), np.random.default_rng(0))
    assert torch.equal(example.input, sample.rgb()[:, :9]) and torch.equal(example.target, sample.rgb()[:, 8:21])
    assert task.target_frames(9, FramesDefinition()) == 13


@pytest.mark.parametrize("stride, frames, accepted", [(1, 20, False), (1, 21, True), (3, 60, False), (3, 61, True)])
def test_frame_prediction_needs_frames_enough_for_its_stride(stride, frames, accepted):
    sample, definition = make_sample(size=(frames, 4, 4)), FramesDefinition(stride)
    assert get_task("frame_prediction").accepts(sample, definition) == accepted
    if accepted:
        example = get_task("frame_prediction").example(sample, definition, np.random.default_rng(0))
        assert torch.equal(example.target[:, -1], sample.rgb()[:, -1])


def test_frame_prediction_of_short_clips():
    task = FramePredictionTask(seen=5, new=4)
    sample, definition = make_sample(size=(9, 4, 4)), FramesDefinition(1, 5, 4)
    assert task.draw_definition(np.random.default_rng(0), None, evaluation=True) == definition
    assert task.accepts(sample, definition)
    assert torch.equal(task.label(sample, definition), sample.rgb()[:, 4:])


def test_only_new_frames_are_scored():
    truth = torch.zeros(3, 5, 8, 8)
    seen_wrong, new_wrong = truth.clone(), truth.clone()
    seen_wrong[:, 0], new_wrong[:, 4] = 1, 1
    scores = []
    for clip in (seen_wrong, new_wrong):
        metric = get_task("frame_prediction").metric()
        metric.update(clip, truth)
        scores.append(metric.compute().item())
    assert scores == [0, pytest.approx(0.25 / 4)]


@pytest.mark.parametrize("frames, stride, shown", [(13, 1, 13), (13, 2, 5), (13, 3, None), (9, 2, None), (17, 3, 5)])
def test_flow_shows_every_stride_th_frame_as_far_as_flow_is_known(frames, stride, shown):
    task, sample = get_task("optical_flow"), make_sample(size=(frames, 8, 8))
    definition = FlowDefinition(stride=stride)
    assert task.accepts(sample, definition) == (shown is not None)
    if shown:
        example = task.example(sample, definition, np.random.default_rng(0))
        assert torch.equal(example.input, sample.rgb()[:, : shown * stride : stride])
        assert example.target.shape == example.input.shape


def test_the_radius_is_a_share_of_the_picture():
    """16 px at 256 is 2 px at 32: flow of 2 px is fully saturated, of 1 px half."""
    sample, task = make_sample(size=(5, 32, 32)), get_task("optical_flow")
    sample.flow = torch.zeros(2, 5, 32, 32)
    sample.flow[0, :, :16], sample.flow[0, :, 16:] = 2, 1
    target = task.example(sample, FlowDefinition(), np.random.default_rng(0)).target
    levels = ((target + 1) * 127.5).round()
    assert levels[:, 0, 0, 0].tolist() == [255, 0, 0] and levels[:, 0, 20, 0].tolist() == [255, 128, 128]


def test_reading_black_as_flow_is_standing_still():
    assert not get_task("optical_flow").read(-torch.ones(3, 5, 8, 8), FlowDefinition()).any()


def chained_slowly(flow, things):
    """Follow every pixel by itself, in float64."""
    _, steps, height, width = flow.shape
    out = np.full((2, height, width), np.nan)
    for row in range(height):
        for column in range(width):
            x, y = float(column), float(row)
            for step in range(steps):
                if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                    break
                if things[step, min(round(y), height - 1), min(round(x), width - 1)] != things[0, row, column]:
                    break
                x0, y0 = int(np.floor(x)), int(np.floor(y))
                moved = np.zeros(2)
                for j, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
                    for i, wx in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                        moved += wy * wx * flow[:, step, min(max(j, 0), height - 1), min(max(i, 0), width - 1)]
                x, y = x + moved[0], y + moved[1]
            else:
                out[:, row, column] = x - column, y - row
    return out


def test_chained_flow_is_the_slow_one():
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 1.3, (2, 3, 10, 12))
    things = np.zeros((3, 10, 12), int)
    things[:, 2:6, 3:9] = 1
    found = chain_flow(torch.from_numpy(flow).float(), torch.from_numpy(things)).numpy()
    wanted = chained_slowly(flow, things)
    known = ~np.isnan(wanted)
    assert 0.2 < known.mean() < 0.9
    disagree = np.isnan(found) != np.isnan(wanted)  # half-way between two pixels, float32 may choose the other
    assert disagree.mean() <= 0.02
    both = known & ~np.isnan(found)
    np.testing.assert_allclose(found[both], wanted[both], atol=1e-4)


def test_chained_flow_of_known_motion():
    """A square moves 3 px right a frame before a ground that moves 1 px left: over 2 frames 6 and -2; what the square
    hides in between, and what leaves the picture, is unknown."""
    size = (3, 20, 30)
    flow = torch.zeros(2, *size)
    things = torch.zeros(size, dtype=torch.long)
    for frame in range(3):
        inside = slice(5 + 3 * frame, 11 + 3 * frame)
        flow[0, frame] = -1
        flow[0, frame, 5:11, inside], things[frame, 5:11, inside] = 3, 1
    found = chain_flow(flow[:, :2], things[:2])
    square = things[0] == 1
    assert (found[0][square] == 6).all() and not found[1][square].any()
    hidden = torch.zeros_like(square)
    hidden[5:11, 11:15] = True  # at columns 10 ... 13 of frame 1, where the square has columns 8 ... 13
    assert found[:, hidden].isnan().all()
    assert found[:, :, 0].isnan().all()  # at column -1 of frame 1
    ground = ~square & ~hidden
    ground[:, 0] = False
    assert (found[0][ground] == -2).all() and not found[1][ground].any()


def test_strides_of_flow_need_instances():
    sample, task = make_sample(size=(13, 8, 8)), get_task("optical_flow")
    sample.instances = None
    assert task.accepts(sample, FlowDefinition()) and not task.accepts(sample, FlowDefinition(stride=2))


def test_training_ranges_of_clips():
    rng = np.random.default_rng(0)
    flows = [get_task("optical_flow").draw_definition(rng, None) for _ in range(300)]
    radii = [256 * definition.radius for definition in flows]
    assert 4 <= min(radii) < 5 and 50 < max(radii) <= 64 and {d.stride for d in flows} == {1, 2, 3}
    assert 13 < np.median(radii) < 20  # evenly on a logarithmic scale: 16; on a linear one it would be 34
    strides = {get_task("frame_prediction").draw_definition(rng, None).stride for _ in range(100)}
    assert strides == {1, 2, 3}
