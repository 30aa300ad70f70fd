"""Sample: one image or clip with whatever labels it has; what every source yields and every task reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """The names that a source's labels use: what a Definition can draw classes from."""

    things: tuple[str, ...] = ()
    """Countable classes, e.g. ``("sphere", "box")``; every Instance's ``class_name`` is one of them."""
    stuff: tuple[str, ...] = ()
    """Uncountable classes, e.g. ``("ground", "sky")``; they appear in ``Sample.semantic`` only."""
    colours: tuple[str, ...] = ()
    """Colour names that ``Instance.colour`` uses; empty where a source does not know them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of ``Sample.semantic``'s ids: things first, then stuff."""
        return self.things + self.stuff


@dataclass
class Instance:
    """One object of a Sample."""

    class_id: int
    """Index into ``Vocabulary.classes``."""
    class_name: str
    mask: Tensor
    """Visible pixels, bool (frames, height, width); in data sets that have boxes alone, the filled box."""
    box: Tensor
    """(frames, 4) float: x0, y0, x1, y1 in pixels, x1 and y1 exclusive; NaN in frames where nothing is visible."""
    track_id: int = 0
    is_thing: bool = True
    crowd: bool = False
    """Neither to be told apart nor scored: a group, or a thing of which almost nothing shows."""
    colour: str | None = None
    """Colour name, where the source knows it."""
    distance_m: float | None = None
    """Distance of the object's centre from the camera in the first frame, where the source knows it."""
    keypoints: Tensor | None = None
    """(17, 3) COCO keypoints x, y, v of a picture, (frames, 17, 3) of a clip, float32: x and y in pixels from the
    top left corner, v = 2 visible, 1 hidden, 0 not in the picture (then x = y = 0); None for all but people."""
    expressions: Sequence[str] = field(default_factory=list)
    """Texts that refer to this object and no other one of the sample."""
    clothes: dict[str, str] | None = None
    """Colour names of a person's "shirt" and "trousers", where the source knows them."""


@dataclass
class Sample:
    """An image (one frame) or clip and its labels; labels that a source does not have are None.

    Record of the task specification: adapters convert units and frames, tasks never do.
    """

    id: str
    clip: Tensor
    """uint8 (frames, height, width, 3), RGB."""
    dataset: str = ""
    split: str = ""
    licence: str = ""
    provenance: str = "ground truth"
    fps: float | None = None
    instances: list[Instance] | None = None
    semantic: Tensor | None = None
    """uint8 (frames, height, width): index into ``Vocabulary.classes``, 255 = ignore."""
    panoptic: Tensor | None = None
    """int32 (frames, height, width): 0 = none, else index into ``instances`` + 1."""
    depth: Tensor | None = None
    """float32 (frames, height, width): planar depth z, NaN = invalid; its unit is told by ``depth_kind``."""
    depth_kind: str = "metric_z"
    """``metric_z`` (metres) or ``relative_disparity``."""
    normals: Tensor | None = None
    """float32 (3, frames, height, width): unit vectors, x right, y up, z towards the viewer; zeros = invalid."""
    flow: Tensor | None = None
    """float32 (2, frames, height, width): u right, v down in pixels to the next frame; NaN = invalid."""
    boundaries: Tensor | None = None
    """float32 (frames, height, width) in [0, 1]."""
    drawings: Tensor | None = None
    """bool (people, frames, height, width): the boundaries that each of several people drew."""
    K: Tensor | None = None
    """(3, 3) pinhole intrinsics in pixels."""
    pose: Tensor | None = None
    """(frames, 4, 4) camera-to-world; the camera's axes are those of ``normals``."""

    @property
    def size(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        frames, height, width, _ = self.clip.shape
        return frames, height, width

    def rgb(self) -> Tensor:
        """The picture as a model's clip: float32 (3, frames, height, width) in [-1, 1]."""
        return self.clip.permute(3, 0, 1, 2).to(torch.float32) / 127.5 - 1
