"""Restoration: the target is the photo itself, the input a damaged copy of it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lavin.data.sample import Sample
from lavin.errors import InputError
from lavin.tasks import codes, degradations
from lavin.tasks.base import Definition, Draw, Task, register


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

    def input(self, sample: Sample, definition: Definition, rng: np.random.Generator) -> Tensor:
        grey = sample.clip.to(torch.float32) @ torch.tensor([0.299, 0.587, 0.114])
        return codes.clip_from_levels(grey).expand(3, -1, -1, -1).contiguous()


SMALLEST_HOLE = 1 / 8
"""Side of the smallest hole that training cuts, as a share of the picture's shorter side."""
FILLS = {"black": 0, "grey": 128}
"""Level of a hole."""
FILL_UP_TO = 8
"""Largest difference from it, in levels, of what is taken for a hole: lossy files blur its rim."""


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

    def define(self, draw: Draw) -> InpaintingDefinition:
        if draw.evaluation:
            return InpaintingDefinition()
        hole, fill = draw.rng.uniform(SMALLEST_HOLE, 1 / 2), draw.rng.choice([*FILLS, "noise"])
        return InpaintingDefinition(hole, str(fill))

    def input(self, sample: Sample, definition: InpaintingDefinition, rng: np.random.Generator) -> Tensor:
        _, height, width = sample.size
        side = max(1, round(definition.hole * min(height, width)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        damaged = sample.rgb()
        hole = damaged[:, :, top : top + side, left : left + side]
        if definition.fill == "noise":
            hole[:] = codes.clip_from_levels(torch.from_numpy(rng.integers(256, size=hole.shape)))
        else:
            hole[:] = codes.clip_from_levels(torch.tensor(FILLS[definition.fill]))
        return damaged

    def composite(self, prediction: Tensor, shown: Tensor, definition: InpaintingDefinition) -> Tensor:
        """A prediction with the known pixels pasted back: those of the input outside its hole. The option of the
        specification (3.1) that benchmarks score first; without it what the ST-VAE blurs counts too.

        Args:
            prediction: (3, frames, height, width) in [-1, 1].
            shown: what the model was shown, as large.

        Raises:
            InputError: the hole is noise, which cannot be told from the photo.
        """
        return torch.where(find_hole(shown, definition.fill), prediction, shown)


def find_hole(shown: Tensor, fill: str = "black") -> Tensor:
    """Where a picture was blanked, bool (frames, height, width): all squares of the smallest hole's size that have the
    fill's colour throughout, dark parts of the photo as large as that among them.

    Args:
        shown: (3, frames, height, width) in [-1, 1].
        fill: a key of ``FILLS``.

    Raises:
        InputError: another fill.
    """
    if fill not in FILLS:
        raise InputError(f"a hole filled with {fill} cannot be told from the photo; only {' or '.join(FILLS)} can")
    blank = (codes.levels_from_clip(shown) - FILLS[fill]).abs().amax(0) <= FILL_UP_TO
    side = max(1, int(0.9 * SMALLEST_HOLE * min(shown.shape[2:])))
    eroded = 1 - F.max_pool2d(1 - blank.float()[:, None], side, stride=1)
    return F.max_pool2d(F.pad(eroded, [side - 1] * 4), side, stride=1)[:, 0] > 0


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

    def define(self, draw: Draw) -> DenoisingDefinition:
        return DenoisingDefinition() if draw.evaluation else DenoisingDefinition(draw.rng.uniform(10, 60))

    def input(self, sample: Sample, definition: DenoisingDefinition, rng: np.random.Generator) -> Tensor:
        photo = sample.clip.permute(3, 0, 1, 2)
        noise = torch.from_numpy(rng.standard_normal(photo.shape, dtype=np.float32))
        return codes.clip_from_levels(photo + definition.sigma * noise)


class FilterTask(RestorationTask):
    """A task whose input is the photo after a filter of ``degradations``.

    One set of parameters serves all pairs and the query; with ``mixed`` every picture draws its own, over the training
    range. Where the filter draws at random (which pixels swap, where drops fall), every picture has its own draw.
    """

    @abstractmethod
    def draw_parameters(self, rng: np.random.Generator, evaluation: bool) -> Definition:
        """A definition over the standard range in evaluation, else over the training range."""

    @abstractmethod
    def damage(self, picture: np.ndarray, definition: Definition, rng: np.random.Generator) -> np.ndarray:
        """The filtered picture, uint8 (height, width, 3) in and out."""

    def define(self, draw: Draw) -> Definition:
        return self.draw_parameters(draw.rng, draw.evaluation)

    def input(self, sample: Sample, definition: Definition, rng: np.random.Generator) -> Tensor:
        if definition.mixed:
            definition = self.draw_parameters(rng, evaluation=False)
        frames = [self.damage(frame, definition, rng) for frame in sample.clip.cpu().numpy()]
        return codes.clip_from_levels(torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2))


@dataclass(frozen=True)
class GlassBlurDefinition(Definition):
    """Parameters of the glass."""

    sigma_px: float = 0.7
    """Standard deviation of the Gaussians before and after; training draws 0.4 ... 1."""
    max_delta_px: int = 4
    """Farthest swap per axis; training draws 2 ... 6."""
    iterations: int = 2
    """Rounds of swaps; training draws 1 ... 3."""
    mixed: bool = False
    """Whether every picture draws its own parameters."""


@register("deglassblur")
class DeglassblurTask(FilterTask):
    """The photo without frosted glass in front: Gaussian blur, pixels swapped with neighbours, Gaussian blur."""

    description = "the photo without the frosted glass before it"
    definition_type = GlassBlurDefinition

    def draw_parameters(self, rng: np.random.Generator, evaluation: bool) -> GlassBlurDefinition:
        if evaluation:
            return GlassBlurDefinition()
        return GlassBlurDefinition(rng.uniform(0.4, 1.0), int(rng.integers(2, 7)), int(rng.integers(1, 4)))

    def damage(self, picture: np.ndarray, definition: GlassBlurDefinition, rng: np.random.Generator) -> np.ndarray:
        offsets = degradations.draw_offsets(rng, picture.shape[:2], definition.max_delta_px, definition.iterations)
        return degradations.glass_blur(picture, definition.sigma_px, definition.max_delta_px, offsets)


@dataclass(frozen=True)
class MotionBlurDefinition(Definition):
    """The kernel of the motion; evaluation draws it too, with sides up to 7."""

    side_px: int = 7
    """Odd, 3 ... 7; in training 3 ... 15."""
    angle_deg: float = 0.0
    """0 ... 360, from x right towards y down."""
    bias: float = 0.0
    """-1 ... 1: the line goes only backwards at -1, as far both ways at 0, only forwards at 1."""
    shift: tuple[float, float] = (0.0, 0.0)
    """(x, y), each -1 ... 1, in quarters of the side."""
    mixed: bool = False
    """Whether every picture draws its own parameters."""


@register("demotionblur")
class DemotionblurTask(FilterTask):
    """The photo without blur of motion: convolution with a line one pixel wide that sums to 1."""

    description = "the photo without the blur of motion"
    definition_type = MotionBlurDefinition

    def draw_parameters(self, rng: np.random.Generator, evaluation: bool) -> MotionBlurDefinition:
        side = 3 + 2 * int(rng.integers(3 if evaluation else 7))
        angle, bias, x, y = rng.uniform((0, -1, -1, -1), (360, 1, 1, 1)).tolist()
        return MotionBlurDefinition(side, angle, bias, (x, y))

    def damage(self, picture: np.ndarray, definition: MotionBlurDefinition, rng: np.random.Generator) -> np.ndarray:
        kernel = degradations.motion_kernel(definition.side_px, definition.angle_deg, definition.bias, definition.shift)
        return degradations.motion_blur(picture, kernel)


RAINS = (1 / 3, 1 / 4, 1.0, 2.0)
"""Drops per pixel of the picture's height: standard rain, drizzle, heavy rain, torrential rain."""


@dataclass(frozen=True)
class RainDefinition(Definition):
    """How it rains."""

    drops: float = RAINS[0]
    """Drops per pixel of the picture's height S; training draws one of ``RAINS``."""
    slant_px: int = 0
    """How far a streak's lower end lies to the right of its upper end, -10 ... 10; evaluation draws it too."""
    mixed: bool = False
    """Whether every picture draws its own parameters."""


@register("deraining")
class DerainingTask(FilterTask):
    """The photo without rain: streaks of length S / 8, blurred, added; and all darkened to 0.7."""

    description = "the photo without the rain"
    definition_type = RainDefinition

    def draw_parameters(self, rng: np.random.Generator, evaluation: bool) -> RainDefinition:
        drops = RAINS[0] if evaluation else RAINS[rng.integers(len(RAINS))]
        return RainDefinition(drops, int(rng.integers(-10, 11)))

    def damage(self, picture: np.ndarray, definition: RainDefinition, rng: np.random.Generator) -> np.ndarray:
        height, width, _ = picture.shape
        slant, length = definition.slant_px, height // 8
        drops = degradations.draw_drops(rng, (height, width), round(definition.drops * height), slant, length)
        return degradations.add_rain(picture, drops, slant, length)
