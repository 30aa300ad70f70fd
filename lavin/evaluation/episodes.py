"""Episodes of a suite, each a function of (seed, row, index); its noise too, so that no query depends on the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
from torch import Generator, Tensor

from lavin.data.mixture import Episode, Pool, draw_context
from lavin.data.sample import Vocabulary
from lavin.errors import InputError
from lavin.tasks import Definition, HeldOut, Task

DrawDefinition = Callable[[np.random.Generator, Vocabulary], Definition]
Baseline = Callable[[Episode], Tensor]
"""What could answer without a model: a clip as the target's, (3, frames, height, width) in [-1, 1]."""


@dataclass(frozen=True)
class Settings:
    """How a suite is run: with the weights and the data, all that its numbers depend on."""

    queries: int = 64
    """Episodes of a row."""
    pairs: int = 4
    steps: int = 20
    """Points of the time grid, one more than solver steps."""
    guidance_scale: float = 1.5
    seeds: tuple[int, ...] = (0,)
    """Of episodes and noise; with several, all is done once under each of them."""
    pool: int = 512
    """Held-out scenes that episodes are drawn from; photos are all in use."""
    batch: int = 8
    """Episodes that run together."""
    precision: str = "float32"
    """``float32``, or ``bfloat16`` by autocast: the weights stay as loaded."""

    def __post_init__(self):
        for name, least in (("queries", 1), ("pairs", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        check_seeds(self.seeds)

    @property
    def seed(self) -> int:
        """The only one, for what is done once."""
        (seed,) = self.seeds
        return seed


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that numpy does not take, and one that would count twice.

    Raises:
        InputError: there is none, one is negative, or one stands there twice.
    """
    if not seeds:
        raise InputError("seeds is empty; name at least one")
    for seed in seeds:
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be at least 0")
        if list(seeds).count(seed) > 1:
            raise InputError(f"seed {seed} is given twice; a deviation over seeds needs different ones")


def read_and_truth(clip: Tensor, episode: Episode) -> tuple[Any, Any]:
    """What a task reads from a predicted clip, and the truth at the clip's size."""
    return episode.task.read(clip, episode.definition), episode.truth


@dataclass(frozen=True)
class Score:
    """One number of a row: a metric, and what of a prediction it compares with what of an episode."""

    name: str
    metric: Callable[[], Any]
    """Makes it, or raises ``Unavailable``."""
    compare: Callable[[Tensor, Episode], tuple[Any, Any]] = read_and_truth
    """(predicted clip, episode) -> what ``update`` takes."""
    of_depth: Callable[[], Any] | None = None
    """The metric for those who predict depth where the task's code is disparity; None for the same one."""
    first: int | None = None
    """Only so many queries of the row count; None for all."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Method -> its published value by this protocol."""


@dataclass(frozen=True)
class Row:
    """One line of the report: a task, what its definitions are, and what it is compared with."""

    name: str
    """The task's name, ``foreground/held_out_class``, ``camvid/semantic`` and their like; part of an episode's seed."""
    task: Task
    draw_definition: DrawDefinition | None = None
    """None is the task's standard definition, of names that training could draw."""
    metric: Callable[[], Any] | None = None
    """None is the task's own metric."""
    metric_name: str | None = None
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    """Name -> method beside the two that every row has."""
    scores: tuple[Score, ...] = ()
    """What is reported, the most telling first; none is ``metric`` alone."""

    @property
    def all_scores(self) -> tuple[Score, ...]:
        return self.scores or (Score(self.metric_name or self.task.metric_name, self.metric or self.task.metric),)


def episode_rng(seed: int, row: str, index: int) -> np.random.Generator:
    """Draws everything of an episode but its noise."""
    return np.random.default_rng((seed, crc32(row.encode()), index))


def noise_generator(seed: int, row: str, index: int) -> Generator:
    """Draws an episode's noise, whatever its pairs: longer contexts of the same query start from the same noise."""
    state = np.random.SeedSequence((seed, crc32(row.encode()), index, 1)).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))


def draw_episode(pool: Pool, row: Row, pairs: int, seed: int, index: int, held_out: HeldOut | None = None) -> Episode:
    """The ``index``-th question of a row, a function of its arguments alone; pairs and query come from one pool.

    Raises:
        InputError: the pool has no fitting scenes.
    """
    rng = episode_rng(seed, row.name, index)
    definition = row.draw_definition(rng, pool.vocabulary) if row.draw_definition else None
    try:
        return draw_context(pool, row.task, pairs, rng, evaluation=True, held_out=held_out, definition=definition)
    except ValueError as error:
        raise InputError(f"{error}; take fewer pairs or a larger pool") from error
