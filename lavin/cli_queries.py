"""Queries of `lavin infer`: read ahead, solved in batches and written behind, so that memory does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lavin.cli_outputs import GRID_QUERIES, draw_predictions, write
from lavin.clips import Clip, is_clip, read_media
from lavin.data.folders import Pairs
from lavin.errors import InputError
from lavin.io import write_image

if TYPE_CHECKING:
    from lavin.encoded import EncodedContext
    from lavin.pipeline import LavinPipeline
    from lavin.select import Selector

BATCH = 8
"""Pictures that run together; clips run one by one."""
ENCODED_CONTEXTS = 16
"""Contexts kept encoded where every query may be shown other pairs."""
LISTED = 5
"""Failed queries that the last line names."""

Member = tuple[Path, Path, Any]
"""Query file, prediction file, picture or clip."""


# --- Contexts ---------------------------------------------------------------------------------------------------------


@dataclass
class OneContext:
    """A context file: every query is shown the same pairs."""

    encoded: EncodedContext

    def choose(self, picture: Any) -> tuple[int, ...]:
        return tuple(range(len(self.encoded)))

    def note(self, chosen: tuple[int, ...]) -> str | None:
        return None

    def encode(self, chosen: tuple[int, ...]) -> EncodedContext:
        return self.encoded

    def pictures(self, chosen: tuple[int, ...]) -> list[tuple]:
        from PIL import Image

        return [
            tuple(Image.fromarray(half.permute(1, 2, 0).numpy()) for half in pair) for pair in self.encoded.thumbnails
        ]


class ChosenContexts:
    """Pairs of a pool, chosen query by query; what was chosen lately stays encoded."""

    def __init__(self, pipeline: LavinPipeline, selector: Selector, pairs: int):
        self.selector, self.pairs = selector, pairs
        self.encode = lru_cache(ENCODED_CONTEXTS)(lambda chosen: pipeline.encode_context(self.chosen_pairs(chosen)))

    def choose(self, picture: Any) -> tuple[int, ...]:
        return tuple(self.selector(picture, self.pairs))

    def note(self, chosen: tuple[int, ...]) -> str | None:
        if self.selector.strategy == "first":
            return None
        return "context " + ", ".join(self.selector.pool.names[number] for number in chosen)

    def chosen_pairs(self, chosen: tuple[int, ...]) -> Pairs:
        pool = self.selector.pool
        return Pairs([pool.names[number] for number in chosen], [pool[number] for number in chosen])

    def pictures(self, chosen: tuple[int, ...]) -> list[tuple]:
        return [tuple(cell(half) for half in pair) for pair in self.chosen_pairs(chosen)]


def cell(media: Any) -> Any:
    """A picture, or a clip's frames, as the grid takes them."""
    return media.pictures() if isinstance(media, Clip) else media


# --- Queries ----------------------------------------------------------------------------------------------------------


def predict(
    pipeline: LavinPipeline,
    contexts: OneContext | ChosenContexts,
    outputs: Sequence[tuple[Path, Path]],
    grid: Path | None,
    seed: int,
    force: bool,
    options: dict[str, Any],
    finish: Callable[[Any, list], list] | None = None,
) -> int:
    """Run the queries batch by batch; files are read ahead and written behind, in threads of their own.

    Args:
        finish: what is done to a prediction's frames before they are written, given the query.

    Returns:
        Exit code: 2 if a query failed; the others are written all the same.
    """
    failures: list[str] = []
    shown: list[tuple] = []  # chosen pairs, query and prediction of those that the grid has room for
    with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(1) as writers:
        writing: list[Future] = []
        for batch in read_ahead(readers, outputs, failures):
            writing = written(writing, failures)
            chosen = [contexts.choose(picture) for _, _, picture in batch]
            for (source, _, picture), numbers in zip(batch, chosen, strict=True):
                for note in (contexts.note(numbers), padding_note(picture)):
                    if note:
                        typer.echo(f"note: {source}: {note}", err=True)
            for numbers in dict.fromkeys(chosen):  # those that are shown the same pairs run together
                members = [member for member, own in zip(batch, chosen, strict=True) if own == numbers]
                context = contexts.encode(numbers)
                try:
                    check_length(members[0], context)
                except InputError as error:
                    failures.append(str(error))
                    continue
                images, labels = solve(pipeline, context, members, seed, options)
                for (_, target, picture), image, label in zip(members, images, labels, strict=True):
                    frames = image if isinstance(image, list) else [image]
                    frames = finish(picture, frames) if finish else frames
                    fps = picture.fps if isinstance(picture, Clip) else None
                    writing.append(writers.submit(write, target, frames, fps, label, options["task"], force))
                    if grid is not None and len(shown) < GRID_QUERIES:
                        shown.append((numbers, cell(picture), frames))
        written(writing, failures)
    if shown:
        typer.echo(write_image(grid, draw_predictions(contexts, shown), force))
    if failures:
        rest = f" and {len(failures) - LISTED} more" if len(failures) > LISTED else ""
        raise InputError(f"{len(failures)} of {len(outputs)} queries failed: {'; '.join(failures[:LISTED])}{rest}")
    return 0


def paste_known(media: Any, frames: list) -> list:
    """An inpainting's prediction with the query's own pixels outside its hole; PIL pictures in and out."""
    import numpy as np
    import torch

    from lavin.pictures import as_picture, from_uint8, to_output
    from lavin.tasks import get_task

    shown = from_uint8(as_picture(media, "the query").frames.transpose(0, 1))
    predicted = np.stack([np.asarray(frame) for frame in frames])
    prediction = from_uint8(torch.from_numpy(predicted).permute(3, 0, 1, 2))
    task = get_task("inpainting")
    pasted = task.composite(prediction, shown, task.definition_type())
    found = to_output(pasted, tuple(pasted.shape[2:]), "pil")
    return found if isinstance(found, list) else [found]


def padding_note(media: Any) -> str | None:
    """That a clip has not 1 + 4k frames, and what is done about it (``LavinPipeline.encode``)."""
    frames = len(media.frames) if isinstance(media, Clip) else 1
    padded = frames + -(frames - 1) % 4
    if padded == frames:
        return None
    return f"{frames} frames are not 1 + 4k; the last one is repeated up to {padded}, and the prediction cut"


def check_length(member: Member, context: EncodedContext) -> None:
    """Refuse a query of other length where the pairs' targets are not as long as their inputs.

    Raises:
        InputError: naming the query; how long its target is could not be told.
    """
    source, _, media = member
    frames = len(media.frames) if isinstance(media, Clip) else 1
    shown, asked = context.pair_frames
    if shown != asked and frames != shown:
        raise InputError(
            f"{source} has {frames} frames, but the pairs show {asked} for {shown}; give a clip of {shown} frames"
        )


def read_ahead(
    readers: ThreadPoolExecutor, outputs: Sequence[tuple[Path, Path]], failures: list[str]
) -> Iterator[list[Member]]:
    """Batches of queries, the next one read while one is solved."""

    def read(batch: Sequence[tuple[Path, Path]]) -> list[Member]:
        found = []
        for source, target in batch:
            try:
                found.append((source, target, read_media(source)))
            except InputError as error:
                failures.append(str(error))
        return found

    coming: Future | None = None
    for batch in batches(outputs):
        ready, coming = coming, readers.submit(read, batch)
        if ready is not None and ready.result():
            yield ready.result()
    if coming is not None and coming.result():
        yield coming.result()


def batches(outputs: Sequence[tuple[Path, Path]]) -> list[list[tuple[Path, Path]]]:
    """Neighbouring pictures together, every clip on its own."""
    found: list[list[tuple[Path, Path]]] = []
    for source, target in outputs:
        if not found or is_clip(source) or is_clip(found[-1][0][0]) or len(found[-1]) == BATCH:
            found.append([])
        found[-1].append((source, target))
    return found


def written(writing: list[Future], failures: list[str]) -> list[Future]:
    """Wait for files that are being written and print their names; a new, empty list."""
    for future in writing:
        try:
            for path in future.result():
                typer.echo(path)
        except InputError as error:
            failures.append(str(error))
    return []


def solve(
    pipeline: LavinPipeline, context: EncodedContext, members: list[Member], seed: int, options: dict[str, Any]
) -> tuple[list, list]:
    """Predictions and labels of queries that share a context."""
    import torch

    # One generator a query: a picture's prediction does not depend on which others are in the folder.
    generators = [torch.Generator().manual_seed(seed) for _ in members]
    result = pipeline(context, [picture for _, _, picture in members], generator=generators, **options)
    return result.images, result.labels or [None] * len(members)
