"""Scores of a row: the metric of predictions, and how much of the baselines' error they remove."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lavin.data.mixture import Episode
from lavin.evaluation.baselines import BASELINES
from lavin.evaluation.episodes import Row, Settings, noise_generator
from lavin.evaluation.predictions import predict, reconstruct
from lavin.pipeline import LavinPipeline


@dataclass(frozen=True)
class Result:
    """What one row scored; numbers are NaN where the metric found nothing to score."""

    task: str
    metric: str
    value: float
    higher_is_better: bool
    baselines: dict[str, float]
    """``copy_nearest``, ``mean_target`` and the row's own, by the same metric on the same queries."""
    queries: int
    pairs: int
    error_reduction: float
    """1 - error / error of the best baseline."""
    ceilings: dict[str, float]
    """``code``: the true target, painted and read; ``tokenizer``: after a trip through the ST-VAE."""


def evaluate_row(pipeline: LavinPipeline, row: Row, draw: Callable[[int], Episode], settings: Settings) -> Result:
    """Score one row's predictions, its baselines and its ceilings on the same episodes.

    Args:
        draw: the row's episode of that index.
    """
    episodes, predictions, reconstructions = [], [], []
    for start in range(0, settings.queries, settings.batch):
        indices = range(start, min(start + settings.batch, settings.queries))
        batch = [draw(index) for index in indices]
        generators = [noise_generator(settings.seed, row.name, index) for index in indices]
        episodes += batch
        predictions += predict(pipeline, batch, generators, settings)
        reconstructions += reconstruct(pipeline, [episode.target for episode in batch], settings.precision)

    def scored(clips: Sequence[Tensor]) -> float:
        return score(episodes, clips, row.metric)

    metric, better = row.metric_name or row.task.metric_name, bool((row.metric or row.task.metric)().higher_is_better)
    value = scored(predictions)
    baselines = {
        name: scored([answer(one) for one in episodes]) for name, answer in (BASELINES | row.baselines).items()
    }
    ceilings = {"code": scored([one.target for one in episodes]), "tokenizer": scored(reconstructions)}
    reduction = error_reduction(metric, value, better, baselines)
    return Result(row.name, metric, value, better, baselines, len(episodes), settings.pairs, reduction, ceilings)


def score(episodes: Sequence[Episode], clips: Sequence[Tensor], new_metric: Callable | None = None) -> float:
    """A metric of predicted clips, read with each episode's own definition.

    Args:
        new_metric: makes the metric; None for the task's own.
    """
    task = episodes[0].task
    metric = (new_metric or task.metric)()
    for episode, clip in zip(episodes, clips, strict=True):
        metric.update(task.read(clip, episode.definition), episode.truth)
    return float(metric.compute())


def error(metric: str, value: float, higher_is_better: bool) -> float:
    """What is wrong with a prediction, 0 for a perfect one: 1 - value of a share, the value itself of an error.

    PSNR has no best value; its error is the mean squared error that it is the logarithm of.
    """
    if metric.startswith("PSNR"):
        return 10 ** (-value / 10)
    return 1 - value if higher_is_better else value


def error_reduction(metric: str, value: float, higher_is_better: bool, baselines: dict[str, float]) -> float:
    """1 - error / the smallest error of the baselines: 1 is perfect, 0 no better than a baseline, negative worse."""
    best = min(error(metric, baseline, higher_is_better) for baseline in baselines.values())
    if best == 0:
        return math.nan  # nothing to reduce
    return 1 - error(metric, value, higher_is_better) / best
