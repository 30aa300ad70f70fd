"""What a run trains on: scenes, tasks, photos, and how many contexts of them are held."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from lavin.errors import InputError
from lavin.suggest import unknown
from lavin.training.run_config import check_positive


@dataclass
class ScenesConfig:
    """Procedural scenes that a run trains on."""

    size: int = 64
    """Side of the pictures, pixels; a multiple of 16."""
    train_scenes: int = 8000
    """Scenes in memory, from which pictures and contexts are drawn."""
    validation_scenes: int = 500
    """Scenes of the held-out split, for validation."""
    frames: int = 1
    """1 for pictures; 1 + 4k for clips, which tasks of clips are drawn from."""
    fps: list[float] = field(default_factory=lambda: [8.0])
    """Frames per second of clips: the more, the less moves from one to the next. Of several, scenes take
    theirs in turn."""
    people: bool = False
    """Scenes with people, which pose tasks are drawn from."""

    def __post_init__(self):
        check_positive(self, "size", "train_scenes", "validation_scenes", "frames")
        if not self.fps or min(self.fps) <= 0:
            raise InputError(f"scenes.fps is {self.fps}; it is a list of numbers above 0, e.g. [8, 24]")
        if self.size % 16:
            raise InputError(f"scenes.size is {self.size}; it must be a multiple of 16 (8 of the ST-VAE, 2 of a patch)")
        if self.frames % 4 != 1:
            raise InputError(f"scenes.frames is {self.frames}; it must be 1, or 1 + 4k for clips")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size, self.size

    def source(self, split: str, people: bool | None = None):
        """The scenes of a split, ``train`` or ``validation``; with or without people whatever the config says."""
        from lavin.data.scenes import Scenes

        people = self.people if people is None else people
        return Scenes(split, size=self.sides, frames=self.frames, people=people, fps=self.fps)

    def shows(self, task: str, with_people: bool = False) -> bool:
        """Whether a registered task can be drawn from these scenes."""
        from lavin.tasks import get_task

        return self.why_not(get_task(task), with_people) is None

    def why_not(self, task, with_people: bool = False) -> str | None:
        """What keeps a task from being drawn from these scenes, in words; None if nothing does.

        Args:
            with_people: some scenes have people although ``people`` is False.
        """
        if task.clips != (self.frames > 1):
            return f"set scenes.frames to {'1 + 4k, it is a task of clips' if task.clips else '1, it is of pictures'}"
        if task.own_length and self.frames < task.source_frames:
            return f"set scenes.frames to {task.source_frames}, as many as its clips need"
        if task.people and not (self.people or with_people):
            return "it needs people: set scenes.people to true, or stream.people_share"
        if task.name == "referring_caption" and min(self.sides) < 64:
            return "its captions need pictures of 64 pixels"
        return None


@dataclass
class BucketConfig:
    """Batches of one shape, among others in the same run."""

    height: int = 64
    """Of the pictures, pixels; a multiple of 16."""
    width: int = 64
    """Likewise."""
    frames: int = 1
    """1 for pictures; 1 + 4k for clips."""
    weight: float = 1.0
    """How often a batch is of this shape, relative to the other buckets."""
    tasks: list[str] = field(default_factory=list)
    """Which of the tasks with a weight its batches show; empty for all that can be drawn from such scenes. One with
    lengths of its own (frame_prediction) needs a bucket to itself."""

    def __post_init__(self):
        check_positive(self, "height", "width", "frames", "weight")
        for name in ("height", "width"):
            if getattr(self, name) % 16:
                raise InputError(f"buckets: {name} is {getattr(self, name)}; it must be a multiple of 16")
        if self.frames % 4 != 1:
            raise InputError(f"buckets: frames is {self.frames}; it must be 1, or 1 + 4k for clips")


@dataclass
class BucketScenes(ScenesConfig):
    """The scenes of one bucket: as configured, in its shape."""

    height: int = 64
    width: int = 64

    @property
    def sides(self) -> tuple[int, int]:
        return self.height, self.width


@dataclass
class TasksConfig:
    """Which tasks are trained, and what their definitions never use."""

    weights: dict[str, float] = field(default_factory=dict)
    """Task name -> how often it is drawn, relative to the others; empty for all that the scenes can show, equally,
    but for those with lengths of their own (frame_prediction), which want a run or a bucket to themselves."""
    held_out_tasks: list[str] = field(default_factory=list)
    """Tasks that are not trained, so that an evaluation of them is one of the unseen."""
    held_out_classes: list[str] = field(default_factory=list)
    """Class names that no definition of the training selects."""
    held_out_colours: list[str] = field(default_factory=list)
    """Colour names likewise."""
    held_out_palettes: list[Any] = field(default_factory=list)
    """8-bit RGB triples that no definition draws with."""
    held_out_words: list[str] = field(default_factory=list)
    """Words that no caption has (referring_caption), in any case."""
    prefix_frames: int = 0
    """0: pairs are other clips than the query. Else they are the parts of the query's clip before it, of so many
    frames each, 1 + 4k; ``scenes.frames`` must hold ``cache.pairs`` of them."""

    def resolve(
        self, scenes: ScenesConfig, with_people: bool = False, shapes: Sequence[ScenesConfig] | None = None
    ) -> None:
        """Fill in the weights if there are none, and check that the scenes can show every task that has one.

        Args:
            with_people: some scenes have people although ``scenes.people`` is False.
            shapes: the scenes as the buckets have them; a task must be shown by one of them.

        Raises:
            InputError: an unknown task (the message suggests the nearest), one that these scenes cannot show or that
                is held out, a negative weight, or none above zero.
        """
        shapes = shapes or [scenes]
        from lavin.tasks import REGISTRY

        for key, names in (("weights", self.weights), ("held_out_tasks", self.held_out_tasks)):
            for name in names:
                if name not in REGISTRY:
                    raise InputError(f"tasks.{key}: {unknown('task', name, REGISTRY)}")
        reasons = {
            name: [shape.why_not(task, with_people) for shape in shapes if shape.why_not(task, with_people)]
            for name, task in REGISTRY.items()
        }
        shown = [name for name, found in reasons.items() if len(found) < len(shapes)]
        mixed = sorted(name for name in shown if name not in self.held_out_tasks and not REGISTRY[name].own_length)
        self.weights = self.weights or dict.fromkeys(mixed, 1.0)
        for name, weight in self.weights.items():
            if weight < 0:
                raise InputError(f"tasks.weights.{name} is {weight}; it must not be negative")
            if weight and name in self.held_out_tasks:
                raise InputError(f"task '{name}' has a weight and is in tasks.held_out_tasks; take it out of one")
            if weight and name not in shown:
                raise InputError(f"tasks.weights.{name}: {reasons[name][0]}")
        drawn = [name for name, weight in self.weights.items() if weight]
        for name in drawn:
            if REGISTRY[name].own_length and len(drawn) > 1 and len(shapes) == 1:
                raise InputError(
                    f"tasks.weights.{name}: its inputs and targets are not as long as those of other tasks, and what "
                    "is trained together is equally long; train it in a run of its own, or in a bucket of its own "
                    f"(buckets: tasks: [{name}])"
                )
        if not any(self.weights.values()):
            raise InputError("tasks.weights are all zero; give at least one task a weight")

    def probabilities(self) -> dict[str, float]:
        """Task name -> probability, once ``resolve`` has filled in the weights."""
        total = sum(self.weights.values())
        return {name: weight / total for name, weight in self.weights.items() if weight}

    def on_scenes(self, scenes: ScenesConfig, with_people: bool = False) -> TasksConfig:
        """These tasks without those that the scenes cannot show.

        Args:
            with_people: some scenes have people although ``scenes.people`` is False.
        """
        return self.only([name for name in self.weights if scenes.shows(name, with_people)])

    def only(self, names: Collection[str]) -> TasksConfig:
        """These tasks without those that are not named."""
        return dataclasses.replace(self, weights={name: self.weights[name] for name in self.weights if name in names})

    def held_out(self):
        """The same as the tasks' own record."""
        from lavin.tasks import HeldOut

        palettes = tuple(tuple(int(level) for level in rgb) for rgb in self.held_out_palettes)
        return HeldOut(tuple(self.held_out_classes), tuple(self.held_out_colours), palettes, tuple(self.held_out_words))


@dataclass
class CacheConfig:
    """Contexts whose latents are computed once, before the J-DiT trains."""

    contexts: int = 10000
    """Contexts of the training split."""
    validation_contexts: int = 256
    """Contexts of the held-out split."""
    pairs: int = 8
    """Pairs of each; every visit draws ``train_pairs`` of them in a new order."""

    def __post_init__(self):
        check_positive(self, "contexts", "validation_contexts", "pairs")


@dataclass
class StreamConfig:
    """Contexts that worker processes draw afresh while the model trains, instead of all of them before it."""

    workers: int = 0
    """Processes of each rank that draw them; 0 for none: the cache is then filled once and kept."""
    fresh: int = 8
    """New contexts a step; they replace the oldest of the cache."""
    batch: int = 8
    """Contexts that a worker sends at a time."""
    scenes_per_context: float = 2.0
    """New scenes rendered for every context drawn from them; ``scenes.train_scenes`` are held at a time."""
    people_share: float = 0.0
    """Share of the contexts that is drawn from scenes with people."""

    def __post_init__(self):
        check_positive(self, "fresh", "batch", "scenes_per_context")
        if self.workers < 0:
            raise InputError(f"stream.workers is {self.workers}; it must not be negative")
        if self.fresh % self.batch:
            raise InputError(f"stream.fresh is {self.fresh}; it must be a multiple of stream.batch={self.batch}")
        if not 0 <= self.people_share < 1:
            raise InputError(f"stream.people_share is {self.people_share}; it must be at least 0 and below 1")


@dataclass
class PhotosConfig:
    """Real images beside the scenes; only with ``stream.workers``."""

    folders: dict[str, str] = field(default_factory=dict)
    """Kind -> folder; the kinds are those of ``lavin.data.photos``: ``camvid``, ``bsds500``, ``rgbd``."""
    share: float = 0.2
    """Share of the contexts that is drawn from them, the same for every kind."""

    def __post_init__(self):
        for kind in self.folders:
            from lavin.data.photos import KINDS

            if kind not in KINDS:
                raise InputError(f"photos.folders: {unknown('kind', kind, KINDS)}")
        if not 0 <= self.share < 1:
            raise InputError(f"photos.share is {self.share}; it must be at least 0 and below 1")
