"""Score a model: `python eval/benchmark.py --suite scenes [--model lavin-tiny] [--tasks depth,edges] [--out FILE]`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lavin.cli import run
from lavin.cli_infer import DTYPES, find_device
from lavin.errors import InputError
from lavin.suggest import unknown

SUITES = ("scenes",)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(app, "benchmark.py", arguments)


@app.command()
def benchmark(
    suite: Annotated[str, typer.Option(help="scenes: held-out procedural scenes, all tasks.")],
    model: Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")] = "lavin-tiny",
    tasks: Annotated[str | None, typer.Option(help="Only these, e.g. depth,normals.", show_default=False)] = None,
    queries: Annotated[int, typer.Option(help="Queries a task.")] = 64,
    pairs: Annotated[int, typer.Option(help="Pairs of every context.")] = 4,
    steps: Annotated[int, typer.Option(help="Points of the time grid; one more than solver steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Weight of the pairs; 1 is no guidance and twice as fast.")] = 1.5,
    seed: Annotated[int, typer.Option(help="Of queries, contexts and noise.")] = 0,
    pool: Annotated[int, typer.Option(help="Held-out scenes that queries and pairs are drawn from.")] = 512,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Also score definitions that the model's training never drew.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 (autocast).")] = "float32",
    batch: Annotated[int, typer.Option(help="Queries that run together.")] = 8,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Print each task's metric beside two baselines: the most similar pair's target copied, and the mean target."""
    from lavin.bundled import find_model
    from lavin.io import check_free, write_bytes

    if suite not in SUITES:
        raise InputError(unknown("suite", suite, SUITES))
    if dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    if out is not None:
        check_free(out, force)
    folder = find_model(model)

    from lavin.evaluation import report, scenes
    from lavin.pipeline import LavinPipeline

    settings = scenes.Settings(queries, pairs, steps, guidance, seed, pool, batch, dtype)
    rows = scenes.task_rows(scenes.trained_tasks(folder) if tasks is None else map(str.strip, tasks.split(",")))
    unseen = scenes.read_held_out(folder)
    if held_out:
        rows += scenes.held_out_rows(unseen, model)
    pipeline = LavinPipeline.from_pretrained(folder).to(find_device(device))
    pipeline.set_progress_bar_config(disable=True)
    results = list(scenes.evaluate(pipeline, rows, settings, unseen))

    protocol = scenes.protocol(pipeline, folder.resolve().name, settings, unseen)
    report.print_table(report.to_table(protocol, results))
    if out is not None:
        typer.echo(write_bytes(out, report.to_json(protocol, results), force))


if __name__ == "__main__":
    sys.exit(main())
