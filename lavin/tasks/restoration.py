"""Restoration: the target is the photo itself, the input a damaged copy of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data.sample import Sample, Vocabulary
from lavin.tasks import codes
from lavin.tasks.base import Definition, HeldOut, Task, register


class RestorationTask(Task):
    """A task whose label is the clean clip, float32 (3, frames, height, width) in [-1, 1]; subclasses damage it."""

    metric_name = "MSE"

    def label(self, sample: Sample, definition: Definition) -> Tensor:
        return sample.rgb()

    def paint(self, label: Tensor, definition: Definition) -> Tensor:
        return label

    def read(self, clip: Tensor, definition: Definition) -> Tensor:
        """The picture in whole 8-bit levels."""
        return codes.clip_from_levels(codes.levels_from_clip(clip))

    def metric(self):
        from lavin.metrics.restoration import MSE

        return MSE()


@register("colorization")
class ColorizationTask(RestorationTask):
    """Colours for a grey photo; grey = 0.299 R + 0.587 G + 0.114 B in three equal channels."""

    description = "colours for a grey photo"

    def draw_definition(
        self,
        rng: np.random.Generator,
        vocabulary: Vocabulary,
        evaluation: bool = False,
        held_out: HeldOut | None = None,
    ) -> Definition:
        return Definition()

    def input(self, sample: Sample, definition: Definition, rng: np.random.Generator) -> Tensor:
        grey = sample.clip.to(torch.float32) @ torch.tensor([0.299, 0.587, 0.114])
        return codes.clip_from_levels(grey).expand(3, -1, -1, -1).contiguous()


@dataclass(frozen=True)
class InpaintingDefinition(Definition):
    """The hole that all pairs share; its place is each pair's own."""

    hole: float = 0.5
    """Side of the square hole as a share of the picture's shorter side, 1/8 ... 1/2."""
    fill: str = "black"
    """``black``, ``grey`` (level 128) or ``noise`` (every level drawn uniformly)."""


@register("inpainting")
class InpaintingTask(RestorationTask):
    """The photo without its one square hole, which lies anywhere; the whole picture is the target."""

    description = "the photo without the square hole in it"
    definition_type = InpaintingDefinition

    def draw_definition(
        self,
        rng: np.random.Generator,
        vocabulary: Vocabulary,
        evaluation: bool = False,
        held_out: HeldOut | None = None,
    ) -> InpaintingDefinition:
        if evaluation:
            return InpaintingDefinition()
        return InpaintingDefinition(rng.uniform(1 / 8, 1 / 2), str(rng.choice(["black", "grey", "noise"])))

    def input(self, sample: Sample, definition: InpaintingDefinition, rng: np.random.Generator) -> Tensor:
        _, height, width = sample.size
        side = max(1, round(definition.hole * min(height, width)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        damaged = sample.rgb()
        hole = damaged[:, :, top : top + side, left : left + side]
        if definition.fill == "noise":
            hole[:] = codes.clip_from_levels(torch.from_numpy(rng.integers(256, size=hole.shape)))
        else:
            hole[:] = codes.clip_from_levels(torch.tensor({"black": 0, "grey": 128}[definition.fill]))
        return damaged


@dataclass(frozen=True)
class DenoisingDefinition(Definition):
    """How noisy the context's inputs are."""

    sigma: float = 25.0
    """Standard deviation of the noise in 8-bit levels; training draws 10 ... 60."""


@register("denoising")
class DenoisingTask(RestorationTask):
    """The photo without noise: input = round(photo + sigma * n), clipped to 0 ... 255, with n ~ N(0, 1) independent
    for every pixel and channel. Pairs and query share sigma; the noise itself is each picture's own."""

    description = "the photo without its Gaussian noise"
    definition_type = DenoisingDefinition

    def draw_definition(
        self,
        rng: np.random.Generator,
        vocabulary: Vocabulary,
        evaluation: bool = False,
        held_out: HeldOut | None = None,
    ) -> DenoisingDefinition:
        return DenoisingDefinition() if evaluation else DenoisingDefinition(rng.uniform(10, 60))

    def input(self, sample: Sample, definition: DenoisingDefinition, rng: np.random.Generator) -> Tensor:
        photo = sample.clip.permute(3, 0, 1, 2)
        noise = torch.from_numpy(rng.standard_normal(photo.shape, dtype=np.float32))
        return codes.clip_from_levels(photo + definition.sigma * noise)
