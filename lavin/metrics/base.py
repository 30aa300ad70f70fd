"""SampleMean: what most of our metrics are, one number per sample and their mean."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


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
