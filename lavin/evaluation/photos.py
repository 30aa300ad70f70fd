"""The suite ``real``: real pictures. Pairs come from a data set's training split, queries from its validation split.

Beside the baselines of every suite, restorations are compared with the classical method of their kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from tqdm import tqdm

from lavin.data.files import read_levels
from lavin.data.mixture import Episode, accepted
from lavin.data.photos import KINDS, CamVid, Photos, open_photos
from lavin.data.sample import Sample, Vocabulary
from lavin.errors import InputError
from lavin.evaluation import report
from lavin.evaluation.baselines import CLASSICAL, input_copy, skimage_restoration
from lavin.evaluation.episodes import Row, Settings, episode_rng
from lavin.evaluation.predictors import Lavin
from lavin.evaluation.runner import Runner
from lavin.evaluation.scores import Result
from lavin.labels import find_task
from lavin.metrics.restoration import PSNR
from lavin.pipeline import LavinPipeline
from lavin.suggest import unknown
from lavin.tasks import REGISTRY, Definition, HeldOut
from lavin.tasks.detection import DetectionDefinition
from lavin.tasks.generation import GenerationTask
from lavin.tasks.regions import ForegroundDefinition

FOREGROUND = "road"
"""The class of CamVid whose pixels are asked for."""
DETECTED = "bicyclist"
"""The class of CamVid whose box is asked for, in pictures where it is in one piece."""
CLASSES = 5
"""Classes of CamVid that its semantic row draws: those that cover most of the training split."""
TASKS = {
    "camvid": ("foreground", "semantic", "detection"),
    "rgbd": ("depth", "normals", "depth_to_image", "normals_to_image"),
    "bsds500": ("colorization", "inpainting", "denoising", "edges", "deraining", "demotionblur"),
}
"""Data set -> its rows."""
CONTEXTS_TRIED = 100
"""Draws of pairs for a query before it is given up: pairs must show every class that the query has."""


class InOnePiece(Sequence):
    """Pictures whose classes have a box where their pixels are 8-connected: CamVid tells no objects apart, and two that
    touch pass for one."""

    def __init__(self, source: Photos):
        self.source, self.vocabulary = source, source.vocabulary

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        from scipy.ndimage import label

        sample = self.source[index]
        pieces = [label(thing.mask[0].numpy(), np.ones((3, 3)))[1] for thing in sample.instances]
        things = [replace(thing, crowd=count != 1) for thing, count in zip(sample.instances, pieces, strict=True)]
        return replace(sample, instances=things)


@dataclass(frozen=True)
class DataSet:
    """Both splits of one data set, pictures whole and squashed to the model's size, as ``lavin infer`` does it."""

    train: Photos | InOnePiece
    validation: Photos | InOnePiece

    def of(self, row: Row) -> DataSet:
        """As the row's task needs its objects."""
        return DataSet(InOnePiece(self.train), InOnePiece(self.validation)) if row.task.name == "detection" else self

    def draw_episode(self, row: Row, pairs: int, seed: int, index: int, held_out: HeldOut | None = None) -> Episode:
        """The ``index``-th question of a row, a function of its arguments alone.

        Every picture of the validation split is a query before one is again; pairs are drawn at random. As in other
        suites contexts are nested, unless they must show what the query has.

        Raises:
            InputError: there are no fitting pictures.
        """
        rng, task = episode_rng(seed, row.name, index), row.task
        if row.draw_definition:
            definition = row.draw_definition(rng, self.train.vocabulary)
        else:
            definition = task.draw_definition(rng, self.train.vocabulary, evaluation=True, held_out=held_out)
        order = np.random.default_rng((seed, crc32(row.name.encode()))).permutation(len(self.validation))
        turned = (self.validation[int(order[(index + turn) % len(order)])] for turn in range(len(order)))
        query = next((sample for sample in turned if task.accepts(sample, definition)), None)
        if query is None:
            raise InputError(f"row '{row.name}': none of the {len(order)} pictures of the validation split fits")
        for _ in range(CONTEXTS_TRIED):
            samples = list(islice(accepted(self.train, task, definition, rng), pairs))
            if len(samples) < pairs:
                raise InputError(
                    f"row '{row.name}': {len(samples)} training pictures fit, not {pairs}; take fewer pairs"
                )
            labels = [task.label(sample, definition) for sample in samples]
            if task.inferable(labels, task.label(query, definition), definition):
                examples = [task.example(sample, definition, rng) for sample in [query, *samples]]
                return Episode(task, definition, examples[1:], examples[0], samples, query)
        raise InputError(f"row '{row.name}': no {pairs} pairs show all that picture '{query.id}' has; take more pairs")


def open_data_sets(folder: str | Path, size: int) -> dict[str, DataSet]:
    """Those data sets that a folder holds, each in a subfolder of its kind's name, at a model's size.

    Raises:
        InputError: it holds none, or one is not as it must be.
    """
    folder = Path(folder)
    present = [kind for kind in TASKS if (folder / kind).is_dir()]
    if not present:
        raise InputError(f"data folder {folder}: none of the subfolders {', '.join(KINDS)}")
    return {
        kind: DataSet(
            *(open_photos(kind, folder / kind, split, size, augment=False) for split in ("train", "validation"))
        )
        for kind in present
    }


# --- Rows -------------------------------------------------------------------------------------------------------------


def make_rows(
    data_sets: dict[str, DataSet], names: Sequence[str] | None = None, held_out: HeldOut | None = None
) -> list[Row]:
    """The rows that these data sets have, called ``camvid/foreground`` and so on.

    Args:
        names: only these tasks; None for all.
        held_out: drawing colours that the model's training never used, and no row does.

    Raises:
        InputError: a name is unknown or of a task that no row is of, or a package that a baseline needs is missing.
    """
    found = [(kind, task) for kind in data_sets for task in TASKS[kind]]
    if names is not None:
        wanted = [find_task(name).name for name in names]
        for name in wanted:
            if name not in (task for _, task in found):
                raise InputError(unknown("task of these photos", name, (task for _, task in found)))
        found = [(kind, task) for kind, task in found if task in wanted]
    if any(task in CLASSICAL for _, task in found):
        skimage_restoration()
    return [make_row(kind, task, data_sets[kind], held_out) for kind, task in found]


def make_row(kind: str, name: str, data: DataSet, held_out: HeldOut | None = None) -> Row:
    """One task on one data set: restorations by PSNR beside a classical method, others by the task's own metric."""
    row = partial(Row, f"{kind}/{name}", REGISTRY[name])
    if name in CLASSICAL:
        method = CLASSICAL[name]
        return row(metric=PSNR, metric_name="PSNR", baselines={method.__name__: method})
    if name in ("deraining", "demotionblur"):
        return row(metric=PSNR, metric_name="PSNR", baselines={"input_copy": input_copy})
    if isinstance(REGISTRY[name], GenerationTask):
        return row(metric=PSNR, metric_name="PSNR")
    if name == "foreground":
        return row(draw_definition=lambda rng, vocabulary: ForegroundDefinition(FOREGROUND))
    if name == "detection":
        return row(draw_definition=lambda rng, vocabulary: DetectionDefinition(DETECTED))
    if name == "semantic":
        classes = largest_classes(data.train)
        others = tuple(name for name in data.train.vocabulary.classes if name not in classes)
        banned = HeldOut(classes=others, palettes=held_out.palettes if held_out else ())

        def draw(rng: np.random.Generator, vocabulary: Vocabulary) -> Definition:
            return REGISTRY["semantic"].draw_definition(rng, vocabulary, evaluation=True, held_out=banned)

        return row(draw_definition=draw)
    return row()


def largest_classes(source: CamVid, count: int = CLASSES) -> list[str]:
    """The classes that cover most pixels of a split, largest first."""
    area = sum(np.bincount(read_levels(label).ravel(), minlength=256) for _, label in source.files)
    names = source.vocabulary.classes
    return [names[number] for number in np.argsort(-area[: len(names)], kind="stable")[:count] if area[number]]


# --- The suite --------------------------------------------------------------------------------------------------------


def evaluate(
    pipeline: LavinPipeline,
    data_sets: dict[str, DataSet],
    rows: Sequence[Row],
    settings: Settings,
    held_out: HeldOut | None = None,
    runner: Runner | None = None,
) -> Iterator[Result]:
    """Score rows, one after another.

    Args:
        runner: who answers beside the model, and where answers are kept; None for the model alone.

    Raises:
        InputError: the settings do not suit the model, or a data set has no fitting pictures.
    """
    pipeline.check_inputs(settings.steps, settings.guidance_scale, "pt", task=None, ensemble_size=1)
    runner = runner or Runner(Lavin(pipeline, settings), settings)
    for row in tqdm(rows, desc="rows", disable=None):  # None: unless stderr is a terminal
        draw = data_sets[row.name.split("/")[0]].of(row).draw_episode
        yield from runner.evaluate(row, partial(draw, row, settings.pairs, held_out=held_out))


def protocol(
    pipeline: LavinPipeline,
    model: str,
    settings: Settings,
    held_out: HeldOut | None,
    data_sets: dict[str, DataSet],
) -> dict[str, Any]:
    """Everything that the numbers depend on, for the report.

    Args:
        model: its name, not its place.
    """
    definitions = "standard"
    if "camvid" in data_sets:
        semantic = largest_classes(data_sets["camvid"].train)
        definitions = {"foreground": [FOREGROUND], "detection": [DETECTED], "semantic": semantic, "others": "standard"}
    pictures = {
        kind: {"train": len(data.train), "validation": len(data.validation)} for kind, data in data_sets.items()
    }
    data = {
        "suite": "real",
        "split": "pairs from train, queries from validation",
        "seeds": {"episodes and noise": list(settings.seeds)},
        "pictures": pictures,
        "definitions": definitions,
    }
    return data | report.protocol(pipeline, model, settings, held_out)
