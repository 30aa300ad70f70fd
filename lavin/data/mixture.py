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
    query_frames: slice | None = None
    """Frames of the query's sample that it shows, where pairs are parts of the same clip; None for all."""

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
        label = self.task.label(self.query_sample, self.definition)
        return label if self.query_frames is None else label[..., self.query_frames, :, :]


def draw_context(
    pool: Pool,
    task: str | Task,
    pairs: int,
    rng: np.random.Generator,
    evaluation: bool = False,
    held_out: HeldOut | None = None,
    definition: Definition | None = None,
    prefix_frames: int | None = None,
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
        prefix_frames: instead of other clips, pairs are the parts of the query's own clip before it, of so many frames
            each (``prefix`` mode of the specification, 3.2).

    Raises:
        ValueError: the pool has no fitting samples for any definition tried.
    """
    task = get_task(task) if isinstance(task, str) else task
    if prefix_frames is not None and (task.own_length or not task.clips):
        raise ValueError(f"task '{task.name}' has no prefix mode: its targets are not as long as clips are")
    for _ in range(DEFINITIONS_TRIED):
        chosen = definition or task.draw_definition(rng, pool.vocabulary, evaluation=evaluation, held_out=held_out)
        fitting = accepted(pool, task, chosen, rng)
        if prefix_frames is not None:
            if episode := prefix_episode(fitting, task, chosen, pairs, prefix_frames, rng):
                return episode
            continue
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


def prefix_episode(
    fitting: Iterator[Sample],
    task: Task,
    definition: Definition,
    pairs: int,
    frames: int,
    rng: np.random.Generator,
) -> Episode | None:
    """The first sample that is long enough, cut into pairs and, after them, the query; None if there is none.

    The clip is drawn whole before it is cut: one scale of depth, one colour a thing, for all its parts.
    """
    for sample in fitting:
        whole = task.example(sample, definition, rng)
        if whole.input.shape[1] >= (pairs + 1) * frames:
            spans = [slice(part * frames, (part + 1) * frames) for part in range(pairs + 1)]
            parts = [Example(whole.input[:, span], whole.target[:, span]) for span in spans]
            return Episode(task, definition, parts[:-1], parts[-1], [sample] * pairs, sample, spans[-1])
    return None


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
