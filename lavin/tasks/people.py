"""People: their joints as a drawing, and the photo of a drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lavin.data.sample import Instance, Sample
from lavin.tasks import codes
from lavin.tasks.base import Definition, Draw, Task, register
from lavin.tasks.generation import GenerationTask
from lavin.tasks.skeleton import People, decode_pose, encode_pose

LEAST_JOINTS = 5
"""Joints that a person must have labelled for a picture to be worth asking about."""
MARGIN = 1.25
"""Side of a person's crop over the longer side of its box."""


@dataclass(frozen=True)
class PoseDefinition(Definition):
    """What is shown of the photo."""

    view: str = "scene"
    """``scene``: the whole photo and everybody in it; ``person``: a square around the largest person, nobody else."""


@register("pose")
class PoseTask(Task):
    """Everybody's joints and bones on black (POSE): 17 COCO joints as coloured discs, 19 bones as grey lines."""

    description = "people's joints as coloured discs, their bones as grey lines"
    needs = ("instances",)
    people = True
    metric_name = "OKS"
    definition_type = PoseDefinition

    def define(self, draw: Draw) -> PoseDefinition:
        return PoseDefinition("person" if not draw.evaluation and draw.rng.random() < 0.5 else "scene")

    def missing(self, sample: Sample) -> list[str]:
        if sample.instances is None:
            return ["instances with keypoints"]
        return [] if any(thing.keypoints is not None for thing in sample.instances) else ["keypoints of instances"]

    def accepts(self, sample: Sample, definition: PoseDefinition) -> bool:
        """A picture with somebody of whom five joints are labelled."""
        return sample.size[0] == 1 and not self.missing(sample) and subject(sample) is not None

    def input(self, sample: Sample, definition: PoseDefinition, rng: np.random.Generator | None = None) -> Tensor:
        """The photo, or the square around the largest person at the photo's size."""
        if definition.view == "scene":
            return sample.rgb()
        return crop(sample.rgb(), *square_around(subject(sample)))

    def label(self, sample: Sample, definition: PoseDefinition) -> People:
        """Joints in pixels of the input."""
        everybody = definition.view == "scene"
        people = persons(sample) if everybody else [subject(sample)]
        found = People(
            torch.stack([person.keypoints.float() for person in people]),
            torch.tensor([area_px(person) for person in people]),
            torch.stack([person.box[0].float() for person in people]),
            sample.size[1:],
        )
        return found if everybody else cut(found, *square_around(people[0])).resized(sample.size[1:])

    def paint(self, label: People, definition: PoseDefinition) -> Tensor:
        return encode_pose(label)

    def read(self, clip: Tensor, definition: PoseDefinition) -> People:
        return decode_pose(clip, single=definition.view == "person")

    def resize(self, label: People, size: tuple[int, int]) -> People:
        return label.resized(size)

    def metric(self):
        from lavin.metrics.keypoints import MeanOKS

        return MeanOKS()


@register("pose_to_image")
class PoseToImageTask(GenerationTask):
    """The photo of the people whose drawing (POSE) is shown."""

    description = "a photo of the people whose joints and bones are drawn"
    needs = ("instances",)
    people = True
    annotation = PoseTask()
    definition_type = PoseDefinition

    def label(self, sample: Sample, definition: PoseDefinition) -> Tensor:
        """The photo, or the square around the largest person: float32 (3, frames, height, width) in [-1, 1]."""
        return self.annotation.input(sample, definition)


def persons(sample: Sample) -> list[Instance]:
    """Everybody with a labelled joint."""
    return [
        thing
        for thing in sample.instances
        if thing.keypoints is not None and not thing.crowd and bool((thing.keypoints[:, 2] > 0).any())
    ]


def subject(sample: Sample) -> Instance | None:
    """The largest person of whom five joints are labelled."""
    clear = [person for person in persons(sample) if int((person.keypoints[:, 2] > 0).sum()) >= LEAST_JOINTS]
    return max(clear, key=area_px, default=None)


def area_px(person: Instance) -> float:
    """Pixels of the person's mask in the first frame."""
    return float(person.mask[0].sum())


def square_around(person: Instance) -> tuple[int, int, int]:
    """(x0, y0, side) in whole pixels of the square 1.25 times as wide as the person's box is long; it may reach
    beyond the photo."""
    x0, y0, x1, y1 = person.box[0].tolist()
    side = math.ceil(MARGIN * max(x1 - x0, y1 - y0, 1))
    return round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2), side


def cut(people: People, x0: int, y0: int, side: int) -> People:
    """The same people in the coordinates of the square at (x0, y0)."""
    keypoints = people["keypoints"] - torch.tensor([x0, y0, 0.0])
    boxes = people["boxes"] - torch.tensor([x0, y0, x0, y0])
    return People(keypoints, people["area"], boxes, (side, side))


def crop(clip: Tensor, x0: int, y0: int, side: int) -> Tensor:
    """The square at (x0, y0) of a clip, resized to the clip's own size (bicubic, antialiased), black beyond it."""
    _, frames, height, width = clip.shape
    square = torch.full((3, frames, side, side), -1.0)
    rows = slice(max(0, y0), min(height, y0 + side))
    columns = slice(max(0, x0), min(width, x0 + side))
    square[:, :, rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = clip[:, :, rows, columns]
    resized = F.interpolate(square.transpose(0, 1), (height, width), mode="bicubic", antialias=True)
    return codes.clip_from_levels(codes.levels_from_clip(resized)).transpose(0, 1)
