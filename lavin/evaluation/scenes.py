"""The suite ``scenes``: held-out procedural scenes, every task's own metric, two baselines on the same queries.

An episode is a function of (seed, row, index); its noise too, so that a query's number does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm import tqdm

from lavin import __version__, flow
from lavin.bundled import TRAINING_RECORD, read_json
from lavin.data.mixture import Episode, Pool, draw_context, scenes_for
from lavin.data.sample import Vocabulary
from lavin.data.scenes import Scenes
from lavin.encoded import fingerprint
from lavin.errors import InputError
from lavin.models.stvae import pad_frames
from lavin.pipeline import LavinPipeline, draw_noise, find_task
from lavin.tasks import REGISTRY, Definition, HeldOut, Task, codes
from lavin.tasks.regions import ForegroundDefinition

SPLIT = "validation"
SCENES_SEED = 0
"""Series of scenes; the suite's seed draws episodes from it."""
TRIES = 20
"""Episodes tried for every one that ``follows_context`` needs."""

DrawDefinition = Callable[[np.random.Generator, Vocabulary], Definition]


@dataclass(frozen=True)
class Settings:
    """How the suite is run: with the weights, all that its numbers depend on."""

    queries: int = 64
    """Episodes of a row."""
    pairs: int = 4
    steps: int = 20
    """Points of the time grid, one more than solver steps."""
    guidance_scale: float = 1.5
    seed: int = 0
    """Of episodes and noise."""
    pool: int = 512
    """Held-out scenes that episodes are drawn from."""
    batch: int = 8
    """Episodes that run together."""
    precision: str = "float32"
    """``float32``, or ``bfloat16`` by autocast: the weights stay as loaded."""

    def __post_init__(self):
        for name, least in (("queries", 1), ("pairs", 1), ("seed", 0), ("batch", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.pool <= self.pairs:
            raise InputError(
                f"pool is {self.pool}; {self.pairs} pairs and a query need at least {self.pairs + 1} scenes"
            )


@dataclass(frozen=True)
class Row:
    """One line of the report: a task, and what its definitions are."""

    name: str
    """The task's name, or ``foreground/held_out_class`` and its like; part of every episode's seed."""
    task: Task
    draw_definition: DrawDefinition | None = None
    """None is the task's standard definition, of names that training could draw."""


@dataclass(frozen=True)
class Result:
    """What one row scored; numbers are NaN where the metric found nothing to score."""

    task: str
    metric: str
    value: float
    higher_is_better: bool
    baselines: dict[str, float]
    """``copy_nearest`` and ``mean_target``, by the same metric on the same queries."""
    queries: int
    pairs: int
    error_reduction: float
    """1 - error / error of the better baseline."""
    ceilings: dict[str, float]
    """``code``: the true target, painted and read; ``tokenizer``: after a trip through the ST-VAE."""


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
    return HeldOut(*found)


# --- Episodes ---------------------------------------------------------------------------------------------------------


def episode_rng(seed: int, row: str, index: int) -> np.random.Generator:
    """Draws everything of an episode but its noise."""
    return np.random.default_rng((seed, crc32(row.encode()), index))


def noise_generator(seed: int, row: str, index: int) -> Generator:
    """Draws an episode's noise, whatever its pairs: longer contexts of the same query start from the same noise."""
    state = np.random.SeedSequence((seed, crc32(row.encode()), index, 1)).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))


def draw_episode(pool: Pool, row: Row, pairs: int, seed: int, index: int, held_out: HeldOut | None = None) -> Episode:
    """The ``index``-th question of a row, a function of its arguments alone.

    Raises:
        InputError: the pool has no fitting scenes.
    """
    rng = episode_rng(seed, row.name, index)
    definition = row.draw_definition(rng, pool.vocabulary) if row.draw_definition else None
    try:
        return draw_context(pool, row.task, pairs, rng, evaluation=True, held_out=held_out, definition=definition)
    except ValueError as error:
        raise InputError(f"{error}; take fewer pairs or a larger pool") from error


# --- Predictions and baselines ----------------------------------------------------------------------------------------


def predict(
    pipeline: LavinPipeline,
    episodes: Sequence[Episode],
    generators: Sequence[Generator],
    settings: Settings,
) -> list[Tensor]:
    """Predicted targets, (3, frames, height, width) in [-1, 1]; one batch, in which every query has pairs of its own.

    Args:
        episodes: equally many pairs each, at the pipeline's own size.
        generators: draw the noise, one an episode.
    """
    with inference(pipeline, settings.precision):
        pair_latents = [
            (encode(pipeline, [pair.input for pair in pairs]), encode(pipeline, [pair.target for pair in pairs]))
            for pairs in zip(*(episode.pairs for episode in episodes), strict=True)
        ]
        query_latent = encode(pipeline, [episode.query.input for episode in episodes])
        noise = draw_noise(query_latent, generators, ensemble_size=1, frames=pair_latents[0][1].shape[2])
        grid = flow.time_grid(pipeline.config.time_grid, settings.steps).to(pipeline.device)
        latents = pipeline.solve(pair_latents, query_latent, noise, grid, settings.guidance_scale)
        return pipeline.decode(latents, episodes[0].target.shape[1], ensemble_size=1)


@contextmanager
def inference(pipeline: LavinPipeline, precision: str) -> Iterator[None]:
    """No gradients, and autocast where bfloat16 is asked for."""
    with torch.no_grad(), torch.autocast(pipeline.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def encode(pipeline: LavinPipeline, clips: Sequence[Tensor]) -> Tensor:
    """Latents of equally long clips in one batch, (batch, channels, latent_frames, height / 8, width / 8)."""
    return pipeline.stvae.to_latent(pad_frames(torch.stack(list(clips)).to(pipeline.device))).float()


def reconstruct(pipeline: LavinPipeline, clips: Sequence[Tensor], precision: str) -> list[Tensor]:
    """Clips after a trip through the ST-VAE: no prediction can be better than it lets through."""
    with inference(pipeline, precision):
        return pipeline.decode(encode(pipeline, clips), clips[0].shape[1], ensemble_size=1)


def copy_nearest(episode: Episode) -> Tensor:
    """The target of the pair whose input is most like the query's, by mean squared RGB difference."""
    return min(episode.pairs, key=lambda pair: (pair.input - episode.query.input).square().mean().item()).target


def mean_target(episode: Episode) -> Tensor:
    """The pixelwise mean of the pairs' targets."""
    return torch.stack([pair.target for pair in episode.pairs]).mean(0)


BASELINES: dict[str, Callable[[Episode], Tensor]] = {"copy_nearest": copy_nearest, "mean_target": mean_target}


# --- Scores -----------------------------------------------------------------------------------------------------------


def score(episodes: Sequence[Episode], clips: Sequence[Tensor]) -> float:
    """The task's metric of predicted clips, read with each episode's own definition."""
    task = episodes[0].task
    metric = task.metric()
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
    """1 - error / the smaller error of the baselines: 1 is perfect, 0 no better than a baseline, negative worse."""
    best = min(error(metric, baseline, higher_is_better) for baseline in baselines.values())
    if best == 0:
        return math.nan  # nothing to reduce
    return 1 - error(metric, value, higher_is_better) / best


# --- The suite --------------------------------------------------------------------------------------------------------


def evaluate(
    pipeline: LavinPipeline,
    rows: Sequence[Row],
    settings: Settings,
    held_out: HeldOut | None = None,
) -> Iterator[Result]:
    """Score rows, one after another.

    Args:
        held_out: what the model's training never drew: left out of rows that do not ask for it, so that a row is
            either of the seen or of the unseen.

    Raises:
        InputError: the settings do not suit the model, or the pool has no fitting scenes.
    """
    check_settings(pipeline, settings)
    pools = Pools(pipeline.config.sample_size, settings.pool)
    for row in tqdm(rows, desc="tasks", disable=None):  # None: unless stderr is a terminal
        yield evaluate_row(pipeline, pools.of(row.task), row, settings, held_out)


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
    """Refuse what the model cannot do before any scene is rendered."""
    pipeline.check_inputs(settings.steps, settings.guidance_scale, "pt", task=None, ensemble_size=1)


def evaluate_row(
    pipeline: LavinPipeline, pool: Pool, row: Row, settings: Settings, held_out: HeldOut | None = None
) -> Result:
    """Score one task's predictions, its baselines and its ceilings on the same episodes."""
    episodes, predictions, reconstructions = [], [], []
    for start in range(0, settings.queries, settings.batch):
        indices = range(start, min(start + settings.batch, settings.queries))
        batch = [draw_episode(pool, row, settings.pairs, settings.seed, index, held_out) for index in indices]
        generators = [noise_generator(settings.seed, row.name, index) for index in indices]
        episodes += batch
        predictions += predict(pipeline, batch, generators, settings)
        reconstructions += reconstruct(pipeline, [episode.target for episode in batch], settings.precision)

    task, better = row.task, bool(row.task.metric().higher_is_better)
    value = score(episodes, predictions)
    baselines = {name: score(episodes, list(map(copy, episodes))) for name, copy in BASELINES.items()}
    ceilings = {
        "code": score(episodes, [episode.target for episode in episodes]),
        "tokenizer": score(episodes, reconstructions),
    }
    reduction = error_reduction(task.metric_name, value, better, baselines)
    return Result(
        row.name, task.metric_name, value, better, baselines, len(episodes), settings.pairs, reduction, ceilings
    )


def protocol(pipeline: LavinPipeline, model: str, settings: Settings, held_out: HeldOut | None) -> dict[str, Any]:
    """Everything that the numbers depend on, for the report.

    Args:
        model: its name, not its place.
    """
    return {
        "suite": "scenes",
        "split": SPLIT,
        "seeds": {"scenes": SCENES_SEED, "episodes": settings.seed, "noise": settings.seed},
        "pool": settings.pool,
        "queries": settings.queries,
        "pairs": settings.pairs,
        "resolution": pipeline.config.sample_size,
        "definitions": "standard",
        "held_out": None
        if held_out is None
        else {
            "classes": list(held_out.classes),
            "colours": list(held_out.colours),
            "palettes": [list(colour) for colour in held_out.palettes],
        },
        "steps": settings.steps,
        "time_grid": pipeline.config.time_grid,
        "guidance": settings.guidance_scale,
        "precision": settings.precision,
        "device": pipeline.device.type,
        "batch": settings.batch,
        "model": {
            "name": model,
            "weights": {"stvae": fingerprint(pipeline.stvae), "jdit": fingerprint(pipeline.jdit)},
        },
        "lavin": __version__,
    }


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
