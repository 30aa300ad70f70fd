"""The ``lavin`` command. Heavy imports happen inside the functions that need them: ``lavin --help`` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lavin import __version__
from lavin.cli_convert import convert
from lavin.errors import InputError, LavinError
from lavin.suggest import unknown

DTYPES = ("float32", "bfloat16")
"""float16 is left out: it overflows in the ST-VAE, and pictures come out black."""
BATCH = 8
"""Queries that run together."""
SCENES = 96
"""Held-out scenes among which ``lavin examples`` finds those that fit a task."""
GRID_QUERIES = 8
"""Queries that fit into one grid picture."""

app = typer.Typer(
    name="lavin",
    help="In-context vision: show input-target pairs and a query, get the query's target.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ``lavin`` command; returns its exit code."""
    return run(app, "lavin", arguments)


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command; mistakes are one line on stderr and exit code 2, Ctrl-C is 130."""
    try:
        code = app(args=arguments, prog_name=name, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except typer.Exit as leave:
        return leave.exit_code
    except LavinError as error:
        return fail(str(error))
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own, about options; its class moves between versions
            raise
        return fail(error.format_message())
    return code if isinstance(code, int) else 0


def fail(message: str) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lavin {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def infer(
    context: Annotated[Path, typer.Option(help="Folder of <name>_input.*, <name>_target.* pairs.")],
    query: Annotated[list[Path], typer.Option(help="Picture to solve, or a folder of them; repeat for several.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="PNG to write, prediction.png if not given; for several queries a folder.", show_default=False
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Also write the label read from the prediction, e.g. depth; see 'lavin tasks'.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="A bundled model's name, or a folder: a model's or the release's.")
    ] = "lavin-tiny",
    steps: Annotated[int, typer.Option(help="Points of the time grid; one more than solver steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Weight of the pairs; 1 is no guidance and twice as fast.")] = 1.5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 0,
    pairs: Annotated[int | None, typer.Option(help="Use the first so many pairs only.", show_default=False)] = None,
    grid: Annotated[Path | None, typer.Option(help="Also write context, queries and predictions as one PNG.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs that exist.")] = False,
) -> None:
    """Predict the target of every query from the pairs in CONTEXT."""
    from lavin.bundled import find_model, find_released
    from lavin.data.folders import load_pairs

    # Everything that can be wrong with the call is found before torch is imported and weights are read.
    if dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    released = find_released(model)
    model_folder = released or find_model(model)
    examples = load_pairs(context, limit=pairs)
    if pairs is not None and len(examples) < pairs:
        raise InputError(f"--pairs {pairs}: context folder {context} has {len(examples)} pairs")
    outputs = plan_outputs(query, out)
    check_outputs(outputs, task, grid, force)

    from lavin.labels import find_task

    task_name = find_task(task).name if task else None
    check_outputs(outputs, task_name, grid, force)  # an alias writes under the task's own name
    place = find_device(device)

    from lavin.pipeline import LavinPipeline

    load = LavinPipeline.from_released if released else LavinPipeline.from_pretrained
    pipeline = load(model_folder, torch_dtype=find_dtype(dtype)).to(place)
    pipeline.check_inputs(steps, guidance, "pil", task_name, ensemble_size=1)
    if pairs is None and pipeline.config.max_pairs and len(examples) > pipeline.config.max_pairs:
        typer.echo(
            f"note: {model} was trained with up to {pipeline.config.max_pairs} pairs; using the first of "
            f"{len(examples)} (--pairs {len(examples)} uses all)",
            err=True,
        )
        examples = examples[: pipeline.config.max_pairs]
    predict(pipeline, examples, outputs, task_name, grid, steps, guidance, seed, force)


def plan_outputs(queries: Sequence[Path], out: Path | None) -> list[tuple[Path, Path]]:
    """(query file, prediction file) of every query; the queries can be read, and no two write one file."""
    from lavin.io import image_files, read_image

    files: list[Path] = []
    for query in queries:
        if not query.is_dir():
            files.append(query)
            continue
        # <name>_target.* beside a query is its known answer.
        found = [path for path in image_files(query) if not path.stem.endswith("_target")]
        if not found:
            raise InputError(f"query folder {query} has no pictures")
        files += found
    several = len(files) > 1 or queries[0].is_dir()
    if several and out is not None and out.suffix.lower() == ".png" and not out.is_dir():
        raise InputError(f"--out {out}: {len(files)} queries need a folder, not a file")
    if several or (out is not None and out.is_dir()):
        folder = out or Path("predictions")
        outputs = [(path, folder / f"{path.stem}.png") for path in files]
    else:
        outputs = [(files[0], out or Path("prediction.png"))]
    sources: dict[Path, Path] = {}
    for source, target in outputs:
        if target in sources:
            raise InputError(f"queries {sources[target]} and {source} would both be written to {target}")
        sources[target] = source
        read_image(source)
    return outputs


def check_outputs(outputs: Sequence[tuple[Path, Path]], task: str | None, grid: Path | None, force: bool) -> None:
    """Refuse outputs that exist or are no PNG, before any work."""
    from lavin.io import LABEL_SUFFIXES, check_free, check_png

    for _, target in outputs:
        check_png(target)
        check_free(target, force)
        for suffix in LABEL_SUFFIXES if task else ():
            check_free(f"{label_stem(target, task)}{suffix}", force)
    if grid is not None:
        check_png(grid)
        check_free(grid, force, "--grid")
        if grid in [target for _, target in outputs]:
            raise InputError(f"--grid {grid} is the prediction's own file; give another name")


def label_stem(prediction: Path, task: str) -> str:
    return str(prediction.with_name(f"{prediction.stem}_{task}"))


def predict(pipeline, examples, outputs, task, grid, steps, guidance, seed, force) -> None:
    """Run the queries batch by batch and write what comes out; written paths go to stdout."""
    import torch

    from lavin.io import draw_grid, read_image, write_image, write_label
    from lavin.labels import reads_picture

    columns = list(examples)
    for start in range(0, len(outputs), BATCH):
        batch = outputs[start : start + BATCH]
        pictures = [read_image(source) for source, _ in batch]
        # One generator a query: a picture's prediction does not depend on which others are in the folder.
        generators = [torch.Generator().manual_seed(seed) for _ in batch]
        result = pipeline(
            examples, pictures, num_inference_steps=steps, guidance_scale=guidance, generator=generators, task=task
        )
        for number, (_, target) in enumerate(batch):
            typer.echo(write_image(target, result.images[number], force))
            if task and not reads_picture(task):
                typer.echo(write_label(label_stem(target, task), result.labels[number], task, force))
        columns += zip(pictures, result.images, strict=True)
        del columns[len(examples) + GRID_QUERIES :]
    if grid is not None:
        typer.echo(write_image(grid, draw_grid(columns, len(examples)), force))


def find_dtype(name: str):
    import torch

    return getattr(torch, name)


def find_device(name: str):
    """A device that is there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used here; cpu always can") from error
    return device


@app.command()
def tasks() -> None:
    """List the tasks, one line each."""
    from lavin.tasks import REGISTRY

    width = max(map(len, REGISTRY))
    for name in sorted(REGISTRY):
        typer.echo(f"{name:<{width}}  {REGISTRY[name].description}")


@app.command()
def examples(
    folder: Annotated[
        Path, typer.Argument(help="Where to write <task>/<name>_input.png, <name>_target.png, query.png.")
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; repeat for several.", show_default=False)
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, max=16, help="Pairs of every context.")] = 4,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Side of the pictures in pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite examples that exist.")] = False,
) -> None:
    """Write an example context for every task, made from procedural scenes; query_target.png is the true answer."""
    from lavin.io import check_free

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder")

    from lavin.data.mixture import Pool
    from lavin.data.scenes import Scenes
    from lavin.labels import find_task
    from lavin.tasks import REGISTRY

    names = [find_task(name).name for name in task] if task else sorted(REGISTRY)
    for name in names:
        check_free(folder / name / "query.png", force, "DIR")
    pool = Pool(Scenes("validation", size=size, seed=seed), range(SCENES))
    for name in names:
        write_example(folder / name, name, pool, pairs, seed, force)
        typer.echo(folder / name)


def write_example(folder: Path, task: str, pool, pairs: int, seed: int, force: bool) -> None:
    """One context of a pool's scenes, with its query and the true target of it."""
    import numpy as np

    from lavin.data.mixture import draw_context
    from lavin.io import write_image
    from lavin.pictures import to_output

    try:
        episode = draw_context(pool, task, pairs, np.random.default_rng(seed), evaluation=True)
    except ValueError as error:
        raise InputError(f"{error}; give fewer --pairs or another --seed") from error
    clips = {"query": episode.context.query, "query_target": episode.target}
    for number, pair in enumerate(episode.context.pairs, 1):
        clips |= {f"scene{number:02}_input": pair.input, f"scene{number:02}_target": pair.target}
    for name, clip in clips.items():
        write_image(folder / f"{name}.png", to_output(clip, tuple(clip.shape[2:]), "pil"), force)


app.command()(convert)


if __name__ == "__main__":
    sys.exit(main())
