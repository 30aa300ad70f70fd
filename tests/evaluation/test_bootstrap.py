"""Intervals equal those of SciPy and cover what they promise; ranks follow the order."""

import math

import numpy as np
import pytest
from scipy import stats

from lavin.evaluation.bootstrap import interval, spearman


@pytest.mark.parametrize("size", [8, 64, 200])
def test_interval_is_scipys_percentile_bootstrap(size):
    values = np.random.default_rng(size).exponential(size=size)
    found = interval(values, resamples=40_000)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=40_000).confidence_interval
    spread = values.std() / math.sqrt(size)
    assert found.mean == pytest.approx(values.mean())
    assert abs(found.low - expected.low) < 0.05 * spread  # of two draws of resamples
    assert abs(found.high - expected.high) < 0.05 * spread


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(0.3, 1, 60), seed=i, resamples=500) for i in range(400)]
    share = np.mean([one.low <= 0.3 <= one.high for one in found])
    assert 0.90 <= share <= 0.98


def test_interval_repeats_and_leaves_out_what_is_missing():
    values = [0.1, 0.4, math.nan, -0.2, 0.3]
    assert interval(values) == interval(values) == interval([v for v in values if not math.isnan(v)])
    assert interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert all(map(math.isnan, interval([math.nan])))
    assert not interval([math.nan]).excludes_zero
    assert interval([1.0, 1.1, 1.2]).excludes_zero and interval([-1.0, -1.1]).excludes_zero


def test_many_values_are_drawn_in_parts():
    values = np.random.default_rng(0).normal(size=300_000)
    found = interval(values, resamples=50)
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(300_000), rel=0.5)


def test_ranks_see_order_and_not_size():
    assert spearman([1, 2, 4, 8], [0.1, 0.11, 5, 6]) == pytest.approx(1)
    assert spearman([1, 2, 4, 8], [3, 2, 1, 0]) == pytest.approx(-1)
    assert spearman([1, 2, 4, 8], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 sum d² / n (n² - 1)
    assert math.isnan(spearman([1, 2], [1, 2])) and math.isnan(spearman([1, 2, 3], [1, 1, 1]))
