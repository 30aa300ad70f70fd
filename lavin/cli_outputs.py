"""Files of `lavin infer`: which queries there are, what is written for each, and that nothing is overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavin.clips import check_mp4, is_clip, media_files, read_media, write_clip
from lavin.errors import InputError
from lavin.io import LABEL_SUFFIXES, check_free, check_png, draw_grid, stack, write_image, write_label

GRID_QUERIES = 8
"""Queries that fit into one grid picture."""


def plan_outputs(queries: Sequence[Path], out: Path | None) -> list[tuple[Path, Path]]:
    """(query file, prediction file) of every query; no two write one file, and a query on its own can be read.

    Predictions of pictures are png files, those of clips mp4.
    """
    files: list[Path] = []
    for query in queries:
        if not query.is_dir():
            files.append(query)
            continue
        # <name>_target.* beside a query is its known answer.
        found = [path for path in media_files(query) if not path.stem.endswith("_target")]
        if not found:
            raise InputError(f"query folder {query} has no pictures and no clips")
        files += found
    several = len(files) > 1 or queries[0].is_dir()
    if several and out is not None and out.suffix.lower() in (".png", ".mp4") and not out.is_dir():
        raise InputError(f"--out {out}: {len(files)} queries need a folder, not a file")
    if several or (out is not None and out.is_dir()):
        folder = out or Path("predictions")
        outputs = [(path, folder / f"{path.stem}{suffix(path)}") for path in files]
    else:
        outputs = [(files[0], out or Path(f"prediction{suffix(files[0])}"))]
    sources: dict[Path, Path] = {}
    for source, target in outputs:
        if target in sources:
            raise InputError(f"queries {sources[target]} and {source} would both be written to {target}")
        sources[target] = source
    if len(files) == 1:
        read_media(files[0])
    return outputs


def suffix(query: Path) -> str:
    """Of a query's prediction."""
    return ".mp4" if is_clip(query) else ".png"


def check_outputs(outputs: Sequence[tuple[Path, Path]], task: str | None, grid: Path | None, force: bool) -> None:
    """Refuse outputs that exist, or whose names say that they are of another kind, before any work."""
    for source, target in outputs:
        (check_mp4 if is_clip(source) else check_png)(target)
        check_free(target, force)
        for ending in LABEL_SUFFIXES if task else ():
            check_free(f"{label_stem(target, task)}{ending}", force)
    if grid is not None:
        check_png(grid)
        check_free(grid, force, "--grid")
        if grid in [target for _, target in outputs]:
            raise InputError(f"--grid {grid} is the prediction's own file; give another name")


def label_stem(prediction: Path, task: str) -> str:
    return str(prediction.with_name(f"{prediction.stem}_{task}"))


def write(target: Path, frames: list, fps: float | None, label: Any, task: str | None, force: bool) -> list[Path]:
    """Write a prediction and its label; the label first, since a prediction that exists is taken as finished.

    Args:
        frames: PIL pictures, one of a picture.
        fps: frames per second of a clip; None for a picture.
    """
    from lavin.labels import reads_picture

    written = []
    if task and not reads_picture(task):
        written.append(write_label(label_stem(target, task), label, task, force))
    prediction = write_image(target, frames[0], force) if fps is None else write_clip(target, frames, fps, force)
    return [prediction, *written]


def draw_predictions(contexts, shown: list[tuple]):
    """Contexts, queries and predictions as one picture: a row for every context.

    Args:
        contexts: whose ``pictures`` are the pairs.
        shown: (chosen pairs, query, prediction), pictures or the frames of clips.
    """
    rows = []
    for numbers in dict.fromkeys(chosen for chosen, _, _ in shown):
        context = contexts.pictures(numbers)
        queries = [(query, prediction) for chosen, query, prediction in shown if chosen == numbers]
        rows.append(draw_grid([*context, *queries], len(context)))
    return stack(rows)
