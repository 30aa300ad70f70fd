"""Sources x tasks -> contexts: the pairs of one task with one definition, and a query with its truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from lavin.context import Context, Example
from lavin.data.sample import Sample, Vocabulary
from lavin.data.scenes import Scenes
from lavin.tasks import Definition, HeldOut, Task, get_task

DEFINITIONS_TRIED = 200


class Source(Protocol):
    """Annotated samples by index: ``Scenes`` and ``Pool`` are ones."""

    vocabulary: Vocabulary

    def __getitem__(self, index: int) -> Sample: ...


class Pool(Sequence):
    """Samples of a source, kept in memory: what contexts are drawn from.

    Args:
        source: any Source, e.g. ``Scenes``.
        indices: which of its samples; rendered in batches where the source has ``samples(indices)``.
        batch: samples a batch.
    """

    def __init__(self, source: Source, indices: Sequence[int], batch: int = 64):
        self.vocabulary = source.vocabulary
        self._samples: list[Sample] = []
        for start in range(0, len(indices), batch):
            self._samples += source.samples(indices[start : start + batch])

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def scenes_for(task: Task, split: str, size: int, frames: int | None = None, seed: int = 0) -> Scenes:
    """Procedural scenes that a task can be drawn from: pictures or clips, with people where it is about them.

    Args:
        frames: of clips, 1 + 4k; None for as many as the task's standard definition needs.
    """
    frames = (frames or task.source_frames) if task.clips else 1
    return Scenes(split, size=size, frames=frames, seed=seed, people=task.people)


@dataclass
class Episode:
    """One question to a model and its truth: pairs and query share a definition, the query is none of the pairs."""

    task: Task
    definition: Definition
    pairs: list[Example]
    query: Example
    pair_samples: list[Sample]
    query_sample: Sample

    @property
    def context(self) -> Context:
        return Context(self.pairs, self.query.input)

    @property
    def target(self) -> Tensor:
        """The query's true target, (3, frames, height, width)."""
        return self.query.target

    @property
    def truth(self) -> Any:
        """The query's true label, what the task's metric compares with."""
        return self.task.label(self.query_sample, self.definition)


def draw_context(
    pool: Pool,
    task: str | Task,
    pairs: int,
    rng: np.random.Generator,
    evaluation: bool = False,
    held_out: HeldOut | None = None,
    definition: Definition | None = None,
) -> Episode:
    """Draw a definition, a query and pairs that share it; a function of ``rng``'s state alone.

    The query is drawn first and pairs one after another, so that contexts are nested: the K-pair context of a seed is
    the first K pairs of its longer ones (unless a task's pairs must show all that the query uses).

    Args:
        task: a task or its name.
        pairs: how many pairs.
        evaluation: standard definitions instead of the training range.
        held_out: what definitions may not use.
        definition: use this one instead of drawing.

    Raises:
        ValueError: the pool has no fitting samples for any definition tried.
    """
    task = get_task(task) if isinstance(task, str) else task
    for _ in range(DEFINITIONS_TRIED):
        chosen = definition or task.draw_definition(rng, pool.vocabulary, evaluation=evaluation, held_out=held_out)
        fitting = accepted(pool, task, chosen, rng)
        samples = list(islice(fitting, pairs + 1))
        if not samples:
            check_labels(pool, task)
        if len(samples) < pairs + 1:
            continue
        query, *samples = samples if evaluation else task.vary(samples, chosen, rng)
        labels = [task.label(sample, chosen) for sample in samples]
        if pairs and not task.inferable(labels, task.label(query, chosen), chosen):
            continue
        examples = [task.example(sample, chosen, rng) for sample in [query, *samples]]
        return Episode(task, chosen, examples[1:], examples[0], samples, query)
    raise ValueError(f"task '{task.name}': no definition fits {pairs + 1} of the {len(pool)} samples")


def has_whole_length(episode: Episode, frames: int) -> bool:
    """Whether a context shows all frames that samples have, or as many as its task always shows: what is trained
    together is equally long, and optical flow over strides shows less."""
    return episode.task.own_length or episode.query.input.shape[1] == frames


def check_labels(pool: Pool, task: Task) -> None:
    """Refuse a pool of which no sample has what the task needs, whatever the definition.

    Raises:
        ValueError: naming the task and the labels.
    """
    lacks = [task.missing(pool[index]) for index in range(len(pool))]
    if lacks and all(lacks):
        raise ValueError(
            f"task '{task.name}' needs {' and '.join(lacks[0])}, which none of the {len(pool)} samples has"
        )


def accepted(pool: Pool, task: Task, definition: Definition, rng: np.random.Generator) -> Iterator[Sample]:
    """Samples that can be part of a context with this definition, in random order, found as they are asked for."""
    for index in rng.permutation(len(pool)):
        if task.accepts(pool[index], definition):
            yield pool[index]
