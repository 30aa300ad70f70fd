"""Video: tasks of clips of 1 + 4k frames. Frame prediction, optical flow, and the clip versions of picture tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lavin.data.sample import Instance, Sample
from lavin.tasks.base import Definition, Draw, Task, register
from lavin.tasks.generation import DepthToImageTask, NormalsToImageTask
from lavin.tasks.geometry import DepthTask, NormalsTask
from lavin.tasks.regions import InstanceDefinition, InstanceTask
from lavin.tasks.restoration import RestorationTask
from lavin.tasks.wheel import decode_flow, encode_flow

STRIDES = (1, 2, 3)
"""Source frames from one shown frame to the next; the first is the standard one."""


def whole_clip(frames: int) -> int:
    """The most frames of the form 1 + 4k, k >= 0, among so many; 0 of none."""
    return 1 + (frames - 1) // 4 * 4 if frames else 0


class ClipTask(Task):
    """A task of clips: it takes samples of 1 + 4k frames, k > 0. First among a class's bases."""

    clips = True

    def missing(self, sample: Sample) -> list[str]:
        frames = sample.size[0]
        fits = frames > 1 and whole_clip(frames) == frames
        return super().missing(sample) + ([] if fits else [f"a clip of 1 + 4k frames, k > 0 (this one has {frames})"])

    def accepts(self, sample: Sample, definition: Definition) -> bool:
        return not self.missing(sample) and super().accepts(sample, definition)


@register("video_depth")
class VideoDepthTask(ClipTask, DepthTask):
    """Depth of a clip as disparity (DISP): one scale and shift, lo and hi, for all its frames."""

    description = "how near everything is, frame by frame on one scale"


@register("video_normals")
class VideoNormalsTask(ClipTask, NormalsTask):
    """Surface normals of a clip (NRM), each frame's in the camera of that frame."""

    description = "which way every surface faces, in each frame's own camera"


@register("depth_to_video")
class DepthToVideoTask(ClipTask, DepthToImageTask):
    """The clip whose disparity (DISP) is shown."""

    description = "a clip with the depth that is shown"


@register("normals_to_video")
class NormalsToVideoTask(ClipTask, NormalsToImageTask):
    """The clip whose surface normals (NRM) are shown."""

    description = "a clip with the surface normals that are shown"


@register("video_instance")
class VideoInstanceTask(ClipTask, InstanceTask):
    """Every object of a clip in a colour of its own (CELL), which says where the first frame that shows it has it."""

    description = "every object in one colour through the whole clip"
    metric_name = "J&F"

    def accepts(self, sample: Sample, definition: InstanceDefinition) -> bool:
        """1 ... 63 things that show in some frame."""
        return not self.missing(sample) and 1 <= len(self.tracks(sample, definition)) <= 63

    @staticmethod
    def tracks(sample: Sample, definition: InstanceDefinition) -> list[Instance]:
        """Things that are meant and can be told apart."""
        return [thing for thing in definition.of(sample) if not thing.crowd and bool(thing.mask.any())]

    def metric(self):
        from lavin.metrics.video import VideoJF

        return VideoJF()


@dataclass(frozen=True)
class FramesDefinition(Definition):
    """Which frames are shown, and how many are asked for."""

    stride: int = STRIDES[0]
    """Source frames from one frame to the next."""
    seen: int = 9
    """Frames of the input, 1 + 4k."""
    new: int = 12
    """Frames to predict, 4k; the target begins with the last seen one."""

    @property
    def span(self) -> int:
        """Source frames that input and target reach over."""
        return (self.seen + self.new - 1) * self.stride + 1


@register("frame_prediction")
class FramePredictionTask(RestorationTask):
    """What happens next: from 9 frames, the last of them again and 12 new ones; only the new ones are scored.

    ``FramePredictionTask(seen=5, new=4)`` draws definitions for shorter clips.
    """

    description = "the next frames of a clip"
    clips = True
    source_frames = 21
    own_length = True
    metric_name = "MSE"
    definition_type = FramesDefinition

    def __init__(self, seen: int = FramesDefinition.seen, new: int = FramesDefinition.new):
        self.seen, self.new = seen, new

    def define(self, draw: Draw) -> FramesDefinition:
        stride = STRIDES[0] if draw.evaluation else STRIDES[draw.rng.integers(len(STRIDES))]
        return FramesDefinition(stride, self.seen, self.new)

    def missing(self, sample: Sample) -> list[str]:
        frames, needed = sample.size[0], FramesDefinition(STRIDES[0], self.seen, self.new).span
        return [] if frames >= needed else [f"a clip of {needed} frames (this one has {frames})"]

    def accepts(self, sample: Sample, definition: FramesDefinition) -> bool:
        return sample.size[0] >= definition.span

    def target_frames(self, frames: int, definition: FramesDefinition) -> int:
        return 1 + definition.new

    def input(self, sample: Sample, definition: FramesDefinition, rng: np.random.Generator) -> Tensor:
        """The frames seen, (3, seen, height, width)."""
        return self._frames(sample, definition)[:, : definition.seen]

    def label(self, sample: Sample, definition: FramesDefinition) -> Tensor:
        """The last frame seen and the new ones, float32 (3, 1 + new, height, width) in [-1, 1]."""
        return self._frames(sample, definition)[:, definition.seen - 1 :]

    @staticmethod
    def _frames(sample: Sample, definition: FramesDefinition) -> Tensor:
        return sample.rgb()[:, : definition.span : definition.stride]

    def metric(self):
        from lavin.tasks.video_score import NewFramesMSE

        return NewFramesMSE()


@dataclass(frozen=True)
class FlowDefinition(Definition):
    """The scale of the flow's colours, and the time between frames."""

    radius: float = 1 / 16
    """Length that is fully saturated, as a share of the picture's shorter side: 16 px at 256; training draws 4 ... 64
    px at 256, evenly on a logarithmic scale."""
    stride: int = STRIDES[0]
    """Source frames from one frame to the next, and that the flow reaches over."""


@register("optical_flow")
class OpticalFlowTask(ClipTask):
    """Where every pixel of a frame is in the next one (FLOW): direction is hue, length is saturation, still is white.

    u is right, v is down, in pixels; every frame has a flow, the last one's being that to the frame after the clip.
    """

    description = "where every pixel moves: direction as hue, speed as saturation"
    needs = ("flow",)
    metric_name = "EPE"
    definition_type = FlowDefinition

    def define(self, draw: Draw) -> FlowDefinition:
        if draw.evaluation:
            return FlowDefinition()
        return FlowDefinition(2 ** draw.rng.uniform(-6, -2), STRIDES[draw.rng.integers(len(STRIDES))])

    def accepts(self, sample: Sample, definition: FlowDefinition) -> bool:
        """Five frames at least remain; where flow must be chained, instances tell what hides what."""
        if self.missing(sample) or not bool(sample.flow.isfinite().any()):
            return False
        if definition.stride > 1 and sample.instances is None:
            return False
        return whole_clip(sample.size[0] // definition.stride) > 1

    def input(self, sample: Sample, definition: FlowDefinition, rng: np.random.Generator) -> Tensor:
        """Every stride-th frame, as many as make 1 + 4k."""
        return sample.rgb()[:, shown_frames(sample, definition)]

    def label(self, sample: Sample, definition: FlowDefinition) -> Tensor:
        """Pixels (u right, v down) from a shown frame to the next shown one, float32 (2, frames, height, width); NaN
        where unknown."""
        if definition.stride == 1:
            return sample.flow[:, shown_frames(sample, definition)]
        things = thing_numbers(sample)
        chained = [
            chain_flow(sample.flow[:, start : start + definition.stride], things[start : start + definition.stride])
            for start in shown_frames(sample, definition)
        ]
        return torch.stack(chained, 1)

    def paint(self, label: Tensor, definition: FlowDefinition) -> Tensor:
        return encode_flow(label, radius_px(label, definition))

    def read(self, clip: Tensor, definition: FlowDefinition) -> Tensor:
        """Flow in pixels, float32 (2, frames, height, width); 0 where the clip is black, i.e. says "unknown"."""
        return decode_flow(clip, radius_px(clip, definition)).nan_to_num(0)

    def resize(self, label: Tensor, size: tuple[int, int]) -> Tensor:
        """The vectors grow with the picture."""
        growth = [after / before for after, before in zip(size[::-1], label.shape[:-3:-1], strict=True)]
        return super().resize(label, size) * torch.tensor(growth).view(2, 1, 1, 1)

    def metric(self):
        from lavin.metrics.optical_flow import EndPointError

        return EndPointError()


def radius_px(clip: Tensor, definition: FlowDefinition) -> float:
    """Length in pixels that is fully saturated in a clip or flow (channels, frames, height, width)."""
    return definition.radius * min(clip.shape[2:])


def shown_frames(sample: Sample, definition: FlowDefinition) -> list[int]:
    """The frames that a stride shows, 1 + 4k of them; after the last one, stride - 1 more have a flow."""
    count = whole_clip(sample.size[0] // definition.stride)
    return list(range(0, count * definition.stride, definition.stride))


def thing_numbers(sample: Sample) -> Tensor:
    """Which thing every pixel shows, int64 (frames, height, width), 0 = none."""
    numbers = torch.zeros(sample.size, dtype=torch.long)
    for number, thing in enumerate(sample.instances, start=1):
        numbers.masked_fill_(thing.mask, number)
    return numbers


def chain_flow(flow_px: Tensor, things: Tensor) -> Tensor:
    """Flow over several frames: follow each pixel of the first one from frame to frame.

        F_1 = f_0        F_(n+1)(x) = F_n(x) + f_n(x + F_n(x)), f_n read bilinearly

    NaN where the way leaves the picture, meets unknown flow, or where the pixel that it meets shows another thing:
    then what is followed has gone behind that.

    Args:
        flow_px: (2, steps, height, width), flow of consecutive frames.
        things: int64 (steps, height, width), which thing every pixel shows.
    """
    _, steps, height, width = flow_px.shape
    total = flow_px[:, 0]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for step in range(1, steps):
        there_x, there_y = x + total[0], y + total[1]
        unit = torch.stack([(there_x + 0.5) * 2 / width - 1, (there_y + 0.5) * 2 / height - 1], -1)
        inside = (unit.abs() <= 1).all(-1)  # False for NaN
        unit = unit.nan_to_num(0).unsqueeze(0)
        met = F.grid_sample(
            things[step].float()[None, None], unit, mode="nearest", padding_mode="border", align_corners=False
        )[0, 0]
        further = F.grid_sample(
            flow_px[:, step].unsqueeze(0), unit, mode="bilinear", padding_mode="border", align_corners=False
        )[0]
        total = (total + further).masked_fill(~inside | (met.long() != things[0]), torch.nan)
    return total
