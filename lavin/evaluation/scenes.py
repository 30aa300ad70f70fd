"""The suite ``scenes``: held-out procedural scenes, every task's own metric, two baselines on the same queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lavin.bundled import TRAINING_RECORD, read_json
from lavin.data.mixture import Episode, Pool, scenes_for
from lavin.data.sample import Vocabulary
from lavin.data.scenes import Scenes
from lavin.errors import InputError
from lavin.evaluation import report
from lavin.evaluation.episodes import Row, Settings, draw_episode, episode_rng, noise_generator
from lavin.evaluation.predictions import predict
from lavin.evaluation.predictors import Lavin
from lavin.evaluation.runner import Runner
from lavin.evaluation.scores import Result
from lavin.pipeline import LavinPipeline, find_task
from lavin.tasks import REGISTRY, Definition, HeldOut, Task, codes
from lavin.tasks.regions import ForegroundDefinition

SPLIT = "validation"
SCENES_SEED = 0
"""Series of scenes; the suite's seed draws episodes from it."""
BINARY_MASKS = ("foreground", "detection", "referring", "referring_caption")
"""Tasks whose target is white on black."""
TRIES = 20
"""Episodes tried for every one that ``follows_context`` needs."""


# --- Rows -------------------------------------------------------------------------------------------------------------


def task_rows(names: Sequence[str]) -> list[Row]:
    """The rows of these tasks, each once.

    Raises:
        InputError: a name is unknown; the message suggests the nearest.
    """
    tasks = [find_task(name) for name in names]
    return [Row(name, task) for name, task in {task.name: task for task in tasks}.items()]


def trained_tasks(folder: Path) -> list[str]:
    """The tasks that a model's ``training.json`` says it was trained on; all of pictures without people if it does not.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / TRAINING_RECORD
    record = read_json(path) if path.exists() else {}
    try:
        weights = record["config"]["tasks"]["weights"]
    except KeyError:
        return sorted(name for name, task in REGISTRY.items() if not task.clips and not task.people)
    return sorted(find_task(name).name for name, weight in weights.items() if weight)


def unseen_tasks(folder: Path) -> list[str]:
    """Tasks that a model's ``training.json`` says were kept out of its training on purpose."""
    path = folder / TRAINING_RECORD
    tasks = read_json(path).get("config", {}).get("tasks", {}) if path.exists() else {}
    return sorted(find_task(name).name for name in tasks.get("held_out_tasks", []))


def read_seen(folder: Path) -> dict[str, Any] | None:
    """What a model's training drew, for the report: ``tasks``, those of them that are ``binary_masks`` (so that a
    foreground benchmark asks for nothing unseen), and ``classes`` of scenes; None where there is no ``training.json``.
    """
    if not (folder / TRAINING_RECORD).exists():
        return None
    tasks, held_out = trained_tasks(folder), read_held_out(folder)
    classes = [name for name in Scenes.vocabulary.things if name not in held_out.classes]
    return {"tasks": tasks, "binary_masks": [name for name in BINARY_MASKS if name in tasks], "classes": classes}


def held_out_rows(held_out: HeldOut | None, model: str) -> list[Row]:
    """Foreground segmentation with a class, a colour of objects, and drawing colours that training never used.

    Raises:
        InputError: the model does not say what those are.
    """
    if held_out is None or held_out == HeldOut():
        missing = "has no" if held_out is None else "lists nothing in its"
        raise InputError(
            f"model {model} {missing} {TRAINING_RECORD}, which says what its training left out (held_out_classes, "
            "held_out_colours, held_out_palettes); the held-out rows need it"
        )
    task = REGISTRY["foreground"]

    def unseen_class(rng: np.random.Generator, vocabulary: Vocabulary) -> Definition:
        return ForegroundDefinition(class_name=str(rng.choice(held_out.classes)))

    def unseen_colour(rng: np.random.Generator, vocabulary: Vocabulary) -> Definition:
        return ForegroundDefinition(colour=str(rng.choice(held_out.colours)))

    def unseen_palette(rng: np.random.Generator, vocabulary: Vocabulary) -> Definition:
        seen = [name for name in vocabulary.things if name not in held_out.classes]
        schemes = unseen_schemes(held_out.palettes)
        return ForegroundDefinition(str(rng.choice(seen)), None, *schemes[rng.integers(len(schemes))])

    drawn = {
        "held_out_class": (held_out.classes, unseen_class),
        "held_out_colour": (held_out.colours, unseen_colour),
        "held_out_palette": (held_out.palettes, unseen_palette),
    }
    return [Row(f"{task.name}/{name}", task, draw) for name, (names, draw) in drawn.items() if names]


def unseen_schemes(colours: Sequence[codes.Colour]) -> list[tuple[codes.Colour, codes.Colour]]:
    """(foreground, background) of held-out colours that can be told apart, as in training by 170 levels of a channel;
    where no two can, one of them on black or white."""

    def apart(a: codes.Colour, b: codes.Colour) -> int:
        return max(abs(x - y) for x, y in zip(a, b))

    schemes = [(fore, back) for fore in colours for back in colours if apart(fore, back) >= 170]
    return schemes or [(fore, max((codes.BLACK, codes.WHITE), key=lambda back: apart(fore, back))) for fore in colours]


def read_held_out(folder: Path) -> HeldOut | None:
    """What a model's training never drew, from its folder's ``training.json``; None where there is no such file.

    Raises:
        InputError: the file is damaged, or names what scenes do not have.
    """
    path = folder / TRAINING_RECORD
    if not path.exists():
        return None
    record = read_json(path)
    found = []
    for name, known in (
        ("held_out_classes", Scenes.vocabulary.things),
        ("held_out_colours", Scenes.vocabulary.colours),
        ("held_out_palettes", codes.P63),
    ):
        values = record.get(name, [])
        if not isinstance(values, list):
            raise InputError(f"{path}: {name} is {values!r}; a list is needed")
        values = [tuple(value) if isinstance(value, list) else value for value in values]
        strange = [value for value in values if value not in known]
        if strange:
            raise InputError(f"{path}: {name} has {strange[0]!r}, which no task on scenes draws")
        found.append(tuple(values))
    return HeldOut(*found, words=tuple(record.get("held_out_words", ())))


# --- The suite --------------------------------------------------------------------------------------------------------


def evaluate(
    pipeline: LavinPipeline,
    rows: Sequence[Row],
    settings: Settings,
    held_out: HeldOut | None = None,
    runner: Runner | None = None,
) -> Iterator[Result]:
    """Score rows, one after another.

    Args:
        runner: who answers beside the model, and where answers are kept; None for the model alone.
        held_out: what the model's training never drew: left out of rows that do not ask for it, so that a row is
            either of the seen or of the unseen.

    Raises:
        InputError: the settings do not suit the model, or the pool has no fitting scenes.
    """
    check_settings(pipeline, settings)
    pools = Pools(pipeline.config.sample_size, settings.pool)
    runner = runner or Runner(Lavin(pipeline, settings), settings)
    for row in tqdm(rows, desc="tasks", disable=None):  # None: unless stderr is a terminal
        yield from run_row(runner, pools.of(row.task), row, held_out)


class Pools:
    """Held-out scenes for tasks of every kind, each kind rendered when a task first needs it."""

    def __init__(self, size: int, scenes: int):
        self.size, self.scenes = size, scenes
        self._made: dict[tuple, Pool] = {}

    def of(self, task: Task) -> Pool:
        kind = (task.people, task.clips and task.source_frames)
        if kind not in self._made:
            self._made[kind] = make_pool(task, self.size, self.scenes)
        return self._made[kind]


def make_pool(task: Task, size: int, scenes: int) -> Pool:
    """Held-out scenes that can show a task."""
    return Pool(scenes_for(task, SPLIT, size, seed=SCENES_SEED), range(scenes))


def check_settings(pipeline: LavinPipeline, settings: Settings) -> None:
    """Refuse what the model or the pool cannot do before any scene is rendered."""
    if settings.pool <= settings.pairs:
        raise InputError(
            f"pool is {settings.pool}; {settings.pairs} pairs and a query need at least {settings.pairs + 1} scenes"
        )
    pipeline.check_inputs(settings.steps, settings.guidance_scale, "pt", task=None, ensemble_size=1)


def evaluate_row(
    pipeline: LavinPipeline, pool: Pool, row: Row, settings: Settings, held_out: HeldOut | None = None
) -> Result:
    """Score one row on episodes from a pool."""
    (result,) = run_row(Runner(Lavin(pipeline, settings), settings), pool, row, held_out)
    return result


def run_row(runner: Runner, pool: Pool, row: Row, held_out: HeldOut | None = None) -> list[Result]:
    """Score one row on episodes from a pool; see ``Runner``."""
    return runner.evaluate(row, partial(draw_episode, pool, row, runner.settings.pairs, held_out=held_out))


def protocol(pipeline: LavinPipeline, model: str, settings: Settings, held_out: HeldOut | None) -> dict[str, Any]:
    """Everything that the numbers depend on, for the report.

    Args:
        model: its name, not its place.
    """
    seeds = {"scenes": SCENES_SEED, "episodes and noise": list(settings.seeds)}
    data = {"suite": "scenes", "split": SPLIT, "seeds": seeds, "pool": settings.pool, "definitions": "standard"}
    return data | report.protocol(pipeline, model, settings, held_out)


# --- Does it read its context? ----------------------------------------------------------------------------------------


def follows_context(
    pipeline: LavinPipeline,
    pool: Pool,
    shown: str,
    other: str,
    settings: Settings,
) -> float:
    """Share of queries whose prediction is closer (MSE) to the truth of the task that the pairs show than to another's.

    Both tasks have the same input, so that only the pairs tell them apart: 0.5 would be a model that ignores them.
    With ``shown`` and ``other`` exchanged the queries stay the same where both tasks accept all scenes.

    Args:
        shown, other: tasks, e.g. ``depth`` and ``normals``, in their standard definitions.

    Raises:
        InputError: the tasks are one, have different inputs, or share too few scenes.
    """
    check_settings(pipeline, settings)
    task, rival = find_task(shown), find_task(other)
    if task is rival:
        raise InputError(f"'{shown}' and '{other}' are one task; give two")
    row = Row("/".join(sorted((task.name, rival.name))), task)
    questions = list(contested(pool, row, rival, settings))
    followed = 0
    for start in range(0, len(questions), settings.batch):
        batch = questions[start : start + settings.batch]
        generators = [noise_generator(settings.seed, row.name, index) for index, _, _ in batch]
        predictions = predict(pipeline, [episode for _, episode, _ in batch], generators, settings)
        for prediction, (_, episode, rival_target) in zip(predictions, batch, strict=True):
            own = (prediction - episode.target).square().mean()
            followed += int(own < (prediction - rival_target).square().mean())
    return followed / len(questions)


def contested(pool: Pool, row: Row, rival: Task, settings: Settings) -> Iterator[tuple[int, Episode, Tensor]]:
    """(index, episode, target that the rival task has for its query) of queries that suit both tasks."""
    found = 0
    for index in range(TRIES * settings.queries):
        episode = draw_episode(pool, row, settings.pairs, settings.seed, index)
        rng = episode_rng(settings.seed, f"{row.name} rival", index)
        definition = rival.draw_definition(rng, pool.vocabulary, evaluation=True)
        if not rival.accepts(episode.query_sample, definition):
            continue
        example = rival.example(episode.query_sample, definition, rng)
        if not torch.equal(example.input, episode.query.input):
            raise InputError(f"tasks '{row.task.name}' and '{rival.name}' have different inputs, which tell them apart")
        yield index, episode, example.target
        found += 1
        if found == settings.queries:
            return
    raise InputError(f"tasks '{row.task.name}' and '{rival.name}' share {found} queries, not {settings.queries}")
