"""Does an ensemble over noises know where it is wrong? `python eval/uncertainty.py [--tasks depth] [--out DIR]`

On held-out scenes: the spread of predictions from several noises against the error of their mean, pixel by pixel. DIR
gets results.json, figure.svg and figure.png. What the columns mean: lavin/evaluation/uncertainty.py.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lavin.cli import run
from lavin.cli_infer import find_device
from lavin.errors import InputError

if TYPE_CHECKING:
    from lavin.evaluation.uncertainty import Uncertainty

TASKS = "foreground,semantic,depth,normals,inpainting,colorization"
FILES = ("results.json", "figure.svg", "figure.png")
COLUMNS = ("single_rmse", "rmse", "predicted_rmse", "ence", "ause", "aurg", "query_correlation")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(app, "uncertainty.py", arguments)


@app.command()
def uncertainty(
    model: Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")] = "lavin-tiny",
    tasks: Annotated[str, typer.Option(help="Tasks, e.g. depth,normals.")] = TASKS,
    queries: Annotated[int, typer.Option(help="Queries a task.")] = 32,
    ensemble: Annotated[int, typer.Option(help="Noises a query.")] = 8,
    pairs: Annotated[int, typer.Option(help="Pairs of every context.")] = 4,
    steps: Annotated[int, typer.Option(help="Points of the time grid; one more than solver steps.")] = 10,
    guidance: Annotated[float, typer.Option(help="Weight of the pairs; 1 is no guidance and twice as fast.")] = 1.5,
    seed: Annotated[int, typer.Option(help="Of queries, contexts and noise.")] = 0,
    pool: Annotated[int, typer.Option(help="Held-out scenes that queries and pairs are drawn from.")] = 512,
    batch: Annotated[int, typer.Option(help="Queries that run together.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of an earlier run.")] = False,
) -> None:
    """Print each task's errors, predicted and observed, and how well the spread orders the pixels."""
    from lavin.bundled import find_model
    from lavin.io import check_free, write_bytes

    if ensemble < 2:
        raise InputError(f"--ensemble is {ensemble}; predictions from at least 2 noises have a spread")
    if out is not None:
        for name in FILES:
            check_free(out / name, force)
    folder = find_model(model)

    from dataclasses import asdict

    from lavin.evaluation import figures, report, scenes
    from lavin.evaluation.episodes import Settings
    from lavin.pipeline import LavinPipeline

    if out is not None:
        figures.check_matplotlib()
    settings = Settings(queries, pairs, steps, guidance, (seed,), pool, batch)
    rows = scenes.task_rows([name.strip() for name in tasks.split(",")])
    pipeline = LavinPipeline.from_pretrained(folder).to(find_device(device))
    pipeline.set_progress_bar_config(disable=True)
    scenes.check_settings(pipeline, settings)
    held_out = scenes.read_held_out(folder)
    pools = scenes.Pools(pipeline.config.sample_size, pool)
    found = [measure_row(pipeline, pools.of(row.task), row, settings, ensemble, held_out) for row in rows]

    name = folder.resolve().name
    report.print_table(to_table(name, [task for task, _ in found]))
    if out is not None:
        protocol = scenes.protocol(pipeline, name, settings, held_out) | {"ensemble_size": ensemble}
        results = [asdict(task) for task, _ in found]
        content = json.dumps(tidied({"protocol": protocol, "results": results}), indent=1, allow_nan=False) + "\n"
        drawn = figures.draw_uncertainty(found)
        for file, data in zip(FILES, (content.encode(), drawn["svg"], drawn["png"]), strict=True):
            typer.echo(write_bytes(out / file, data, force))


def measure_row(pipeline, pool, row, settings, ensemble, held_out):
    """A task's numbers, and what the figure shows of its first query."""
    from lavin.evaluation import uncertainty
    from lavin.evaluation.episodes import draw_episode, noise_generator
    from lavin.pipeline import ensemble_spread

    episodes = [
        draw_episode(pool, row, settings.pairs, settings.seed, index, held_out) for index in range(settings.queries)
    ]
    members = []
    for start in range(0, settings.queries, settings.batch):
        chosen = range(start, min(start + settings.batch, settings.queries))
        noise = [noise_generator(settings.seed, row.name, index) for index in chosen]
        members += uncertainty.predict_ensemble(
            pipeline, [episodes[index] for index in chosen], noise, settings, ensemble
        )
    first, mean = episodes[0], members[0].mean(0)
    predicted = uncertainty.predicted_error(ensemble_spread(members[0]), ensemble)
    shown = (first.query.input, first.target, mean, predicted, uncertainty.pixel_error(mean, first.target))
    return uncertainty.measure(row.name, members, [episode.target for episode in episodes]), shown


def to_table(model: str, found: "Sequence[Uncertainty]"):
    from rich.table import Table

    from lavin.evaluation.report import number

    caption = f"{found[0].queries} queries, {found[0].ensemble_size} noises each; errors on the scale [0, 1]"
    table = Table(title=f"spread and error: {model}", caption=caption)
    for name in ("task", *COLUMNS):
        table.add_column(name.replace("_", " "), justify="left" if name == "task" else "right")
    for task in found:
        table.add_row(task.task, *(number(getattr(task, name)) for name in COLUMNS))
    return table


def tidied(value):
    """``report.tidy`` inside lists too."""
    from lavin.evaluation.report import tidy

    if isinstance(value, (list, tuple)):
        return [tidied(item) for item in value]
    return {name: tidied(item) for name, item in value.items()} if isinstance(value, dict) else tidy(value)


if __name__ == "__main__":
    sys.exit(main())
