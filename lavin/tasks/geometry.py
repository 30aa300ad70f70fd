"""Geometry: depth, surface normals, edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data.sample import Sample
from lavin.tasks import codes
from lavin.tasks.base import Definition, Draw, Task, register
from lavin.tasks.resizing import resize_label


@dataclass(frozen=True)
class DepthDefinition(Definition):
    """How disparity is coloured."""

    colour_map: str = "grey"
    """A key of ``codes.COLOUR_MAPS``; ``grey`` is near bright. An unknown one is an ``InputError``."""

    def __post_init__(self):
        codes.check_colour_map(self.colour_map)


@register("depth")
class DepthTask(Task):
    """Depth as disparity in grey, near is bright (DISP). The scale is the picture's own, so it reads back up to
    scale and shift. Sky and other invalid pixels have disparity 0: they are drawn like the farthest."""

    description = "how near everything is: disparity, near is bright"
    needs = ("depth",)
    metric_name = "AbsRel"
    definition_type = DepthDefinition

    def define(self, draw: Draw) -> DepthDefinition:
        if draw.evaluation or draw.rng.random() >= 0.3:
            return DepthDefinition()
        return DepthDefinition(str(draw.rng.choice([name for name in codes.COLOUR_MAPS if name != "grey"])))

    def accepts(self, sample: Sample, definition: DepthDefinition) -> bool:
        return sample.depth is not None and bool(sample.depth.isfinite().any())

    def label(self, sample: Sample, definition: DepthDefinition) -> Tensor:
        """Metres (frames, height, width), NaN = invalid; of a relative disparity its inverse, infinite at 0."""
        return 1 / sample.depth if sample.depth_kind == "relative_disparity" else sample.depth

    def paint(self, label: Tensor, definition: DepthDefinition) -> Tensor:
        return codes.encode_disparity(label, definition.colour_map)

    def read(self, clip: Tensor, definition: DepthDefinition) -> Tensor:
        """Relative disparity in [0, 1], (frames, height, width): known up to scale and shift."""
        return codes.decode_disparity(clip, definition.colour_map)

    def metric(self):
        from lavin.metrics.geometry import AbsRel

        return AbsRel()


@dataclass(frozen=True)
class NormalsDefinition(Definition):
    """Which component of a normal each colour channel shows."""

    axes: tuple[int, ...] = (0, 1, 2)
    """Component (x, y, z) that R, G, B show."""
    signs: tuple[int, ...] = (1, 1, 1)
    """Its sign."""


@register("normals")
class NormalsTask(Task):
    """Surface normals as colours (NRM): x right is red, y up is green, z towards the viewer is blue."""

    description = "which way every surface faces: x right, y up, z towards the viewer as red, green, blue"
    needs = ("normals",)
    metric_name = "mean angle"
    definition_type = NormalsDefinition

    def define(self, draw: Draw) -> NormalsDefinition:
        if draw.evaluation or draw.rng.random() >= 0.1:
            return NormalsDefinition()
        return NormalsDefinition(tuple(draw.rng.permutation(3).tolist()), tuple(draw.rng.choice([-1, 1], 3).tolist()))

    def accepts(self, sample: Sample, definition: NormalsDefinition) -> bool:
        return sample.normals is not None and bool(sample.normals.any())

    def label(self, sample: Sample, definition: NormalsDefinition) -> Tensor:
        """Unit vectors (3, frames, height, width) in the camera frame, zeros = invalid."""
        return sample.normals

    def paint(self, label: Tensor, definition: NormalsDefinition) -> Tensor:
        return codes.encode_normals(label, definition.axes, definition.signs)

    def read(self, clip: Tensor, definition: NormalsDefinition) -> Tensor:
        return codes.decode_normals(clip, definition.axes, definition.signs)

    def resize(self, label: Tensor, size: tuple[int, int]) -> Tensor:
        return resize_label(label, size, unit_vectors=True)

    def metric(self):
        from lavin.metrics.geometry import MeanAngularError

        return MeanAngularError()


THRESHOLDS = ((100, 200), (50, 100), (150, 300))
"""Canny's low and high threshold; the first pair is the standard one."""


@dataclass(frozen=True)
class EdgesDefinition(Definition):
    """Parameters of the Canny filter."""

    thresholds: tuple[int, int] = THRESHOLDS[0]
    """Low and high, in units of the Sobel gradient |dx| + |dy| of 8-bit grey."""
    blur: bool = False
    """Smooth with a 5 x 5 Gaussian first."""


@register("edges")
class EdgesTask(Task):
    """Edges of the picture itself, one pixel wide (LINE): Canny on grey, aperture 3, L1 gradient."""

    description = "edges: Canny's lines, white on black"
    metric_name = "F1 (1 px)"
    definition_type = EdgesDefinition

    def define(self, draw: Draw) -> EdgesDefinition:
        if draw.evaluation:
            return EdgesDefinition()
        return EdgesDefinition(THRESHOLDS[draw.rng.integers(len(THRESHOLDS))], bool(draw.rng.random() < 0.5))

    def label(self, sample: Sample, definition: EdgesDefinition) -> Tensor:
        """Bool (frames, height, width)."""
        frames = [canny(frame, definition) for frame in sample.clip.cpu().numpy()]
        return torch.from_numpy(np.stack(frames))

    def paint(self, label: Tensor, definition: EdgesDefinition) -> Tensor:
        return codes.encode_lines(label)

    def read(self, clip: Tensor, definition: EdgesDefinition) -> Tensor:
        return codes.decode_lines(clip)

    def metric(self):
        from lavin.metrics.geometry import EdgeF

        return EdgeF()


def canny(frame: np.ndarray, definition: EdgesDefinition) -> np.ndarray:
    """Edges of one picture: uint8 (height, width, 3) RGB -> bool (height, width)."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if definition.blur:
        grey = cv2.GaussianBlur(grey, (5, 5), 0)
    low, high = definition.thresholds
    return cv2.Canny(grey, low, high, apertureSize=3, L2gradient=False) > 0
