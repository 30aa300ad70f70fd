"""Task, Definition and the registry: what a label looks like as an image, and back."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from lavin.context import Example
from lavin.data.sample import Sample, Vocabulary
from lavin.errors import InputError
from lavin.tasks.resizing import resize_label


@dataclass(frozen=True)
class Definition:
    """What all pairs of one context and its query share: a small, JSON-serialisable record.

    Nothing that differs inside one context may be in it; everything that the task depends on must be.
    """

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Definition:
        """Inverse of ``to_dict``, also after a trip through JSON, which makes lists of tuples."""
        return cls(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class HeldOut:
    """What training never draws into a definition, so that an evaluation of it is an evaluation of the unseen."""

    classes: tuple[str, ...] = ()
    """Class names."""
    colours: tuple[str, ...] = ()
    """Colour names of objects."""
    palettes: tuple[tuple[int, int, int], ...] = ()
    """Drawing colours, 8-bit RGB."""
    words: tuple[str, ...] = ()
    """Words of captions, in any case."""


@dataclass(frozen=True)
class Draw:
    """What a definition is drawn from."""

    rng: np.random.Generator
    vocabulary: Vocabulary
    """Names of the source: classes and colours are drawn from it, in evaluation too."""
    evaluation: bool = False
    """Take the standard style instead of drawing from the training range."""
    held_out: HeldOut = HeldOut()
    """What is never drawn."""


class Task(ABC):
    """A visual task: how its label is drawn as an image and read back.

    A task knows no network. ``label`` finds the truth in a Sample, ``paint`` draws a label, ``read`` takes a
    (predicted) picture back to a label; ``example`` joins them into the pair that a context shows.
    """

    definition_type: ClassVar[type[Definition]] = Definition
    """Class of this task's definitions, to read one back with ``from_dict``."""
    name: ClassVar[str]
    """Identifier in the registry, set by ``register``."""
    description: ClassVar[str]
    """One line for ``lavin tasks``."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of Sample that must not be None."""
    clips: ClassVar[bool] = False
    """Whether it is a task of clips, 1 + 4k frames with k > 0, rather than of pictures."""
    people: ClassVar[bool] = False
    """Whether samples must show people with keypoints."""
    source_frames: ClassVar[int] = 13
    """Frames that a clip must have for the standard definition; of tasks of clips only."""
    own_length: ClassVar[bool] = False
    """Whether its inputs and targets have lengths of their own, whatever the sample's; of tasks of clips only."""
    metric_name: ClassVar[str]
    """Name of the metric in reports, e.g. ``AbsRel``."""

    def draw_definition(
        self,
        rng: np.random.Generator,
        vocabulary: Vocabulary,
        evaluation: bool = False,
        held_out: HeldOut | None = None,
    ) -> Definition:
        """Draw what one context shares; the arguments are those of ``Draw``."""
        return self.define(Draw(rng, vocabulary, evaluation, held_out or HeldOut()))

    def define(self, draw: Draw) -> Definition:
        """What one context shares: nothing, unless the task says what. Called by ``draw_definition``."""
        return Definition()

    def missing(self, sample: Sample) -> list[str]:
        """What the sample lacks for this task, whatever the definition, in words for a person; mostly labels' names."""
        return [name for name in self.needs if getattr(sample, name) is None]

    def accepts(self, sample: Sample, definition: Definition) -> bool:
        """Whether the sample can be a pair or the query of a context with this definition."""
        return not self.missing(sample)

    def inferable(self, pair_labels: Sequence[Any], query_label: Any, definition: Definition) -> bool:
        """Whether the pairs show everything that the query's target uses."""
        return True

    def vary(self, samples: list[Sample], definition: Definition, rng: np.random.Generator) -> list[Sample]:
        """What a training context shows of the samples drawn for it, query first; as they are, for most tasks."""
        return samples

    def input(self, sample: Sample, definition: Definition, rng: np.random.Generator) -> Tensor:
        """What the model is shown: the photo unless the task degrades or generates it. (3, f, h, w) in [-1, 1]."""
        return sample.rgb()

    @abstractmethod
    def label(self, sample: Sample, definition: Definition) -> Any:
        """The truth, in the type that ``paint`` takes, ``read`` returns and the metric scores."""

    @abstractmethod
    def paint(self, label: Any, definition: Definition) -> Tensor:
        """Draw a label as a clip: float32 (3, frames, height, width) in [-1, 1], whole 8-bit levels."""

    @abstractmethod
    def read(self, clip: Tensor, definition: Definition) -> Any:
        """Read a label from a (predicted) clip (3, frames, height, width) in [-1, 1]."""

    def resize(self, label: Any, size: tuple[int, int]) -> Any:
        """A label at another (height, width), e.g. one read at the model's size at the query's."""
        return resize_label(label, size)

    @abstractmethod
    def metric(self) -> Any:
        """A fresh ``torchmetrics.Metric`` whose ``update(read label, true label)`` scores one sample and whose
        ``higher_is_better`` says which way is good."""

    def target(self, sample: Sample, definition: Definition) -> Tensor:
        """What the model shall answer: the painted label, on black unless the task draws it onto the photo."""
        return self.paint(self.label(sample, definition), definition)

    def target_frames(self, frames: int, definition: Definition) -> int:
        """Frames of the target of an input of that many frames."""
        return frames

    def example(self, sample: Sample, definition: Definition, rng: np.random.Generator) -> Example:
        """The (input, target) pair that shows this task on this sample.

        Raises:
            InputError: the sample lacks a label that the task needs; the message names both.
        """
        if missing := self.missing(sample):
            raise InputError(f"task '{self.name}' needs {' and '.join(missing)}, which sample '{sample.id}' lacks")
        return Example(self.input(sample, definition, rng), self.target(sample, definition))


REGISTRY: dict[str, Task] = {}


def register(name: str):
    """Class decorator: make a Task available under ``name``."""

    def decorate(cls: type[Task]) -> type[Task]:
        if name in REGISTRY:
            raise ValueError(f"task '{name}' is registered twice")
        cls.name = name
        REGISTRY[name] = cls()
        return cls

    return decorate


ALIASES = {
    "foreground_segmentation": "foreground",
    "semantic_segmentation": "semantic",
    "instance_segmentation": "instance",
    "single_object_detection": "detection",
    "object_detection": "detection",
    "referring_segmentation": "referring",
    "depth_estimation": "depth",
    "surface_normal_estimation": "normals",
    "normal_estimation": "normals",
    "edge_detection": "edges",
    "panoptic_segmentation": "panoptic",
    "pose_estimation": "pose",
    "pose_to_image_generation": "pose_to_image",
    "depth_to_image_generation": "depth_to_image",
    "normal_to_image": "normals_to_image",
    "normal_to_image_generation": "normals_to_image",
    "de_glass_blur": "deglassblur",
    "de_motion_blur": "demotionblur",
    "de_raining": "deraining",
    "video_depth_estimation": "video_depth",
    "video_surface_normal_estimation": "video_normals",
    "video_optical_flow_estimation": "optical_flow",
    "video_instance_segmentation": "video_instance",
    "depth_to_video_generation": "depth_to_video",
    "normal_to_video": "normals_to_video",
    "normal_to_video_generation": "normals_to_video",
}
"""The specification's and the released archive's names for tasks whose own name is shorter."""


def get_task(name: str) -> Task:
    """The registered task of that name, or of one of its long names.

    Raises:
        ValueError: no such task; the message suggests the nearest name and lists all.
    """
    name = ALIASES.get(name, name)
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, [*REGISTRY, *ALIASES], n=1, cutoff=0.5)
        hint = f"; did you mean '{ALIASES.get(near[0], near[0])}'?" if near else ";"
        raise ValueError(f"unknown task '{name}'{hint} registered: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]
