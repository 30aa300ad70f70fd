"""Selection: which objects a context is about; and their pixels and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lavin.data.sample import Instance, Sample
from lavin.tasks.base import Definition, Draw


@dataclass(frozen=True)
class Selection(Definition):
    """Objects that a context is about: "sphere", "red" or "red sphere"; every thing where both are None."""

    class_name: str | None = None
    colour: str | None = None

    def of(self, sample: Sample) -> list[Instance]:
        """The sample's things that are meant, crowds included."""
        return [
            instance
            for instance in sample.instances
            if instance.is_thing
            and self.class_name in (None, instance.class_name)
            and self.colour in (None, instance.colour)
        ]

    def single(self, sample: Sample) -> list[Instance]:
        """The things that are meant and can be told apart: visible in the first frame, and no crowd."""
        return [thing for thing in self.of(sample) if not thing.crowd and bool(thing.mask[0].any())]


def draw_selection(draw: Draw, everything: bool = False) -> dict[str, str | None]:
    """A class, a colour or both, as fields of a Selection; neither too, where ``everything`` allows it.

    A held-out name is never drawn, but an object that has it may still be meant by its other name.
    """
    classes = [name for name in draw.vocabulary.things if name not in draw.held_out.classes]
    colours = [name for name in draw.vocabulary.colours if name not in draw.held_out.colours]
    kinds = [kind for kind, names in (("class", classes), ("colour", colours)) if names]
    if len(kinds) == 2:
        kinds.append("class and colour")
    if everything:
        kinds.append("everything")
    if not kinds:
        raise ValueError("the vocabulary has no class and no colour to draw that is not held out")
    kind = draw.rng.choice(kinds)
    return {
        "class_name": str(draw.rng.choice(classes)) if "class" in kind else None,
        "colour": str(draw.rng.choice(colours)) if "colour" in kind else None,
    }


def union(things: Sequence[Instance], sample: Sample) -> Tensor:
    """Pixels of any of the things, bool (frames, height, width)."""
    mask = torch.zeros(sample.size, dtype=torch.bool)
    for thing in things:
        mask |= thing.mask
    return mask


def rectangles(box: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Fill boxes (frames, 4) of x0, y0, x1, y1 in pixels: bool (frames, height, width); empty where a box is NaN."""
    frames, height, width = size
    x0, y0, x1, y1 = box.add(0.5).floor().view(frames, 4, 1).unbind(1)
    x, y = torch.arange(width), torch.arange(height)
    return ((y >= y0) & (y < y1)).unsqueeze(2) & ((x >= x0) & (x < x1)).unsqueeze(1)


def boxes(mask: Tensor) -> Tensor:
    """Boxes around masks (frames, height, width): float (frames, 4), x1 and y1 exclusive, NaN where a mask is empty."""
    found = torch.full((len(mask), 4), torch.nan)
    for frame, box in zip(mask, found):
        y, x = frame.nonzero(as_tuple=True)
        if len(x):
            box[:] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return found
