"""Scores of a row: the metric of predictions, and how much of the baselines' error they remove."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from lavin.data.mixture import Episode

MODEL, CODE, TOKENIZER = "model", "code", "tokenizer"
"""Answers that every row has beside the baselines: the predictor scored, and its ceilings."""


@dataclass(frozen=True)
class Result:
    """What one row scored; numbers are NaN where the metric found nothing to score."""

    task: str
    metric: str
    value: float
    higher_is_better: bool
    baselines: dict[str, float]
    """``copy_nearest``, ``mean_target``, the row's own, controls and other people's networks, by the same metric on the
    same queries."""
    queries: int
    pairs: int
    error_reduction: float
    """1 - error / error of the best baseline."""
    ceilings: dict[str, float]
    """``code``: the true target, painted and read; ``tokenizer``: after a trip through the ST-VAE."""
    unavailable: str | None = None
    """Why there is no number at all."""
    published: dict[str, float] = field(default_factory=dict)
    """Method -> its value by the same protocol, as published."""
    failures: int | None = None
    """Depth: predictions that were upside down, negative scale after alignment; of all seeds."""
    std: dict[str, float] = field(default_factory=dict)
    """Several seeds, whose means the numbers above are: everybody's sample standard deviation (n - 1)."""
    by_seed: list[dict[str, Any]] = field(default_factory=list)
    """Several seeds: one record each, ``seed`` and everybody's value under it."""
    samples: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """One record a query: ``seed``, ``index``, ``query``, ``pairs``, and everybody's score by name."""

    def values(self) -> dict[str, float]:
        """Everybody's value by name: the model, the baselines, the ceilings."""
        return {MODEL: self.value, **self.baselines, **self.ceilings}


def over_seeds(seeds: Sequence[int], results: Sequence[Result], compared: Sequence[str]) -> Result:
    """One score's results under several seeds as one: means, standard deviations, and each seed's values.

    A value that one seed has not is none of their mean either: NaN.

    Args:
        results: one a seed, of the same row and metric.
        compared: names of the baselines whose error is to be reduced.
    """
    first, *others = results
    if not others:
        return first
    every = [result.values() for result in results]
    mean = {name: float(np.mean([values[name] for values in every])) for name in every[0]}
    std = {name: float(np.std([values[name] for values in every], ddof=1)) for name in every[0]}
    failures = [result.failures for result in results if result.failures is not None]
    baselines = {name: mean[name] for name in first.baselines}
    return replace(
        first,
        value=mean[MODEL],
        baselines=baselines,
        ceilings={name: mean[name] for name in first.ceilings},
        error_reduction=error_reduction(
            first.metric,
            mean[MODEL],
            first.higher_is_better,
            {name: baselines[name] for name in compared if name in baselines},
        ),
        unavailable=next((result.unavailable for result in results if result.unavailable), None),
        failures=sum(failures) if failures else None,
        std=std,
        by_seed=[{"seed": seed, **values} for seed, values in zip(seeds, every, strict=True)],
        samples=[sample for result in results for sample in result.samples],
    )


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
    """1 - error / the smallest error of the baselines: 1 is perfect, 0 no better than a baseline, negative worse.

    NaN where there is nothing to compare with, or nothing to reduce.
    """
    if not baselines:
        return math.nan
    best = min(error(metric, baseline, higher_is_better) for baseline in baselines.values())
    if best == 0:
        return math.nan
    return 1 - error(metric, value, higher_is_better) / best
