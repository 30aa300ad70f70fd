"""Detection: the box of the only object that is meant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data.sample import Sample
from lavin.tasks import codes
from lavin.tasks.base import Draw, HeldOut, Task, register
from lavin.tasks.selection import Selection, boxes, draw_selection, rectangles

RED: codes.Colour = (255, 0, 0)
OUTLINE_PX = 3
"""Width of the frame, which lies inside the box."""
RED_UP_TO = 63
"""Largest difference of a channel from pure red that is read as red."""
NOT_RED_FROM = 95
"""Photos must differ from pure red by more than that everywhere, so that 31 levels of error change no pixel's side."""


@dataclass(frozen=True)
class DetectionDefinition(Selection):
    """Which object is meant, and how its box is drawn."""

    style: str = "filled"
    """``filled``: a white rectangle on black; ``outline``: a red frame, 3 px wide, over the photo."""


@register("detection")
class DetectionTask(Task):
    """The box of the only object that is meant: a filled white rectangle on black (BIN), or a red frame on the photo.

    A frame can be told from the photo only where nothing in the photo is red: such photos alone are accepted.
    """

    description = "the box of a class's only object: a filled rectangle"
    needs = ("instances",)
    metric_name = "box IoU"
    definition_type = DetectionDefinition

    def define(self, draw: Draw) -> DetectionDefinition:
        selection = draw_selection(draw)
        outline = not draw.evaluation and not red_is_held_out(draw.held_out) and draw.rng.random() < 0.3
        return DetectionDefinition(**selection, style="outline" if outline else "filled")

    def accepts(self, sample: Sample, definition: DetectionDefinition) -> bool:
        things = [] if sample.instances is None else definition.single(sample)
        if len(things) != 1:
            return False
        x0, y0, x1, y1 = things[0].box[0].tolist()
        _, height, width = sample.size
        if not 0.01 <= (x1 - x0) * (y1 - y0) / (height * width) <= 0.5:
            return False
        return definition.style == "filled" or not reddish(sample.rgb(), NOT_RED_FROM).any()

    def label(self, sample: Sample, definition: DetectionDefinition) -> Tensor:
        """The filled rectangle, bool (frames, height, width): the protocol scores boxes as masks. ``boxes`` reads
        its corners."""
        things = definition.single(sample)
        return rectangles(things[0].box, sample.size) if things else torch.zeros(sample.size, dtype=torch.bool)

    def paint(self, label: Tensor, definition: DetectionDefinition) -> Tensor:
        """The rectangle, or its frame, on black."""
        if definition.style == "outline":
            return codes.encode_binary(outline(label), RED)
        return codes.encode_binary(label)

    def target(self, sample: Sample, definition: DetectionDefinition) -> Tensor:
        """The rectangle on black, or its frame on the photo."""
        label = self.label(sample, definition)
        drawn = self.paint(label, definition)
        return torch.where(outline(label), drawn, sample.rgb()) if definition.style == "outline" else drawn

    def read(self, clip: Tensor, definition: DetectionDefinition) -> Tensor:
        """The rectangle around the largest 8-connected component of each frame that is white, or red; empty where
        nothing is."""
        from scipy.ndimage import label as components

        seen = reddish(clip, RED_UP_TO) if definition.style == "outline" else codes.decode_binary(clip)
        mask = seen.cpu()
        for frame in mask:
            numbers, _ = components(frame.numpy(), np.ones((3, 3)))
            area = np.bincount(numbers.ravel())[1:]
            if len(area):
                frame &= torch.from_numpy(numbers == 1 + area.argmax())
        return rectangles(boxes(mask), tuple(mask.shape))

    def metric(self):
        from lavin.metrics.regions import BoxIoU

        return BoxIoU()


def red_is_held_out(held_out: HeldOut) -> bool:
    return RED in {tuple(colour) for colour in held_out.palettes}


def outline(label: Tensor) -> Tensor:
    """The outermost 3 pixels of filled rectangles, bool (frames, height, width)."""
    inset = torch.tensor([OUTLINE_PX, OUTLINE_PX, -OUTLINE_PX, -OUTLINE_PX])
    return label & ~rectangles(boxes(label) + inset, tuple(label.shape))


def reddish(clip: Tensor, levels: int) -> Tensor:
    """Where no channel of a clip differs from pure red by more than so many levels, bool (frames, height, width)."""
    red = torch.tensor(RED, device=clip.device).view(3, 1, 1, 1)
    return (codes.levels_from_clip(clip) - red).abs().amax(0) <= levels + 0.01
