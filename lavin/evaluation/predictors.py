"""Predictor: whatever answers episodes; our model, a function of one episode, and what tests know the score of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from lavin.data.mixture import Episode
from lavin.evaluation.episodes import Baseline, Settings
from lavin.evaluation.predictions import predict, reconstruct
from lavin.pipeline import LavinPipeline
from lavin.tasks import Task


class Predictor(ABC):
    """Answers episodes with the clips that it takes for their targets."""

    name: str
    costly: bool = False
    """Whether answers are worth keeping on disk until the report is written."""
    answers_depth: bool = False
    """Whether a depth task is answered with relative depth, far bright, rather than with disparity."""
    resolution: int | None = None
    """Side of the squares that it works at; None for any."""

    def takes(self, task: Task) -> bool:
        """Whether it can answer this task."""
        return True

    @abstractmethod
    def predict(self, episodes: Sequence[Episode], generators: Sequence[Generator]) -> list[Tensor]:
        """Clips as the targets, (3, frames, height, width) in [-1, 1].

        Args:
            episodes: equally many pairs each, of one size.
            generators: draw what is random, one an episode.
        """

    def reconstruct(self, episodes: Sequence[Episode]) -> list[Tensor] | None:
        """The true targets after a trip through its tokenizer, the best that it could predict; None without one."""
        return None

    def describe(self) -> dict[str, Any]:
        """What it is, for the report's protocol."""
        return {"name": self.name}


class Lavin(Predictor):
    """A ``LavinPipeline`` under a suite's settings."""

    costly = True

    def __init__(self, pipeline: LavinPipeline, settings: Settings, name: str = "model"):
        self.pipeline, self.settings, self.name = pipeline, settings, name
        self.resolution = pipeline.config.sample_size

    def predict(self, episodes: Sequence[Episode], generators: Sequence[Generator]) -> list[Tensor]:
        return predict(self.pipeline, episodes, generators, self.settings)

    def reconstruct(self, episodes: Sequence[Episode]) -> list[Tensor]:
        return reconstruct(self.pipeline, [episode.target for episode in episodes], self.settings.precision)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": self.pipeline.fingerprints()}


class Each(Predictor):
    """A function of one episode, e.g. a baseline."""

    def __init__(self, name: str, answer: Baseline):
        self.name, self.answer = name, answer

    def predict(self, episodes: Sequence[Episode], generators: Sequence[Generator]) -> list[Tensor]:
        return [self.answer(episode) for episode in episodes]


def perfect(episode: Episode) -> Tensor:
    """The true target: what a protocol gives to who makes no mistake."""
    return episode.target


def constant(level: float) -> Baseline:
    """The same level in [-1, 1] everywhere, whatever is asked: what a protocol gives to who does not look."""
    return lambda episode: torch.full_like(episode.target, level)
