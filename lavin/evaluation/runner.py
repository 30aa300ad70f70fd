"""One way to score a row, whoever predicts: draw episodes, let everybody answer, add up; on one process or on some."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from lavin.data.mixture import Episode
from lavin.evaluation.baselines import BASELINES
from lavin.evaluation.controls import Controlled, controls_of
from lavin.evaluation.episodes import Row, Score, Settings, noise_generator
from lavin.evaluation.predictors import Each, Predictor, perfect
from lavin.evaluation.scores import CODE, MODEL, TOKENIZER, Result, error_reduction, over_seeds
from lavin.evaluation.shelf import Shelf
from lavin.metrics.base import Unavailable


@dataclass(frozen=True)
class Share:
    """This process' part of a run: batch ``i`` of a row is of process ``i % processes``."""

    process: int = 0
    processes: int = 1
    device: Any = None
    """Of this process, where there are some."""

    @classmethod
    def of_launch(cls, cpu: bool = False) -> Share:
        """As ``accelerate launch`` or ``torchrun`` started it; alone if neither did.

        Args:
            cpu: processes talk through gloo although there are GPUs.
        """
        from accelerate import PartialState

        state = PartialState(cpu=cpu)
        return cls(state.process_index, state.num_processes, state.device)

    @property
    def is_main(self) -> bool:
        return self.process == 0

    def gather(self, item: Any) -> list[Any]:
        """Every process' item, in their order, on all of them."""
        if self.processes == 1:
            return [item]
        from accelerate.utils import gather_object

        return gather_object([item])

    def wait(self) -> None:
        """Until every process is here."""
        self.gather(None)


@dataclass
class Runner:
    """Who answers, and how.

    Args:
        model: whose scores are the rows' values.
        settings: how many queries and pairs, and the seeds; what is drawn depends on nothing else.
        rivals: predictors whose scores stand among the baselines, where they take the task.
        shelf: keeps answers of networks, so that a run that was cut short goes on.
        share: of the batches.
    """

    model: Predictor
    settings: Settings
    rivals: Sequence[Predictor] = ()
    shelf: Shelf | None = None
    share: Share = field(default_factory=Share)

    def evaluate(self, row: Row, draw: Callable[..., Episode]) -> list[Result]:
        """Score a row's predictions, baselines and ceilings on the same episodes: one result for each of its scores.

        Args:
            draw: the row's episode, of ``index`` and ``seed``.

        Returns:
            Nothing on processes other than the main one.
        """
        seeds = self.settings.seeds
        runs = [self.evaluate_once(row, partial(draw, seed=seed), seed) for seed in seeds]
        return [over_seeds(seeds, results, own_names(row)) for results in zip(*runs, strict=True)]

    def evaluate_once(self, row: Row, draw: Callable[..., Episode], seed: int) -> list[Result]:
        """As ``evaluate``, under one seed."""
        queries = self.settings.queries
        tallies = [Tally(score) for score in row.all_scores]
        batches = range(0, queries, self.settings.batch)
        for start in batches[self.share.process :: self.share.processes]:
            indices = range(start, min(start + self.settings.batch, queries))
            episodes = [draw(index=index) for index in indices]
            for name, answers_depth, clips in self.answers(row, seed, start, indices, episodes):
                compared: dict[Any, list[tuple[Any, Any]]] = {}
                for tally in tallies:
                    how = tally.score.compare
                    if not tally.unavailable and how not in compared:
                        compared[how] = [how(clip, episode) for clip, episode in zip(clips, episodes, strict=True)]
                    tally.add(name, answers_depth, seed, indices, episodes, compared.get(how, []))
        merged = [Tally.merge(parts) for parts in zip(*self.share.gather(tallies))]
        return [self.result(row, tally, queries) for tally in merged] if self.share.is_main else []

    def answers(
        self, row: Row, seed: int, start: int, indices: Sequence[int], episodes: Sequence[Episode]
    ) -> Iterator[tuple[str, bool, list[Tensor]]]:
        """(name, whether depth tasks are answered with depth, clips) of everybody who answers a batch."""

        def generators():
            return [noise_generator(seed, row.name, index) for index in indices]

        cheap = {name: Each(name, answer) for name, answer in (BASELINES | dict(row.baselines)).items()}
        rivals = {rival.name: rival for rival in self.rivals if rival.takes(row.task)}
        controls = {name: Controlled(self.model, change) for name, change in controls_of(row.task).items()}
        kept = self.shelf.take(row.name, seed, start) if self.shelf else None
        found = {} if kept is None else kept
        for name, predictor in ({MODEL: self.model} | cheap | controls | rivals | {CODE: Each(CODE, perfect)}).items():
            if name not in found:
                clips = predictor.predict(episodes, generators())
                if predictor.costly:
                    found[name] = clips
            yield name, predictor.answers_depth, found.get(name, None) or clips
        if kept is None and (clips := self.model.reconstruct(episodes)) is not None:
            found[TOKENIZER] = clips
        if TOKENIZER in found:
            yield TOKENIZER, False, found[TOKENIZER]
        if self.shelf and kept is None:
            self.shelf.put(row.name, seed, start, found)

    def result(self, row: Row, tally: Tally, queries: int) -> Result:
        score, values = tally.score, tally.values()
        ceilings = {name: values.pop(name) for name in (CODE, TOKENIZER) if name in values}
        value = values.pop(MODEL, math.nan)
        own = {name: values[name] for name in own_names(row) if name in values}
        return Result(
            row.name,
            score.name,
            value,
            tally.higher_is_better,
            values,
            min(queries, score.first or queries),
            self.settings.pairs,
            error_reduction(score.name, value, tally.higher_is_better, own),
            ceilings,
            unavailable=tally.unavailable,
            published=dict(score.published),
            failures=tally.failures(),
            samples=sorted(tally.samples.values(), key=lambda sample: sample["index"]),
        )


class Tally:
    """One score of everybody, added up as batches come.

    ``unavailable`` says why there is no number: its metric cannot be built here, or takes no such pictures or so few.
    """

    def __init__(self, score: Score):
        self.score = score
        self.metrics: dict[str, Any] = {}
        self.samples: dict[int, dict[str, Any]] = {}
        """Index -> what it was, and everybody's score of it."""
        self.unavailable: str | None = None
        self.higher_is_better = False
        try:
            self.higher_is_better = bool(score.metric().higher_is_better)
        except Unavailable as error:
            self.unavailable = str(error)

    def add(
        self,
        name: str,
        answers_depth: bool,
        seed: int,
        indices: Sequence[int],
        episodes: Sequence[Episode],
        compared: Sequence[tuple[Any, Any]],
    ) -> None:
        """One predictor's answers to a batch, as (what is found, what is true)."""
        if self.unavailable:
            return
        if name not in self.metrics:
            of_depth = self.score.of_depth if answers_depth else None
            self.metrics[name] = alone((of_depth or self.score.metric)())
        metric = self.metrics[name]
        for index, episode, pair in zip(indices, episodes, compared, strict=True):
            if self.score.first is not None and index >= self.score.first:
                continue
            try:
                metric.update(*pair)
            except Unavailable as error:
                self.unavailable, self.samples = str(error), {}
                return
            if hasattr(metric, "score"):
                sample = self.samples.setdefault(index, describe(seed, index, episode))
                sample[name] = float(metric.score(*pair))

    def values(self) -> dict[str, float]:
        """Everybody's value; none where there is no number, ``unavailable`` says why."""
        if self.unavailable:
            return {}
        try:
            return {name: float(metric.compute()) for name, metric in self.metrics.items()}
        except Unavailable as error:
            self.unavailable, self.samples = str(error), {}
            return {}

    def failures(self) -> int | None:
        """Pictures that the model drew upside down, where the metric looks for such."""
        negative = getattr(self.metrics.get(MODEL), "negative_scales", None)
        return None if negative is None else int(negative)

    @staticmethod
    def merge(parts: Sequence[Tally]) -> Tally:
        """The tally of all processes from each one's; a process without batches brings nothing."""
        first, *others = parts
        for other in others:
            first.samples |= other.samples
            first.unavailable = first.unavailable or other.unavailable
            for name, metric in other.metrics.items():
                if name in first.metrics:
                    first.metrics[name].merge_state(metric)
                else:
                    first.metrics[name] = metric
        if first.unavailable:
            first.samples = {}
        return first


def alone(metric: Any) -> Any:
    """The metric, adding up this process' samples only: tallies are merged when all are done."""
    metric.distributed_available_fn = nowhere
    return metric


def nowhere() -> bool:
    return False


def own_names(row: Row) -> list[str]:
    """Baselines whose error the model is to reduce; controls and other people's networks only stand beside it."""
    return [*BASELINES, *row.baselines]


def describe(seed: int, index: int, episode: Episode) -> dict[str, Any]:
    pairs = " ".join(sample.id for sample in episode.pair_samples)
    return {"seed": seed, "index": index, "query": episode.query_sample.id, "pairs": pairs}
