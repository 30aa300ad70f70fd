"""Buckets: the shapes of batches in one run, and what each step draws: a shape and a length of context."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lavin.errors import InputError
from lavin.suggest import unknown
from lavin.training.data_config import BucketConfig, BucketScenes, ScenesConfig, TasksConfig

if TYPE_CHECKING:
    from lavin.training.config import PretrainConfig

SPACE_FACTOR, TIME_FACTOR = 8, 4
"""Pixels and frames a latent; those of ``lavin.models.stvae``, which is too heavy for checking a configuration."""
BATCH_DRAWS = 2
"""Last word of the key of a step's draws: data and noise have others."""


@dataclass(frozen=True)
class Bucket:
    """Batches of one shape.

    Args:
        number: its place in the configuration.
        scenes: in its shape.
        tasks: those that such scenes can show.
        batch_size: sequences of a batch.
        share: of all steps.
        contexts, validation_contexts: held of each split.
    """

    number: int
    scenes: ScenesConfig
    tasks: TasksConfig
    batch_size: int
    share: float
    contexts: int
    validation_contexts: int

    @property
    def name(self) -> str:
        """Frames, height and width, such as ``1x64x96``."""
        return "x".join(str(side) for side in (self.scenes.frames, *self.scenes.sides))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent frames, height and width of a clip; of a scene's, where a task's clips have lengths of their own."""
        return latent_shape(self.scenes, self.tasks.prefix_frames)


def latent_shape(scenes: ScenesConfig, prefix_frames: int = 0) -> tuple[int, int, int]:
    """Latent frames, height and width of a clip of such scenes, or of a part of so many frames."""
    height, width = scenes.sides
    return 1 + ((prefix_frames or scenes.frames) - 1) // TIME_FACTOR, height // SPACE_FACTOR, width // SPACE_FACTOR


def shapes_of(config: PretrainConfig) -> list[ScenesConfig]:
    """The scenes in the shape of every bucket; as configured where there are no buckets."""
    if not config.buckets:
        return [config.scenes]
    settings = dataclasses.asdict(config.scenes)
    return [
        BucketScenes(**settings | {"height": one.height, "width": one.width, "frames": one.frames})
        for one in config.buckets
    ]


def buckets_of(config: PretrainConfig) -> list[Bucket]:
    """The buckets of a configuration: one, of the shape of its scenes, if it names none.

    Raises:
        InputError: a bucket without tasks, or with ones that it cannot show; one with fewer contexts than a batch
            needs; a task with lengths of its own and no bucket; or too few workers for all.
    """
    run, cache = config.run, config.cache
    if not config.buckets:
        contexts = cache.contexts, cache.validation_contexts
        return [Bucket(0, config.scenes, config.tasks, run.batch_size, 1.0, *contexts)]
    tokens, total = np.prod(latent_shape(config.scenes)), sum(one.weight for one in config.buckets)
    buckets = []
    for number, (one, scenes) in enumerate(zip(config.buckets, shapes_of(config), strict=True)):
        share = one.weight / total
        scenes.train_scenes, scenes.validation_scenes = (
            max(1, round(count * share)) for count in (scenes.train_scenes, scenes.validation_scenes)
        )
        bucket = Bucket(
            number=number,
            scenes=scenes,
            tasks=tasks_of(one, number, scenes, config),
            batch_size=max(1, round(run.batch_size * float(tokens / np.prod(latent_shape(scenes))))),
            share=share,
            contexts=round(cache.contexts * share),
            validation_contexts=max(1, round(cache.validation_contexts * share)),
        )
        check_bucket(bucket, config)
        buckets.append(bucket)
    for name in config.tasks.probabilities():
        if not any(bucket.tasks.weights.get(name) for bucket in buckets):
            raise InputError(f"tasks.weights.{name}: no bucket shows it; give it one (buckets: tasks: [{name}])")
    if 0 < config.stream.workers < len(buckets):
        raise InputError(f"stream.workers is {config.stream.workers}; {len(buckets)} buckets need at least one each")
    return buckets


def tasks_of(one: BucketConfig, number: int, scenes: ScenesConfig, config: PretrainConfig) -> TasksConfig:
    """The tasks of one bucket.

    Raises:
        InputError: it names a task that is unknown, has no weight, cannot be drawn from its scenes, or has clips of
            another length than the others that it names.
    """
    from lavin.tasks import REGISTRY

    with_people = config.stream.people_share > 0
    shown = config.tasks.on_scenes(scenes, with_people)
    if not one.tasks:
        alike = [name for name in shown.probabilities() if not REGISTRY[name].own_length]
        return shown.only(alike or shown.weights)
    for name in one.tasks:
        where = f"buckets[{number}].tasks"
        if name not in REGISTRY:
            raise InputError(f"{where}: {unknown('task', name, REGISTRY)}")
        if not config.tasks.weights.get(name):
            raise InputError(f"{where}: '{name}' is not trained; give it a weight in tasks.weights")
        if reason := scenes.why_not(REGISTRY[name], with_people):
            raise InputError(f"{where}: '{name}' cannot be drawn there: {reason.replace('scenes.', '')}")
        if REGISTRY[name].own_length and len(one.tasks) > 1:
            raise InputError(
                f"{where}: the inputs and targets of '{name}' are not as long as those of other tasks; give it a "
                "bucket to itself"
            )
    return shown.only(one.tasks)


def check_bucket(bucket: Bucket, config: PretrainConfig) -> None:
    """Refuse a bucket that would have nothing to train on, by name."""
    where = f"buckets[{bucket.number}] ({bucket.name})"
    if not any(bucket.tasks.weights.values()):
        wanted = "clips" if bucket.scenes.frames > 1 else "pictures"
        raise InputError(f"{where} is empty: no task with a weight is drawn from such {wanted}; add one or remove it")
    if bucket.contexts < bucket.batch_size:
        raise InputError(
            f"{where} has {bucket.contexts} of cache.contexts={config.cache.contexts}, fewer than its batch of "
            f"{bucket.batch_size}; raise cache.contexts or its weight"
        )


@dataclass(frozen=True)
class BatchPlan:
    """What the batches of one step look like, the same on all ranks: equal work, equal collectives.

    Args:
        bucket: their shape.
        pairs: of each sequence, the query's among them.
        dropped: (batch_size,) bool, rows that lose their pairs.
    """

    bucket: Bucket
    pairs: int
    dropped: np.ndarray


def plan_batch(config: PretrainConfig, buckets: list[Bucket], step: int) -> BatchPlan:
    """The draws of a step: a pure function of (seed, step), so that a resumed run and every rank find the same."""
    rng = np.random.default_rng((config.run.seed, 0 if config.run.overfit_batch else step, 0, BATCH_DRAWS))
    bucket = buckets[int(rng.choice(len(buckets), p=[one.share for one in buckets]))]
    lengths = config.sequence_lengths
    pairs = int(rng.integers(lengths.start, lengths.stop))
    chance = 0.0 if config.causal else config.context_dropout
    return BatchPlan(bucket, pairs, rng.random(bucket.batch_size) < chance)
