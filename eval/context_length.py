"""Do more pairs make better predictions? `python eval/context_length.py --out DIR [--model lavin-tiny] [--tasks depth]`

The study of the thesis' figure 4.19 on held-out scenes: the same queries and noise at every length, and controls. DIR
gets records.jsonl, which grows while the study runs (the same command goes on after a stop), then results.json,
results.csv, results.md, figure.svg and figure.png.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lavin.cli import run
from lavin.cli_infer import DTYPES, find_device
from lavin.errors import InputError
from lavin.suggest import unknown

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(app, "context_length.py", arguments)


@app.command()
def context_length(
    out: Annotated[Path, typer.Option(help="Folder to write; a study there goes on.")],
    model: Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")] = "lavin-tiny",
    tasks: Annotated[
        str | None, typer.Option(help="Only these, e.g. depth,normals; all that were trained.", show_default=False)
    ] = None,
    lengths: Annotated[str, typer.Option(help="Numbers of pairs; 0 is no context.")] = "0,1,2,4,8,16",
    queries: Annotated[int, typer.Option(help="Queries a task; 200 and more for a publication.")] = 64,
    contexts: Annotated[int, typer.Option(help="Contexts drawn for each query; 3 for a publication.")] = 1,
    steps: Annotated[int, typer.Option(help="Points of the time grid; one more than solver steps.")] = 10,
    guidance: Annotated[float, typer.Option(help="Weight of the pairs; 1 is no guidance and twice as fast.")] = 1.5,
    seed: Annotated[int, typer.Option(help="Of queries, contexts and noise.")] = 0,
    pool: Annotated[int, typer.Option(help="Held-out scenes that queries and pairs are drawn from.")] = 512,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 (autocast).")] = "float32",
    batch: Annotated[int, typer.Option(help="Queries that run together.")] = 8,
    workers: Annotated[int, typer.Option(help="Processes that share the queries and the cores.")] = 1,
) -> None:
    """Print each task's metric over the number of pairs, and whether more pairs help."""
    from lavin.bundled import find_model

    for option, value in (("--queries", queries), ("--contexts", contexts), ("--batch", batch), ("--workers", workers)):
        if value < 1:
            raise InputError(f"{option} is {value}; it must be at least 1")
    if dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; a folder is needed")
    numbers = read_lengths(lengths)
    folder = find_model(model)

    from tqdm import tqdm

    from lavin.evaluation import context_length as study_of
    from lavin.evaluation import curves, figures, nested, report, scenes
    from lavin.evaluation.records import Records
    from lavin.io import write_bytes
    from lavin.pipeline import LavinPipeline

    figures.check_matplotlib()
    place = str(find_device(device))
    rows = scenes.task_rows(scenes.trained_tasks(folder) if tasks is None else [n.strip() for n in tasks.split(",")])
    pipeline = LavinPipeline.from_pretrained(folder)
    settings = {"steps": steps, "guidance_scale": guidance, "seed": seed, "pool": pool, "precision": dtype}
    study = study_of.plan(numbers, pipeline.config.max_pairs, **settings)
    scenes.check_settings(pipeline, study.settings(queries, batch))
    name = folder.resolve().name
    protocol = study_of.protocol(pipeline, name, study, scenes.read_held_out(folder))
    records = Records(out / "records.jsonl", protocol)
    work = nested.chunks(rows, queries, contexts, batch, records)
    with tqdm(total=len(work), desc="batches", disable=None) as bar:  # None: unless stderr is a terminal
        for found in nested.answers(work, folder, study, place, workers):
            records.append(found)
            bar.update()

    chosen = [record for record in records if record["query"] < queries and record["context"] < contexts]
    found = curves.summarise(chosen, rows, study, pipeline.config.max_pairs)
    tables = [curves.to_table(f"context length: {name}", found)]
    if study.control_length is not None:
        tables.append(curves.to_controls_table(found))
    for table in tables:
        report.print_table(table)
    title = f"{name}: more pairs, {queries} queries a task"
    files = {"results.json": curves.to_json(protocol, found), "results.csv": curves.to_csv(found)}
    files["results.md"] = curves.to_markdown(tables)
    files |= {f"figure.{kind}": content for kind, content in figures.draw_context_length(found, title).items()}
    for file, content in files.items():
        typer.echo(write_bytes(out / file, content, force=True))  # made anew of the records


def read_lengths(text: str) -> list[int]:
    """``0,1,2,4`` as numbers."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise InputError(f"--lengths is '{text}'; whole numbers are needed, e.g. 0,1,2,4,8,16") from error


if __name__ == "__main__":
    sys.exit(main())
