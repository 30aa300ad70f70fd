"""The study of context length (thesis, figure 4.19; spec section 7 A): do more pairs make better predictions?

Every query is answered with nested contexts, from the same noise; beside them controls that show what of the pairs
counts. A question is (row, query, context): contexts of a query are different draws of pairs for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from zlib import crc32

import numpy as np

from lavin.context import Example
from lavin.data.mixture import Episode, Pool, accepted
from lavin.data.sample import Vocabulary
from lavin.errors import InputError
from lavin.evaluation import scenes
from lavin.evaluation.episodes import Row, Settings, draw_episode
from lavin.pipeline import LavinPipeline
from lavin.tasks import REGISTRY, HeldOut, Task

LENGTHS = (0, 1, 2, 4, 8, 16)
OTHER_TASK, SHUFFLED = "other_task", "shuffled"
"""Controls: the same inputs with the targets of another task, and with each other's targets."""
CEILINGS = ("code", "tokenizer")
"""The true target as it is read, and after a trip through the ST-VAE."""
CONTEXTS_TRIED = 100
"""Draws of pairs for a query before it is given up: the longest context must show every class that the query has."""


@dataclass(frozen=True)
class Study:
    """How the study is run: with the weights, all that a record depends on."""

    lengths: tuple[int, ...] = LENGTHS
    """Numbers of pairs, ascending; 0 is the control without context."""
    control_length: int | None = None
    """Pairs of the controls, one of ``lengths``; None for no controls."""
    steps: int = 10
    guidance_scale: float = 1.5
    seed: int = 0
    pool: int = 512
    """Held-out scenes that queries and pairs are drawn from."""
    precision: str = "float32"

    def __post_init__(self):
        if sorted({*self.lengths}) != [*self.lengths] or self.lengths[0] < 0 or self.lengths[-1] < 2:
            raise InputError(
                f"lengths are {self.lengths}; different numbers from 0 up are needed, one of them 2 or more"
            )
        if self.control_length is not None and self.control_length < 2:
            raise InputError(f"control_length is {self.control_length}; targets of at least 2 pairs can be exchanged")

    @property
    def longest(self) -> int:
        return self.lengths[-1]

    @property
    def shortest(self) -> int:
        """Least number of pairs above 0, what longer contexts are compared with."""
        return next(length for length in self.lengths if length)

    def settings(self, queries: int = 1, batch: int = 1) -> Settings:
        return Settings(
            queries,
            self.longest,
            self.steps,
            self.guidance_scale,
            (self.seed,),
            self.pool,
            batch,
            self.precision,
        )


def plan(lengths: Sequence[int], max_pairs: int | None, **settings: Any) -> Study:
    """A study whose controls have the longest context that training had, at which more pairs are also claimed to help.

    Args:
        max_pairs: most pairs in training; None where nobody knows.
    """
    study = Study(tuple(sorted({*lengths})), **settings)
    trained = [length for length in study.lengths if max_pairs is None or length <= max_pairs]
    return replace(study, control_length=trained[-1]) if trained and trained[-1] >= 2 else study


def protocol(pipeline: LavinPipeline, model: str, study: Study, held_out: HeldOut | None) -> dict[str, Any]:
    """All that records depend on; how many queries there are, and where they ran, is not of it."""
    made = scenes.protocol(pipeline, model, study.settings(), held_out)
    made = {name: value for name, value in made.items() if name not in ("queries", "pairs", "batch", "device")}
    return made | {
        "suite": "scenes, context length",
        "lengths": list(study.lengths),
        "control_length": study.control_length,
        "trained_pairs": pipeline.config.max_pairs,
    }


# --- Questions --------------------------------------------------------------------------------------------------------


def draw_question(
    pool: Pool, row: Row, study: Study, index: int, context: int = 0, held_out: HeldOut | None = None
) -> Episode:
    """The ``index``-th query of a row with the longest of its ``context``-th contexts.

    Context 0 is that of the benchmark's episode of as many pairs; other contexts have its query and definition.

    Raises:
        InputError: the pool has no fitting scenes.
    """
    episode = draw_episode(pool, row, study.longest, study.seed, index, held_out)
    if context == 0:
        return episode
    task, definition = episode.task, episode.definition
    rng = np.random.default_rng((study.seed, crc32(row.name.encode()), index, 2, context))
    for _ in range(CONTEXTS_TRIED):
        fitting = (sample for sample in accepted(pool, task, definition, rng) if sample is not episode.query_sample)
        samples = list(islice(fitting, study.longest))
        drawn = replace(
            episode, pairs=[task.example(sample, definition, rng) for sample in samples], pair_samples=samples
        )
        if shows(drawn, study.longest):
            return drawn
    raise InputError(f"row '{row.name}': no second context shows all that query {index} has; take longer contexts")


def other_task(task: Task) -> Task:
    """The task of the control: of geometry, which every scene shows."""
    names = ("video_depth", "video_normals") if task.clips else ("depth", "normals")
    return next(REGISTRY[name] for name in names if name != task.name)


def control_pairs(
    episode: Episode, length: int, rng: np.random.Generator, vocabulary: Vocabulary
) -> dict[str, list[Example]]:
    """Control -> pairs that do not show the episode's task, on the inputs of its first ``length`` pairs.

    Shuffled targets go round by one to ``length`` - 1 pairs, so that none stays.
    """
    pairs, samples = episode.pairs[:length], episode.pair_samples[:length]
    rival = other_task(episode.task)
    definition = rival.draw_definition(rng, vocabulary, evaluation=True)
    turn = int(rng.integers(1, length))
    return {
        OTHER_TASK: [
            Example(pair.input, rival.target(sample, definition)) for pair, sample in zip(pairs, samples, strict=True)
        ],
        SHUFFLED: [Example(pair.input, pairs[(i + turn) % length].target) for i, pair in enumerate(pairs)],
    }


def shows(episode: Episode, length: int) -> bool:
    """Whether the first pairs show all that the query's target uses."""
    labels = [episode.task.label(sample, episode.definition) for sample in episode.pair_samples[:length]]
    return episode.task.inferable(labels, episode.truth, episode.definition)
