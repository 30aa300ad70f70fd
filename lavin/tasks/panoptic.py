"""Panoptic segmentation: every pixel's class, and which thing of that class it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data.sample import Sample
from lavin.tasks.base import Definition, Draw, Task, register
from lavin.tasks.lattice import SEGMENTS, VOID, decode_lattice, encode_lattice


@dataclass(frozen=True)
class PanopticDefinition(Definition):
    """The source's class list, and the place of each class in the code."""

    classes: tuple[str, ...] = ()
    """Names of the classes that are drawn."""
    class_ids: tuple[int, ...] = ()
    """Their ids in the source."""
    things: tuple[bool, ...] = ()
    """Which of them are countable."""
    codes: tuple[int, ...] = ()
    """Their numbers in the code, whose digits are drawn; equal to ``class_ids`` unless permuted."""
    num_classes: int = 1
    """How many classes the source, and the code, has."""


@register("panoptic")
class PanopticTask(Task):
    """Class and instance of every pixel as one colour (LATTICE): the class sets the coarse digits of R, G and B, a
    thing's place the fine ones; void is black.

    A source whose ``panoptic`` map numbers things alone may tell the stuff between them by ``semantic``.
    """

    description = "every object and every stuff region in one colour of its class and place"
    needs = ("instances", "panoptic")
    metric_name = "PQ"
    definition_type = PanopticDefinition

    def define(self, draw: Draw) -> PanopticDefinition:
        """The source's order of classes; in training half of the definitions permute it. Held-out classes are void."""
        names, banned = draw.vocabulary.classes, draw.held_out.classes
        numbers = np.arange(len(names))
        if not draw.evaluation and draw.rng.random() < 0.5:
            numbers = draw.rng.permutation(len(names))
        ids = tuple(i for i, name in enumerate(names) if name not in banned)
        return PanopticDefinition(
            classes=tuple(names[i] for i in ids),
            class_ids=ids,
            things=tuple(i < len(draw.vocabulary.things) for i in ids),
            codes=tuple(int(numbers[i]) for i in ids),
            num_classes=len(names),
        )

    def accepts(self, sample: Sample, definition: PanopticDefinition) -> bool:
        return not self.missing(sample) and bool((self.label(sample, definition) >= 0).any())

    def inferable(self, pair_labels: Sequence[Tensor], query_label: Tensor, definition: PanopticDefinition) -> bool:
        """Whether every class of the query shows in some pair, where the classes are permuted."""
        if definition.codes == definition.class_ids:
            return True
        shown = set().union(*map(classes_of, pair_labels))
        return classes_of(query_label) <= shown

    def label(self, sample: Sample, definition: PanopticDefinition) -> Tensor:
        """Int64 (frames, height, width): 1000 * class + number, 1, 2, ... for the things of a class and 0 for stuff;
        -1 = void: pixels of nothing, and classes that are not drawn; -2 - class = a crowd."""
        countable = dict(zip(definition.class_ids, definition.things, strict=True))
        segments = torch.full((len(sample.instances) + 1,), VOID)
        counts = dict.fromkeys(countable, 0)
        for place, instance in enumerate(sample.instances, start=1):
            class_id = instance.class_id
            if class_id not in countable:
                continue
            if instance.crowd:
                segments[place] = VOID - 1 - class_id
                continue
            counts[class_id] += countable[class_id]
            segments[place] = SEGMENTS * class_id + counts[class_id]
        label = segments[sample.panoptic.long()]
        if sample.semantic is None:
            return label
        stuff = torch.full((256,), VOID)
        for class_id, thing in countable.items():
            if not thing:
                stuff[class_id] = SEGMENTS * class_id
        return torch.where(sample.panoptic == 0, stuff[sample.semantic.long()], label)

    def paint(self, label: Tensor, definition: PanopticDefinition) -> Tensor:
        return encode_lattice(label, definition.class_ids, definition.things, definition.codes, definition.num_classes)

    def read(self, clip: Tensor, definition: PanopticDefinition) -> Tensor:
        """As ``label``; a segment is what has one colour, so that its class is every pixel's."""
        return decode_lattice(clip, definition.class_ids, definition.things, definition.codes, definition.num_classes)

    def metric(self):
        from lavin.metrics.panoptic import PanopticQuality

        return PanopticQuality()


def classes_of(label: Tensor) -> set[int]:
    """Classes that a panoptic label shows, void and crowds apart."""
    return set((label[label >= 0] // SEGMENTS).unique().tolist())
