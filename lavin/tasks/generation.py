"""Generation: the photo of a drawn label. The label's own task backwards."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from lavin.data.sample import Sample
from lavin.tasks.base import Definition, Draw, Task, register
from lavin.tasks.geometry import DepthDefinition, DepthTask, NormalsDefinition, NormalsTask
from lavin.tasks.restoration import RestorationTask


class GenerationTask(RestorationTask):
    """A task whose target is the photo, shown a drawn label of it: what ``annotation`` answers is the input here.

    Like the restoration of a photo of which all is lost but the label, it has more than one right answer.
    """

    annotation: ClassVar[Task]
    """The task that draws the input; definitions are its own."""

    def define(self, draw: Draw) -> Definition:
        return self.annotation.define(draw)

    def missing(self, sample: Sample) -> list[str]:
        return self.annotation.missing(sample)

    def accepts(self, sample: Sample, definition: Definition) -> bool:
        return self.annotation.accepts(sample, definition)

    def input(self, sample: Sample, definition: Definition, rng: np.random.Generator) -> Tensor:
        """The drawn label."""
        return self.annotation.target(sample, definition)


@register("depth_to_image")
class DepthToImageTask(GenerationTask):
    """The photo whose disparity (DISP) is shown."""

    description = "a photo with the depth that is shown"
    needs = ("depth",)
    annotation = DepthTask()
    definition_type = DepthDefinition


@register("normals_to_image")
class NormalsToImageTask(GenerationTask):
    """The photo whose surface normals (NRM) are shown."""

    description = "a photo with the surface normals that are shown"
    needs = ("normals",)
    annotation = NormalsTask()
    definition_type = NormalsDefinition
