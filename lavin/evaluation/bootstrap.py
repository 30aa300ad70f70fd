"""How sure a mean is: percentile bootstrap over queries (Efron 1979), and whether a curve rises (Spearman)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
AT_ONCE = 2**22
"""Drawn values held in memory at a time, 32 MB."""


class Interval(NamedTuple):
    """A mean and the ends of its interval, all NaN where there was nothing to average."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> Interval:
    """Mean of values and its percentile bootstrap interval; values that are NaN are left out.

    Given paired differences, one a query, it is the interval of spec section 7 A.

    Args:
        values: one number for each independent unit.
        seed: of the resampling, so that a report repeats to the last digit.
        resamples: means of as many values, drawn with replacement.
        level: share of the resampled means between both ends.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    rng, means = np.random.default_rng(seed), []
    rows = max(1, AT_ONCE // len(values))
    for start in range(0, resamples, rows):
        drawn = rng.integers(len(values), size=(min(rows, resamples - start), len(values)))
        means.append(values[drawn].mean(1))
    low, high = np.quantile(np.concatenate(means), ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(values.mean()), float(low), float(high))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation in [-1, 1]; NaN with fewer than three points or where one side is constant."""
    from scipy.stats import spearmanr

    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return np.nan
    return float(spearmanr(x, y).statistic)
