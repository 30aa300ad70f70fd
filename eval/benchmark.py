"""Score a model: `python eval/benchmark.py --suite scenes [--model lavin-tiny] [--tasks depth,edges] [--out FILE]`.

On real pictures: `python eval/benchmark.py --suite photos --data DIR`, where DIR holds camvid, bsds500, rgbd or some.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lavin.cli import run
from lavin.cli_infer import DTYPES, find_device
from lavin.errors import InputError
from lavin.suggest import unknown

if TYPE_CHECKING:
    from lavin.pipeline import LavinPipeline

SUITES = ("scenes", "photos")
POOL = 512

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(app, "benchmark.py", arguments)


@app.command()
def benchmark(
    suite: Annotated[str, typer.Option(help="scenes: held-out procedural scenes, all tasks; photos: real pictures.")],
    model: Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")] = "lavin-tiny",
    data: Annotated[
        Path | None, typer.Option(help="Of photos: folder with camvid, bsds500, rgbd or some.", show_default=False)
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these, e.g. depth,normals.", show_default=False)] = None,
    queries: Annotated[int, typer.Option(help="Queries a task.")] = 64,
    pairs: Annotated[int, typer.Option(help="Pairs of every context.")] = 4,
    steps: Annotated[int, typer.Option(help="Points of the time grid; one more than solver steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Weight of the pairs; 1 is no guidance and twice as fast.")] = 1.5,
    seed: Annotated[int, typer.Option(help="Of queries, contexts and noise.")] = 0,
    pool: Annotated[
        int | None,
        typer.Option(help=f"Held-out scenes that queries and pairs are drawn from; {POOL}.", show_default=False),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Also score tasks and definitions that the model's training never drew.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 (autocast).")] = "float32",
    batch: Annotated[int, typer.Option(help="Queries that run together.")] = 8,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Print each task's metric beside two baselines: the most similar pair's target copied, and the mean target.

    Photos are restored by classical methods too.
    """
    from lavin.bundled import find_model
    from lavin.io import check_free, write_bytes

    if suite not in SUITES:
        raise InputError(unknown("suite", suite, SUITES))
    if dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    check_options(suite, data, pool, held_out)
    if out is not None:
        check_free(out, force)
    folder = find_model(model)

    from lavin.evaluation import photos, report, scenes
    from lavin.evaluation.episodes import Settings

    settings = Settings(queries, pairs, steps, guidance, seed, POOL if pool is None else pool, batch, dtype)
    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    unseen, name = scenes.read_held_out(folder), folder.resolve().name

    if suite == "scenes":
        rows = scenes.task_rows(scenes.trained_tasks(folder) if names is None else names)
        if held_out:
            rows += scenes.held_out_rows(unseen, model) + scenes.task_rows(scenes.unseen_tasks(folder))
        pipeline = load(folder, device)
        results = list(scenes.evaluate(pipeline, rows, settings, unseen))
        protocol = scenes.protocol(pipeline, name, settings, unseen)
    else:
        pipeline = load(folder, device)
        data_sets = photos.open_data_sets(data, pipeline.config.sample_size)
        rows = photos.make_rows(data_sets, names, unseen)
        results = list(photos.evaluate(pipeline, data_sets, rows, settings, unseen))
        protocol = photos.protocol(pipeline, name, settings, unseen, data_sets)

    report.print_table(report.to_table(protocol, results))
    if out is not None:
        typer.echo(write_bytes(out, report.to_json(protocol, results), force))


def load(folder: Path, device: str) -> "LavinPipeline":
    """The model on its device, without bars of its own."""
    from lavin.pipeline import LavinPipeline

    pipeline = LavinPipeline.from_pretrained(folder).to(find_device(device))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_options(suite: str, data: Path | None, pool: int | None, held_out: bool) -> None:
    """Refuse an option of the other suite, which would change nothing."""
    if suite == "scenes" and data is not None:
        raise InputError("--data is for --suite photos; scenes are made, not read")
    if suite == "photos":
        if data is None:
            raise InputError("--suite photos needs --data DIR, a folder with camvid, bsds500, rgbd or some of them")
        for option, given in (("--pool", pool is not None), ("--held-out", held_out)):
            if given:
                raise InputError(f"{option} is for --suite scenes; photos have none")


if __name__ == "__main__":
    sys.exit(main())
