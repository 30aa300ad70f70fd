"""The averaged weights: what is validated and exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def decay_at(step: int, most: float) -> float:
    """Decay of the average in optimizer step ``step``, from 0: min(most, 1 - (1 + step)^(-2/3)), and 0 in the first."""
    return min(most, 1 - (1 + step) ** (-2 / 3))


class Average:
    """Exponential moving average of weights, float32 whatever the network computes in.

    Args:
        weights: float32, in any layout; the average has the same.
        decay: at most; warmed up by ``decay_at``.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float):
        self.decay = decay
        self.values = [weight.detach().float().clone() for weight in weights]

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], step: int, skip: Tensor) -> None:
        """average += (1 - decay) * (weights - average), unless ``skip`` is 1; the device is not waited for."""
        change = torch._foreach_sub([weight.detach() for weight in weights], self.values)
        torch._foreach_mul_(change, (1 - decay_at(step, self.decay)) * (1 - skip))
        torch._foreach_add_(self.values, change)
