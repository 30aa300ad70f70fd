"""``lavin examples`` and ``lavin data preview``: contexts as pictures, to be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from lavin.errors import InputError

SCENES = 96
"""Held-out scenes among which ``lavin examples`` finds those that fit a task."""
CELL = 128
"""Side in pixels of a picture of the preview."""

data = typer.Typer(name="data", help="Look at what models are trained and scored on.", no_args_is_help=True)


class LazyPool(Sequence):
    """Samples of a source that are made when first asked for: a context looks at few of many.

    Args:
        source: any source, e.g. ``Scenes``; sample ``index`` is its sample of that index.
        length: how many there are.
    """

    def __init__(self, source, length: int):
        self.vocabulary, self.source, self.length = source.vocabulary, source, length
        self._made: dict = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        index = int(index)
        if index not in self._made:
            self._made[index] = self.source[index]
        return self._made[index]


# --- lavin examples ---------------------------------------------------------------------------------------------------


def examples(
    folder: Annotated[
        Path, typer.Argument(help="Where to write <task>/<name>_input, <name>_target, query; png or mp4.")
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; repeat for several.", show_default=False)
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, max=16, help="Pairs of every context.")] = 4,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Side of the pictures in pixels.")] = 128,
    frames: Annotated[
        int | None,
        typer.Option(
            min=5, max=121, help="Frames of clips, 1 + 4k; what the task needs if not given.", show_default=False
        ),
    ] = None,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Of clips, let the pairs be the query's own past instead of other clips.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite examples that exist.")] = False,
) -> None:
    """Write an example context for every task, made from procedural scenes; query_target is the true answer."""
    from lavin.io import check_free

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder")
    if frames is not None and (frames - 1) % 4:
        raise InputError(f"--frames {frames}: a clip has 1 + 4k frames; take {frames - (frames - 1) % 4}")

    from lavin.data.mixture import scenes_for
    from lavin.labels import find_task
    from lavin.tasks import REGISTRY

    tasks = [find_task(name) for name in task] if task else [REGISTRY[name] for name in sorted(REGISTRY)]
    if prefix:
        tasks = with_prefix_mode(tasks, asked_for=bool(task))
    tasks = without_clips_if_they_cannot_be_written(tasks, asked_for=bool(task))
    for chosen in tasks:
        check_free(folder / chosen.name / f"query{suffix(chosen)}", force, "DIR")
    pools: dict[tuple, LazyPool] = {}
    for chosen in tasks:
        shown = frames or chosen.source_frames
        length = 1 + -(-(shown * (pairs + 1) - 1) // 4) * 4 if prefix else shown  # 1 + 4k, of the whole clip
        kind = (chosen.people, chosen.clips and length)
        if kind not in pools:
            pools[kind] = LazyPool(scenes_for(chosen, "validation", size, length, seed), SCENES)
        write_example(folder / chosen.name, chosen, pools[kind], pairs, seed, force, shown if prefix else None)
        typer.echo(folder / chosen.name)


def suffix(task) -> str:
    return ".mp4" if task.clips else ".png"


def without_clips_if_they_cannot_be_written(tasks: list, asked_for: bool) -> list:
    """Without PyAV a clip task is an error where it was asked for by name; among all tasks it is left out, and said."""
    from importlib.util import find_spec

    from lavin.clips import VIDEO_EXTRA

    clips = [task.name for task in tasks if task.clips]
    if not clips or find_spec("av"):
        return tasks
    if asked_for:
        raise InputError(f"--task {clips[0]}: {VIDEO_EXTRA}")
    typer.echo(f"note: left out {', '.join(clips)}: {VIDEO_EXTRA}", err=True)
    return [task for task in tasks if not task.clips]


def with_prefix_mode(tasks: list, asked_for: bool) -> list:
    """The tasks whose pairs can be the query's own past; another one is an error where it was asked for by name."""
    others = [task.name for task in tasks if not task.clips or task.own_length]
    if others and asked_for:
        raise InputError(f"--prefix: pairs of task '{others[0]}' cannot be parts of the query's clip; leave it out")
    return [task for task in tasks if task.name not in others]


def write_example(
    folder: Path, task, pool, pairs: int, seed: int, force: bool, prefix_frames: int | None = None
) -> None:
    """One context of a pool's scenes, with its query and the true target of it."""
    import numpy as np

    from lavin.clips import write_clip
    from lavin.data.mixture import draw_context
    from lavin.io import write_image

    try:
        rng = np.random.default_rng(seed)
        episode = draw_context(pool, task, pairs, rng, evaluation=True, prefix_frames=prefix_frames)
    except ValueError as error:
        frames = " more --frames," if task.clips else ""
        raise InputError(f"{error}; give{frames} fewer --pairs, a larger --size or another --seed") from error
    clips = {"query": episode.context.query, "query_target": episode.target}
    for number, pair in enumerate(episode.context.pairs, 1):
        clips |= {f"scene{number:02}_input": pair.input, f"scene{number:02}_target": pair.target}
    for name, clip in clips.items():
        path = folder / f"{name}{suffix(task)}"
        if task.clips:
            write_clip(path, pictures(clip), episode.query_sample.fps, force)
        else:
            write_image(path, pictures(clip)[0], force)


def pictures(clip) -> list:
    """A clip (3, frames, height, width) as PIL pictures, one a frame."""
    from lavin.pictures import to_output

    frames = to_output(clip, tuple(clip.shape[2:]), "pil")
    return frames if isinstance(frames, list) else [frames]


# --- lavin data preview -----------------------------------------------------------------------------------------------


@data.command()
def preview(
    config: Annotated[Path, typer.Argument(help="Configuration of train/pretrain.py.")],
    override: Annotated[
        list[str] | None, typer.Argument(help="key=value, as for training.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("preview.png"),
    rows: Annotated[int, typer.Option(min=1, max=64, help="Contexts of every task.")] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The contexts of another run.seed.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the picture if it exists.")] = False,
) -> None:
    """Draw contexts exactly as training sees them, a row a task: pairs, and after the gap the query with its target."""
    from lavin.io import check_free, check_png, draw_grid, stack, write_image
    from lavin.training.config import PretrainConfig, load_config

    check_png(out)
    check_free(out, force)
    settings = load_config(PretrainConfig, config, override or ())

    contexts, titles = [], []
    for name, episode in training_contexts(settings, rows, settings.run.seed if seed is None else seed):
        shown = [*episode.pairs[: settings.train_pairs - 1], episode.query]
        columns = [tuple(pictures(clip) for clip in example) for example in shown]
        contexts.append(draw_grid(columns, len(columns) - 1, CELL))
        titles.append(name)
    typer.echo(write_image(out, stack(contexts, titles), force))


def training_contexts(config, rows: int, seed: int) -> Iterator[tuple]:
    """(task's name, Episode): of every task the first contexts that ``lavin.training.latents.build_cache`` makes.

    A context is a function of the seed and its number there. Where a task has too few, the numbers go on behind the
    last: contexts that a larger cache would have.
    """
    from lavin.training.latents import draw_tasks, training_context

    total = config.cache.contexts
    drawn = draw_tasks(config.tasks, total, seed)
    pool = LazyPool(config.scenes.source("train"), config.scenes.train_scenes)
    for task_id, name in enumerate(config.tasks.probabilities()):
        numbers = (drawn == task_id).nonzero()[0][:rows].tolist()
        if len(numbers) < rows:
            typer.echo(f"note: {name} has {len(numbers)} of the cache's {total} contexts; more are drawn", err=True)
            numbers += range(total, total + rows - len(numbers))
        for number in numbers:
            try:
                yield name, training_context(pool, config.tasks, task_id, number, config.cache.pairs, seed)
            except ValueError as error:
                raise InputError(f"{error}; training on this configuration would stop here too") from error
