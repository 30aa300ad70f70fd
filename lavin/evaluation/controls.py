"""Controls: the model's answers to questions that lack something; who uses it must answer them worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Generator, Tensor

from lavin.data.mixture import Episode
from lavin.evaluation.predictors import Predictor
from lavin.tasks import Task
from lavin.tasks.captions import ReferringCaptionTask

Change = Callable[[Episode], Episode]


def blank_caption(episode: Episode) -> Episode:
    """Referring: the query without its words; those of the pairs stay."""
    wiped = episode.task.blank(episode.query.input, episode.definition)
    return replace(episode, query=episode.query._replace(input=wiped))


def controls_of(task: Task) -> Mapping[str, Change]:
    """Name -> change, of the controls that a task is scored with."""
    return {"blank_caption": blank_caption} if isinstance(task, ReferringCaptionTask) else {}


class Controlled(Predictor):
    """A predictor that is shown changed questions; what it answers is scored against the unchanged ones."""

    costly = True

    def __init__(self, predictor: Predictor, change: Change):
        self.predictor, self.change = predictor, change
        self.name, self.answers_depth = f"{predictor.name}, controlled", predictor.answers_depth

    def predict(self, episodes: Sequence[Episode], generators: Sequence[Generator]) -> list[Tensor]:
        return self.predictor.predict([self.change(episode) for episode in episodes], generators)
