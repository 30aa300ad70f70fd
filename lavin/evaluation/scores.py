"""Scores of a row: the metric of predictions, and how much of the baselines' error they remove."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lavin.data.mixture import Episode


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
    unavailable: str | None = None
    """Why there is no number at all."""
    published: dict[str, float] = field(default_factory=dict)
    """Method -> its value by the same protocol, as published."""
    failures: int | None = None
    """Depth: predictions that were upside down, negative scale after alignment."""
    samples: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """One record a query: ``index``, ``query``, ``pairs``, and everybody's score by name."""


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
