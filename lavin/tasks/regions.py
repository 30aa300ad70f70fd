"""Regions: which pixels belong to what. Foreground, semantic, instance, referring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data.sample import Instance, Sample, Vocabulary
from lavin.tasks import codes
from lavin.tasks.base import Definition, Draw, HeldOut, Task, register
from lavin.tasks.selection import Selection, draw_selection, union

SHARE = (0.01, 0.60)
"""How much of the picture a mask must cover to be worth asking for."""


@dataclass(frozen=True)
class ForegroundDefinition(Selection):
    """What is foreground, and the two colours that say so."""

    foreground_rgb: codes.Colour = codes.WHITE
    background_rgb: codes.Colour = codes.BLACK


@register("foreground")
class ForegroundTask(Task):
    """Everything that is a sphere, is red, or is a red sphere, in one of two colours (BIN)."""

    description = "the pixels of one class of objects: white on black"
    needs = ("instances",)
    metric_name = "IoU"
    definition_type = ForegroundDefinition

    def define(self, draw: Draw) -> ForegroundDefinition:
        selection = draw_selection(draw)
        if draw.evaluation or draw.rng.random() < 0.5:
            return ForegroundDefinition(**selection)
        return ForegroundDefinition(**selection, **draw_two_colours(draw.rng, draw.held_out))

    def accepts(self, sample: Sample, definition: ForegroundDefinition) -> bool:
        if sample.instances is None or not definition.of(sample):
            return False
        return SHARE[0] <= self.label(sample, definition).float().mean().item() <= SHARE[1]

    def label(self, sample: Sample, definition: ForegroundDefinition) -> Tensor:
        """Bool (frames, height, width)."""
        return union(definition.of(sample), sample)

    def paint(self, label: Tensor, definition: ForegroundDefinition) -> Tensor:
        return codes.encode_binary(label, definition.foreground_rgb, definition.background_rgb)

    def read(self, clip: Tensor, definition: ForegroundDefinition) -> Tensor:
        return codes.decode_binary(clip, definition.foreground_rgb, definition.background_rgb)

    def metric(self):
        from lavin.metrics.regions import MaskIoU

        return MaskIoU()


def draw_two_colours(rng: np.random.Generator, held_out: HeldOut) -> dict[str, codes.Colour]:
    """Two colours of P63 that are at least 170 levels apart in some channel."""
    free = allowed_colours(held_out)
    while True:
        fore, back = rng.choice(len(free), 2, replace=False)
        if max(abs(a - b) for a, b in zip(free[fore], free[back])) >= 170:
            return {"foreground_rgb": free[fore], "background_rgb": free[back]}


def allowed_colours(held_out: HeldOut) -> list[codes.Colour]:
    """P63 without the drawing colours that are held out."""
    banned = {tuple(colour) for colour in held_out.palettes}
    return [colour for colour in codes.P63 if colour not in banned]


MAX_RANDOM_CLASSES = 20


@dataclass(frozen=True)
class SemanticDefinition(Definition):
    """Which classes are drawn, and in which colours."""

    palette: str = "random"
    """``random`` (RAND: colours drawn for this context) or ``grid`` (GRID: the data set's own, known from training)."""
    classes: tuple[str, ...] = ()
    """Names of the classes that are drawn."""
    class_ids: tuple[int, ...] = ()
    """Their ids in ``Sample.semantic``."""
    colours: tuple[codes.Colour, ...] = ()
    """Their colours."""


@register("semantic")
class SemanticTask(Task):
    """The class of every pixel, in colours that only the pairs tell (RAND); other classes are black."""

    description = "the class of every pixel, one colour per class"
    needs = ("semantic",)
    metric_name = "mIoU"
    definition_type = SemanticDefinition
    palette = "random"

    def define(self, draw: Draw) -> SemanticDefinition:
        """RAND, in evaluation too; ``grid_definition`` makes the other palette."""
        banned = draw.held_out.classes
        ids = [i for i, name in enumerate(draw.vocabulary.classes) if name not in banned]
        if len(ids) > MAX_RANDOM_CLASSES:
            ids = sorted(draw.rng.choice(ids, MAX_RANDOM_CLASSES, replace=False).tolist())
        free = allowed_colours(draw.held_out)
        colours = tuple(free[i] for i in draw.rng.choice(len(free), len(ids), replace=False))
        return SemanticDefinition("random", tuple(draw.vocabulary.classes[i] for i in ids), tuple(ids), colours)

    @staticmethod
    def grid_definition(vocabulary: Vocabulary) -> SemanticDefinition:
        """All classes of a data set in GRID's fixed colours."""
        names = vocabulary.classes
        return SemanticDefinition("grid", names, tuple(range(len(names))), codes.grid_palette(len(names)))

    def inferable(self, pair_labels: Sequence[Tensor], query_label: Tensor, definition: SemanticDefinition) -> bool:
        """Whether every class of the query shows in some pair: nothing else tells its colour."""
        if definition.palette == "grid":
            return True
        shown = {codes.IGNORE}.union(*(label.unique().tolist() for label in pair_labels))
        return set(query_label.unique().tolist()) <= shown

    def label(self, sample: Sample, definition: SemanticDefinition) -> Tensor:
        """Class ids of the source, int64 (frames, height, width); 255 = ignore or a class that is not drawn."""
        drawn = torch.full((256,), codes.IGNORE)
        drawn[list(definition.class_ids)] = torch.tensor(definition.class_ids)
        return drawn[sample.semantic.long()]

    def paint(self, label: Tensor, definition: SemanticDefinition) -> Tensor:
        return codes.encode_classes(label, definition.class_ids, definition.colours)

    def read(self, clip: Tensor, definition: SemanticDefinition) -> Tensor:
        return codes.decode_classes(clip, definition.class_ids, definition.colours)

    def metric(self):
        from lavin.metrics.regions import MeanIoU

        return MeanIoU()


@dataclass(frozen=True)
class InstanceDefinition(Selection):
    """Which things are told apart (all, or one class), and how their colours are shifted."""

    offset: int = 0
    """0 ... 62, added to every colour's index."""


@register("instance")
class InstanceTask(Task):
    """Every object in a colour of its own, which says where the object is (CELL)."""

    description = "every object in a colour of its own"
    needs = ("instances",)
    metric_name = "instance IoU"
    definition_type = InstanceDefinition

    def define(self, draw: Draw) -> InstanceDefinition:
        if draw.evaluation:
            return InstanceDefinition()
        classes = [name for name in draw.vocabulary.things if name not in draw.held_out.classes]
        class_name = str(draw.rng.choice(classes)) if classes and draw.rng.random() < 0.5 else None
        offset = 0 if draw.rng.random() < 0.5 else int(draw.rng.integers(len(codes.P63)))
        return InstanceDefinition(class_name, offset=offset)

    def accepts(self, sample: Sample, definition: InstanceDefinition) -> bool:
        return sample.instances is not None and 1 <= len(definition.single(sample)) <= len(codes.P63)

    def label(self, sample: Sample, definition: InstanceDefinition) -> Tensor:
        """Int64 (frames, height, width): 0 = none, k = instance, -1 = crowd, to be ignored.

        Larger things are drawn first, so that where masks overlap the smaller one stays whole.
        """
        things = sorted(definition.of(sample), key=lambda thing: (not thing.crowd, -int(thing.mask.sum())))
        label = torch.zeros(sample.size, dtype=torch.long)
        for number, thing in enumerate(things, start=1):
            label.masked_fill_(thing.mask, -1 if thing.crowd else number)
        return label

    def paint(self, label: Tensor, definition: InstanceDefinition) -> Tensor:
        return codes.encode_cells(label, definition.offset)

    def read(self, clip: Tensor, definition: InstanceDefinition) -> Tensor:
        return codes.decode_cells(clip)

    def metric(self):
        from lavin.metrics.regions import InstanceIoU

        return InstanceIoU()


RELATIONS = ("leftmost", "rightmost", "largest", "smallest", "nearest")
SECOND_FROM_LEFT = "second from left"
"""One relation more, that only training draws."""
MARGIN = 0.05
"""How clearly the winner must win: share of the picture's width, or ratio of areas or distances minus one."""


@dataclass(frozen=True)
class ReferringDefinition(Selection):
    """The expression that all pairs share, e.g. the leftmost sphere; nothing is written in the picture."""

    relation: str = RELATIONS[0]
    """One of ``RELATIONS`` or ``SECOND_FROM_LEFT``, among the things that class and colour select (all of them where
    both are None)."""
    mode: str = "relation"
    """How the expression is given; ``relation``: only by the pairs."""


@register("referring")
class ReferringTask(Task):
    """The one object that an expression means, white on black (BIN); the pairs show the expression."""

    description = "the object that the pairs refer to: leftmost, largest, nearest ..."
    needs = ("instances",)
    metric_name = "mIoU"
    definition_type = ReferringDefinition

    def define(self, draw: Draw) -> ReferringDefinition:
        selection = draw_selection(draw, everything=True)
        relations = RELATIONS if draw.evaluation else (*RELATIONS, SECOND_FROM_LEFT)
        return ReferringDefinition(**selection, relation=str(draw.rng.choice(relations)))

    def accepts(self, sample: Sample, definition: ReferringDefinition) -> bool:
        """At least two objects to choose from, a clear winner, and a mask of 1 ... 60 % of the picture."""
        if sample.instances is None:
            return False
        things = definition.single(sample)
        if len(things) < 2:
            return False
        scores = [rank(thing, sample, definition.relation) for thing in things]
        if None in scores:
            return False
        place = place_of(definition.relation)
        ordered = sorted(scores)
        gaps = [later - earlier for earlier, later in zip(ordered, ordered[1:])][: place + 1]
        winner = things[scores.index(ordered[place])]
        return min(gaps) >= MARGIN and SHARE[0] <= winner.mask.float().mean().item() <= SHARE[1]

    def label(self, sample: Sample, definition: ReferringDefinition) -> Tensor:
        """Bool (frames, height, width) of the object that comes first (or second) in the relation's order."""
        things = sorted(definition.single(sample), key=lambda thing: rank(thing, sample, definition.relation))
        return things[place_of(definition.relation)].mask

    def paint(self, label: Tensor, definition: ReferringDefinition) -> Tensor:
        return codes.encode_binary(label)

    def read(self, clip: Tensor, definition: ReferringDefinition) -> Tensor:
        return codes.decode_binary(clip)

    def metric(self):
        from lavin.metrics.regions import MaskIoU

        return MaskIoU()


def place_of(relation: str) -> int:
    """Which one is meant, counted from 0, of things in the relation's order."""
    return 1 if relation == SECOND_FROM_LEFT else 0


def rank(thing: Instance, sample: Sample, relation: str) -> float | None:
    """Where a thing stands in the relation's order, in the first frame; the least comes first.

    Positions are in picture widths, areas and distances logarithmic, so that ``MARGIN`` suits them all. None where
    the distance is not known.
    """
    if relation in ("leftmost", "rightmost", SECOND_FROM_LEFT):
        centre = (thing.box[0, 0] + thing.box[0, 2]).item() / 2 / sample.size[2]
        return -centre if relation == "rightmost" else centre
    if relation in ("largest", "smallest"):
        area = float(np.log(thing.mask[0].sum().item()))
        return area if relation == "smallest" else -area
    distance = thing.distance_m
    if distance is None and sample.depth is not None and sample.depth_kind == "metric_z":
        distance = sample.depth[0][thing.mask[0]].nanmedian().item()
    return float(np.log(distance)) if distance and distance > 0 else None
