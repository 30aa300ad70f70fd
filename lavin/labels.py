"""Labels read from predictions: in which drawing style, and at which size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lavin.data.sample import Vocabulary
from lavin.errors import InputError
from lavin.pictures import Picture
from lavin.tasks import Definition, Task, codes, get_task
from lavin.tasks.regions import SemanticTask
from lavin.tasks.restoration import RestorationTask

MAX_CLASSES = 64
SMALLEST_CLASS = 0.001
"""Share of the targets' pixels below which a colour is taken for noise."""


def find_task(name: str) -> Task:
    """``get_task``, with the package's own kind of error."""
    try:
        return get_task(name)
    except ValueError as error:
        raise InputError(str(error)) from error


def reads_picture(name: str) -> bool:
    """Whether the task's label is the predicted picture itself, so that there is nothing more to write."""
    return isinstance(get_task(name), RestorationTask)


def standard_definition(task: Task, colours: Sequence[tuple[int, int, int]]) -> Definition:
    """The drawing style in which a task's predictions are read: the task's standard one; for semantic segmentation,
    where nothing else tells them, the colours of the context's targets.

    Args:
        colours: see ``palette``.

    Raises:
        InputError: a semantic label with too many colours or none.
    """
    if isinstance(task, SemanticTask):
        if not 1 <= len(colours) <= MAX_CLASSES:
            shown = f"more than {MAX_CLASSES}" if colours else "no"
            raise InputError(
                f"the context's targets show {shown} colours; a semantic label needs 1 to {MAX_CLASSES} plain ones"
            )
        ids = tuple(range(len(colours)))
        return task.definition_type(classes=tuple(f"class {i}" for i in ids), class_ids=ids, colours=colours)
    if hasattr(task, "standard_definition"):
        return task.standard_definition()
    vocabulary = Vocabulary(things=("object",), stuff=("background",), colours=("red",))
    return task.draw_definition(np.random.default_rng(0), vocabulary, evaluation=True)


def palette(targets: Sequence[Picture]) -> tuple[tuple[int, int, int], ...]:
    """The colours that the targets are drawn in, black (= ignore) apart, in lexicographic order: class 0, 1, ...; of
    photos, which have more than classes can be, the first ones and one too many."""
    numbers = torch.cat([colour_numbers(target.frames).flatten() for target in targets])
    numbers, counts = numbers.unique(return_counts=True)
    kept = numbers[(counts >= SMALLEST_CLASS * counts.sum()) & (numbers > 0)][: MAX_CLASSES + 1].tolist()
    return tuple((number >> 16, number >> 8 & 255, number & 255) for number in kept)


def colour_numbers(frames: Tensor) -> Tensor:
    """65536 R + 256 G + B of every pixel, or of a grid of them in large pictures; (frames, 3, height, width) in."""
    step = max(1, max(frames.shape[2:]) // 512)
    frames = frames[:, :, ::step, ::step]
    levels = frames.long() if frames.dtype == torch.uint8 else codes.levels_from_clip(frames).round().long()
    return (levels[:, 0] << 16) + (levels[:, 1] << 8) + levels[:, 2]
