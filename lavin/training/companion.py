"""What may train beside a run's model."""

from __future__ import annotations

from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor


class Companion(Protocol):
    """What trains beside the model, with an optimizer of its own: a discriminator."""

    def start(self, accelerator: Accelerator) -> None:
        """Called once, before the first step."""

    def step(self, step: int) -> dict[str, Tensor]:
        """Called after each step of the model, on all ranks; what to log."""

    def counts(self) -> dict[str, float]:
        """What to log of the run so far."""

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from there."""
