"""Contexts drawn afresh for ever by worker processes, while a model trains: what a fast device needs to be fed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lavin.context import Example
from lavin.data.mixture import DEFINITIONS_TRIED, Episode, Source, draw_context, has_whole_length
from lavin.data.sample import Sample
from lavin.errors import InputError, LavinError
from lavin.pictures import to_uint8
from lavin.tasks import HeldOut

STARTING_SAMPLES = 128
"""Samples in a worker's pool before its first context; enough for most definitions, and drawn in seconds."""
RENDER_BATCH = 16
WORKER_STRIDE = 2**32
DAMAGE = (InputError, OSError)
"""What reading a damaged file raises."""
DAMAGE_TOLERATED = 0.01
"""Share of a source's samples that may be damaged and are left out."""
READ_BEFORE_JUDGING = 1000
"""Samples of an endless source, of which so many are taken to have been read at least."""
BATCHES_AHEAD = 4
"""Of each worker."""


class ContextBatch(NamedTuple):
    """Contexts as a worker sends them.

    Args:
        inputs, targets: uint8 (contexts, pairs, 3, frames, height, width), the query's pair among them.
        task_ids: int64 (contexts,), index into the stream's tasks.
        damaged: why samples were left out since the worker's batch before, one line a sample.
    """

    inputs: Tensor
    targets: Tensor
    task_ids: Tensor
    damaged: Sequence[str] = ()


@dataclass
class Share:
    """A source of samples, how often contexts come from it, and which tasks they show.

    Args:
        source: endless or not; sample ``i`` of a source with n pictures may be picture ``i % n``.
        weight: relative to the other sources.
        tasks: task name -> how often, relative to the other tasks of this source.
        per_context: new samples rendered for every context drawn from it.
        capacity: samples that the workers hold together; the oldest make room.
    """

    source: Source
    weight: float
    tasks: Mapping[str, float]
    per_context: float = 2.0
    capacity: int = 40_000
    prefix_frames: int | None = None
    """Pairs are parts, so many frames long, of the query's own clip; None: they are other clips."""

    def chances(self) -> tuple[list[str], np.ndarray]:
        names = [name for name, weight in self.tasks.items() if weight]
        weights = np.array([self.tasks[name] for name in names], dtype=float)
        return names, weights / weights.sum()


class RollingPool(Sequence):
    """The newest samples of a source: what contexts are drawn from while it moves on.

    Worker ``w`` renders samples w * 2^32, w * 2^32 + 1, ...; of a source of n pictures at most n are kept, so that no
    context shows one picture twice. Damaged samples are left out and noted in ``damaged``.

    Args:
        source: any Source.
        worker: which part of the source's samples is this pool's.
        capacity: samples kept.
    """

    def __init__(self, source: Source, worker: int, capacity: int):
        self.source, self.first = source, worker * WORKER_STRIDE
        self.capacity = min(capacity, len(source)) if isinstance(source, Sized) else capacity
        self.vocabulary = source.vocabulary
        self.samples: list[Sample] = []
        self.numbers: list[int] = []
        self.rendered = 0
        self.damaged: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def advance(self, rendered: int) -> None:
        """Move on to the state after ``rendered`` samples, skipping those that would be dropped at once."""
        self.rendered = max(self.rendered, rendered - self.capacity)
        while self.rendered < rendered:
            count = min(RENDER_BATCH, rendered - self.rendered)
            self.read(range(self.rendered, self.rendered + count))
            self.rendered += count
        old = bisect_left(self.numbers, self.rendered - self.capacity)
        del self.samples[:old], self.numbers[:old]

    def read(self, numbers: Sequence[int]) -> None:
        """Add samples; one by one where not all of them can be read.

        Raises:
            InputError: too many are damaged.
        """
        try:
            self.samples += self.source.samples([self.first + number for number in numbers])
            self.numbers += numbers
        except DAMAGE as error:
            if len(numbers) > 1:
                for number in numbers:
                    self.read([number])
            else:
                self.leave_out(numbers[0], str(error))

    def leave_out(self, number: int, reason: str) -> None:
        """Note a damaged sample; of a source of n pictures each counts once, however often it comes."""
        finite = isinstance(self.source, Sized)
        read = len(self.source) if finite else max(number + 1, READ_BEFORE_JUDGING)
        self.damaged[(self.first + number) % read if finite else number] = reason
        if len(self.damaged) > DAMAGE_TOLERATED * read:
            raise InputError(
                f"{type(self.source).__name__}: {len(self.damaged)} of {read} samples are damaged, more than "
                f"{DAMAGE_TOLERATED:.0%}; the last: {reason}"
            )


class ContextStream(IterableDataset):
    """Contexts for ever; read it with ``read_stream``.

    What worker w draws as its n-th context is a function of (shares, seed, number of workers, w, n) alone: a stream
    that starts at n continues one that was stopped there.

    Args:
        shares: sources and tasks.
        tasks: all tasks' names, in the order of ``ContextBatch.task_ids``.
        pairs: examples of a context, the query's among them.
        held_out: what definitions never use.
        seed: of the draws.
        batch: contexts sent at a time.
        first: number of the first batch, of all workers together, to be sent.
        rank, ranks: this process among those that train; each has workers of its own.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        tasks: Sequence[str],
        pairs: int,
        held_out: HeldOut | None = None,
        seed: int = 0,
        batch: int = 8,
        first: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.shares, self.tasks, self.pairs, self.held_out = list(shares), list(tasks), pairs, held_out
        self.seed, self.batch, self.first, self.rank, self.ranks = seed, batch, first, rank, ranks

    def __iter__(self) -> Iterator[ContextBatch | str]:
        info = get_worker_info()
        local, workers = (info.id, info.num_workers) if info else (0, 1)
        torch.set_num_threads(1)
        cv2.setNumThreads(0)  # its threads do not survive a fork
        # The loader takes batches from its workers in turn, and the next one was another's turn.
        turn = (local + self.first) % workers
        drawer = Drawer(self, self.rank * workers + turn, self.ranks * workers)
        number = (self.first + workers - 1 - turn) // workers  # batches sent before
        while True:
            try:
                batch = self.draw(drawer, number)
            except LavinError as error:  # raised here, it would arrive with a worker's traceback in its message
                yield str(error)
                return
            number += 1
            yield batch

    def draw(self, drawer: Drawer, number: int) -> ContextBatch:
        """A worker's batch of that number."""
        contexts = [drawer.draw(n) for n in range(number * self.batch, (number + 1) * self.batch)]
        inputs, targets = (torch.stack(half) for half in zip(*(pictures(episode) for _, episode in contexts)))
        task_ids = torch.tensor([task_id for task_id, _ in contexts])
        return ContextBatch(inputs, targets, task_ids, drawer.news())


@dataclass
class Drawer:
    """One worker's pools, and the contexts that it draws from them."""

    stream: ContextStream
    worker: int
    workers: int
    pools: list[RollingPool] = field(init=False)
    told: set[str] = field(init=False, default_factory=set)

    def __post_init__(self):
        self.pools = [
            RollingPool(share.source, self.worker, max(STARTING_SAMPLES, share.capacity // self.workers))
            for share in self.stream.shares
        ]
        weights = np.array([share.weight for share in self.stream.shares], dtype=float)
        self.weights = weights / weights.sum()

    def news(self) -> list[str]:
        """Why samples were left out since the last call."""
        reasons = [reason for pool in self.pools for reason in pool.damaged.values()]
        new = [reason for reason in reasons if reason not in self.told]
        self.told.update(new)
        return new

    def draw(self, number: int) -> tuple[int, Episode]:
        """This worker's context ``number``: task id and context.

        Raises:
            InputError: a source has no samples for a task that it shall show.
        """
        rng = np.random.default_rng((self.stream.seed, self.worker, number))
        chosen = rng.choice(len(self.pools), p=self.weights)
        share, pool = self.stream.shares[chosen], self.pools[chosen]
        pool.advance(STARTING_SAMPLES + int(number * self.weights[chosen] * share.per_context))
        names, chances = share.chances()
        name = str(rng.choice(names, p=chances))
        for _ in range(DEFINITIONS_TRIED):
            try:
                episode = draw_context(
                    pool,
                    name,
                    self.stream.pairs - 1,
                    rng,
                    held_out=self.stream.held_out,
                    prefix_frames=share.prefix_frames,
                )
            except ValueError as error:
                raise InputError(f"{type(share.source).__name__}: {error}") from error
            if has_whole_length(episode, share.prefix_frames or pool[0].size[0]):
                return self.stream.tasks.index(name), episode
        raise InputError(f"task '{name}': no definition shows all {pool[0].size[0]} frames of the clips")


def pictures(episode: Episode) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all pairs and the query, uint8 (pairs, 3, frames, height, width) each."""
    examples: list[Example] = [*episode.pairs, episode.query]
    return tuple(to_uint8(torch.stack(clips)) for clips in zip(*examples, strict=True))


def read_stream(stream: ContextStream, workers: int, pin_memory: bool = False) -> Iterator[ContextBatch]:
    """Batches of contexts, drawn by ``workers`` processes ahead of need; by this process if there are none.

    Raises:
        InputError: at the batch that cannot be drawn, as in the worker.
    """
    ahead = BATCHES_AHEAD if workers else None
    loader = DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=ahead, pin_memory=pin_memory)
    return whole_batches(iter(loader))


def whole_batches(batches: Iterator[ContextBatch | str]) -> Iterator[ContextBatch]:
    for batch in batches:
        if isinstance(batch, str):
            raise InputError(batch)
        yield batch
