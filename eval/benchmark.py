"""Score a model: `python eval/benchmark.py --suite scenes [--model lavin-tiny] [--tasks depth,edges] [--out FILE]`.

On small sets of real pictures: `--suite real --data DIR`, where DIR holds camvid, bsds500, rgbd or some.
By a published protocol: `python eval/benchmark.py configs/eval/NAME.yaml --data DIR [key=value ...]`, where each file's
head says what DIR holds; all whose data is there: `--suite thesis --data DIR`. On several GPUs or processes:
`accelerate launch --num_processes N eval/benchmark.py ...`. A run that was cut short goes on with the same command.
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
    from lavin.evaluation.suites import Entrants, Suite

SUITES = ("scenes", "real", "thesis")
ALIASES = {"photos": "real"}
POOL, QUERIES, PAIRS, STEPS, GUIDANCE = 512, 64, 4, 20, 1.5

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(app, "benchmark.py", arguments)


@app.command()
def benchmark(
    config: Annotated[
        list[str] | None,
        typer.Argument(help="A benchmark's YAML file or name, and key=value changes.", show_default=False),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="scenes: held-out procedural scenes, all tasks; real: small sets of real pictures; thesis: all of "
            "configs/eval whose data is there.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")] = "lavin-tiny",
    data: Annotated[
        Path | None, typer.Option(help="Of all but scenes: the folder of the data sets.", show_default=False)
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these, e.g. depth,normals.", show_default=False)] = None,
    queries: Annotated[
        int | None, typer.Option(help=f"Queries a task; {QUERIES}, or the benchmark's own.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many queries a task.", show_default=False)] = None,
    pairs: Annotated[
        int | None, typer.Option(help=f"Pairs of every context; {PAIRS}, or the benchmark's own.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help=f"Points of the time grid; one more than solver steps; {STEPS}.", show_default=False),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help=f"Weight of the pairs; 1 is no guidance and twice as fast; {GUIDANCE}.", show_default=False),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            help="Of queries, contexts and noise; several, 0,1,2, for mean and standard deviation; 0, or the "
            "benchmark's own.",
            show_default=False,
        ),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Of benchmarks: another side in pixels than theirs.", show_default=False)
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(help=f"Held-out scenes that queries and pairs are drawn from; {POOL}.", show_default=False),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Also score tasks and definitions that the model's training never drew.")
    ] = False,
    baseline: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a SegGPT checkpoint or a Marigold pipeline; may be repeated.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 (autocast).")] = "float32",
    batch: Annotated[int, typer.Option(help="Queries that run together.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="JSON to write; each sample's scores in a CSV beside it.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin anew, and overwrite FILE if it exists.")] = False,
) -> None:
    """Print each task's metric beside two baselines: the most similar pair's target copied, and the mean target.

    Where there is one, the classical method and what was published stand there too.
    """
    from lavin.bundled import find_model

    suite = ALIASES.get(suite, suite)
    seeds = None if seed is None else read_seeds(seed)
    given = {"pairs": pairs, "steps": steps, "guidance": guidance, "seeds": seeds, "resolution": resolution}
    check_options(config, suite, data, pool, held_out, queries, limit, resolution, tasks)
    if dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    folder = find_model(model)
    names = None if tasks is None else [name.strip() for name in tasks.split(",")]

    from lavin.evaluation import report, suites
    from lavin.evaluation.benchmarks import check_changes, read_benchmark
    from lavin.evaluation.episodes import Settings

    asked = QUERIES if queries is None else queries
    settings = Settings(
        asked if limit is None else min(asked, limit),
        PAIRS if pairs is None else pairs,
        STEPS if steps is None else steps,
        GUIDANCE if guidance is None else guidance,
        (0,) if seeds is None else tuple(seeds),
        POOL if pool is None else pool,
        batch,
        dtype,
    )
    changes = [f"{key}={value}" for key, value in given.items() if value is not None]
    if config:
        chosen = [read_benchmark(config[0], [*config[1:], *changes])]
        check_changes(chosen[0], [*config[1:], *changes])
    elif suite == "thesis":
        chosen = suites.choose_benchmarks(names, changes)

    def make(entrants: "Entrants") -> "Suite":
        if suite == "scenes":
            return suites.scenes_suite(entrants, settings, names, held_out, model)
        if suite == "real":
            return suites.real_suite(entrants, settings, names, data)
        title = chosen[0].name if config else suite
        return suites.benchmark_suite(entrants, title, chosen, data, settings, limit, skip=not config)

    entrants = enter(folder, device, baseline or [])
    made = make(entrants)
    results = suites.run_suite(made, out, force, entrants.share)
    if entrants.share.is_main:
        shown = suites.read_results(out) if results is None else results
        report.print_table(report.to_table(made.protocol, shown))
        if out is not None:
            typer.echo(out if results is not None else f"{out} (was there already)")


def enter(folder: Path, device: str, baselines: Sequence[Path]) -> "Entrants":
    """The model and its rivals on this process' device, without bars of their own."""
    from lavin.evaluation.foreign import open_rivals
    from lavin.evaluation.runner import Share
    from lavin.evaluation.suites import Entrants
    from lavin.pipeline import LavinPipeline

    share = Share.of_launch(cpu=device == "cpu")
    place = share.device if device == "auto" and share.processes > 1 else find_device(device)
    pipeline = LavinPipeline.from_pretrained(folder).to(place)
    pipeline.set_progress_bar_config(disable=True)
    return Entrants(pipeline, folder, open_rivals(baselines, place), share)


def read_seeds(text: str) -> list[int]:
    """``0,1,2`` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"seed is '{text}'; give a whole number, or several as 0,1,2") from error


def check_options(
    config: list[str] | None,
    suite: str | None,
    data: Path | None,
    pool: int | None,
    held_out: bool,
    queries: int | None,
    limit: int | None,
    resolution: int | None,
    tasks: str | None,
) -> None:
    """Refuse options that contradict each other, or would change nothing."""
    if suite is not None and suite not in SUITES:
        raise InputError(unknown("suite", suite, (*SUITES, *ALIASES)))
    if (config is None) == (suite is None):
        raise InputError("give either a benchmark's YAML file or --suite " + "|".join(SUITES))
    name = "a benchmark" if config else f"--suite {suite}"
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1")
    if suite == "scenes":
        if data is not None:
            raise InputError("--data is for --suite real and benchmarks; scenes are made, not read")
    elif data is None:
        holds = "a folder with camvid, bsds500, rgbd or some of them" if suite == "real" else "the data sets' folder"
        raise InputError(f"{name} needs --data DIR, {holds}")
    else:
        for option, given in (("--pool", pool is not None), ("--held-out", held_out)):
            if given:
                raise InputError(f"{option} is for --suite scenes; {name} has none")
    if suite in ("scenes", "real"):
        if resolution is not None:
            raise InputError("--resolution is for benchmarks; scenes and small real sets are of the model's own size")
    elif queries is not None:
        raise InputError(
            "--queries is for --suite scenes and real; benchmarks have lists, and --limit takes their first"
        )
    if config and tasks is not None:
        raise InputError("--tasks is for suites; a benchmark has one task")


if __name__ == "__main__":
    sys.exit(main())
