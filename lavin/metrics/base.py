"""What the metrics share: a mean over samples, a mean over all that samples bring, and what cannot be scored."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def beside(prediction: Tensor, truth: Tensor) -> Tensor:
    """The truth, on the prediction's device.

    Raises:
        ValueError: the two have different shapes.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)} but truth is {tuple(truth.shape)}; "
            "bring the prediction to the truth's size before scoring it"
        )
    return truth.to(prediction.device)


def finite(values: Tensor, what: str) -> Tensor:
    """The values themselves.

    Raises:
        ValueError: some are NaN or infinite. A failed prediction must not pass for a sample with nothing to score.
    """
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"{what}: {bad} of {values.numel()} values are NaN or infinite, which cannot be scored")
    return values


class Unavailable(RuntimeError):
    """A metric that cannot be computed on this machine; its text is the reason. It is never a score of 0."""


class Unscorable(Unavailable, ValueError):
    """Pictures of which a metric cannot be computed: too small for its network, or too few for a distribution."""


class SampleMean(Metric):
    """Mean of ``score(prediction, truth)`` over samples; samples whose score is NaN have nothing to score."""

    full_state_update = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def score(self, prediction: Any, truth: Any) -> Tensor:
        """The metric of one sample, a scalar."""

    def update(self, prediction: Any, truth: Any) -> None:
        """Add one sample."""
        score = self.score(prediction, truth)
        if not score.isnan():
            self.total += score.to(self.total.device)
            self.samples += 1

    def compute(self) -> Tensor:
        """Mean over the samples so far; NaN where there is none."""
        return (self.total / self.samples).float()


class PooledMean(Metric):
    """Mean of ``values(prediction, truth)``, pooled over all samples: one with more to score weighs more."""

    full_state_update = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def values(self, prediction: Any, truth: Any) -> Tensor:
        """What one sample brings, (n,): a number for each of its pixels, instances or joints."""

    def score(self, prediction: Any, truth: Any) -> Tensor:
        """The mean over one sample alone; NaN where it has nothing to score."""
        return self.values(prediction, truth).double().mean()

    def update(self, prediction: Any, truth: Any) -> None:
        """Add one sample."""
        values = self.values(prediction, truth)
        self.total += values.double().sum().to(self.total.device)
        self.count += len(values)

    def compute(self) -> Tensor:
        """Mean over everything so far; NaN where there is nothing."""
        return (self.total / self.count).float()
