"""Suites: which rows are scored together, under one protocol; each yields its results as they come."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lavin.errors import InputError
from lavin.evaluation import photos, public, report, scenes
from lavin.evaluation.benchmarks import Benchmark, read_benchmark, thesis_benchmarks
from lavin.evaluation.episodes import Settings
from lavin.evaluation.predictors import Lavin, Predictor
from lavin.evaluation.runner import Runner, Share
from lavin.evaluation.scores import Result
from lavin.evaluation.shelf import Shelf, check_same
from lavin.io import check_free, write_bytes
from lavin.pipeline import LavinPipeline, find_task


@dataclass
class Suite:
    """What is about to run: its protocol, known before anything is predicted, and how to run it."""

    protocol: dict[str, Any]
    run: Callable[[Shelf | None], Iterator[Result]]


@dataclass
class Entrants:
    """Who is scored, in this process' share of the work."""

    pipeline: LavinPipeline
    folder: Path
    """Of the model: its name and ``training.json`` are read from it."""
    rivals: Sequence[Predictor] = ()
    share: Share = field(default_factory=Share)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def runner(self, settings: Settings, shelf: Shelf | None) -> Runner:
        return Runner(Lavin(self.pipeline, settings, self.name), settings, self.rivals, shelf, self.share)

    def facts(self) -> dict[str, Any]:
        """What the protocol says of them beside the model."""
        found: dict[str, Any] = {"seen": scenes.read_seen(self.folder)}
        return found | ({"baselines": [rival.describe() for rival in self.rivals]} if self.rivals else {})


def scenes_suite(
    entrants: Entrants, settings: Settings, tasks: Sequence[str] | None, held_out: bool, model: str
) -> Suite:
    """Held-out procedural scenes.

    Args:
        tasks: None for those that the model was trained on.
        held_out: also what its training never drew.
        model: as the user named it, for errors.
    """
    folder, unseen = entrants.folder, scenes.read_held_out(entrants.folder)
    rows = scenes.task_rows(scenes.trained_tasks(folder) if tasks is None else tasks)
    if held_out:
        rows += scenes.held_out_rows(unseen, model) + scenes.task_rows(scenes.unseen_tasks(folder))
    scenes.check_settings(entrants.pipeline, settings)

    def run(shelf: Shelf | None) -> Iterator[Result]:
        return scenes.evaluate(entrants.pipeline, rows, settings, unseen, entrants.runner(settings, shelf))

    protocol = scenes.protocol(entrants.pipeline, entrants.name, settings, unseen) | entrants.facts()
    return Suite(protocol | {"rows": [row.name for row in rows]}, run)


def real_suite(entrants: Entrants, settings: Settings, tasks: Sequence[str] | None, data: Path) -> Suite:
    """Small real data sets: CamVid, BSDS500, an RGB-D video, those of them that ``data`` holds."""
    unseen = scenes.read_held_out(entrants.folder)
    data_sets = photos.open_data_sets(data, entrants.pipeline.config.sample_size)
    rows = photos.make_rows(data_sets, tasks, unseen)

    def run(shelf: Shelf | None) -> Iterator[Result]:
        runner = entrants.runner(settings, shelf)
        return photos.evaluate(entrants.pipeline, data_sets, rows, settings, unseen, runner)

    protocol = photos.protocol(entrants.pipeline, entrants.name, settings, unseen, data_sets) | entrants.facts()
    return Suite(protocol | {"rows": [row.name for row in rows]}, run)


def benchmark_suite(
    entrants: Entrants,
    name: str,
    benchmarks: Sequence[Benchmark],
    data: Path,
    settings: Settings,
    limit: int | None = None,
    skip: bool = False,
) -> Suite:
    """Benchmarks on public data sets, by their own protocols.

    Args:
        name: of the suite, or of the only benchmark.
        settings: batch and precision; the rest is the benchmarks'.
        limit: only the first so many queries of each row.
        skip: leave out benchmarks whose data is not there, and say so in the protocol, rather than refuse.

    Raises:
        InputError: a model of another size, or missing data: of all benchmarks, or of any where ``skip`` is off.
    """
    if not data.is_dir():
        raise InputError(f"data folder {data}: no such folder")
    questions, skipped = [], {}
    for benchmark in benchmarks:
        public.check_resolution(Lavin(entrants.pipeline, settings, entrants.name), benchmark)
        entrants.pipeline.check_inputs(benchmark.steps, benchmark.guidance, "pt", task=None, ensemble_size=1)
        for row, part in benchmark.rows().items():
            try:
                questions.append(public.Questions(row, part, data))
            except InputError as error:
                if not skip:
                    raise
                skipped[row] = str(error).replace(str(data), "DIR")  # a report names no place on this machine
    if not questions:
        raise InputError(f"no benchmark has its data: {next(iter(skipped.values()), 'none was chosen')}")
    rows = [one.row() for one in questions]

    def count(one: public.Questions) -> int:
        return len(one) if limit is None else min(limit, len(one))

    def run(shelf: Shelf | None) -> Iterator[Result]:
        for one, row in zip(questions, rows, strict=True):
            own = public.settings_of(one.benchmark, count(one), settings.batch, settings.precision)
            yield from entrants.runner(own, shelf).evaluate(row, one.draw)

    tasks_seen = (entrants.facts()["seen"] or {}).get("tasks")
    described = {one.name: one.describe(count(one), tasks_seen) for one in questions}
    unseen = scenes.read_held_out(entrants.folder)
    common = report.environment(entrants.pipeline, entrants.name, settings, unseen) | entrants.facts()
    missing = {"skipped": skipped} if skipped else {}
    return Suite({"suite": name, "limit": limit, "benchmarks": described} | missing | common, run)


def choose_benchmarks(tasks: Sequence[str] | None, overrides: Sequence[str] = ()) -> list[Benchmark]:
    """The benchmarks that come with the package, or those of some tasks; parts with values of their own keep them."""
    chosen = [read_benchmark(name, overrides) for name in thesis_benchmarks()]
    if tasks is None:
        return chosen
    wanted = [find_task(name).name for name in tasks]
    found = [benchmark for benchmark in chosen if find_task(benchmark.task).name in wanted]
    if not found:
        raise InputError(f"no benchmark of {', '.join(wanted)}; known: {', '.join(sorted({b.task for b in chosen}))}")
    return found


# --- Running one ------------------------------------------------------------------------------------------------------


def samples_file(out: Path) -> Path:
    """Where the per-sample scores of a report lie: ``report.json`` has ``report.samples.csv`` beside it."""
    return out.with_suffix(".samples.csv")


def shelf_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def is_finished(out: Path, protocol: dict[str, Any]) -> bool:
    """Whether a report of this protocol is there already.

    Raises:
        InputError: the file is something else, or a report by another protocol: the first key that differs is named.
    """
    if not out.exists():
        return False
    try:
        theirs = json.loads(out.read_text())["protocol"]
        version = theirs.get("version", 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        check_free(out)
    if version != protocol["version"]:
        raise InputError(
            f"output {out}: results of protocol version {version}, and this is version {protocol['version']}; "
            "give another --out, or --force to begin anew"
        )
    check_same(theirs, report.tidy(protocol), f"output {out}: results")
    return True


def run_suite(suite: Suite, out: Path | None, force: bool, share: Share) -> list[Result] | None:
    """Run a suite, or go on with one that was cut short, and write its report.

    Args:
        out: the report's JSON; None to write nothing.
        force: begin anew, whatever is there.

    Returns:
        The results; None on processes other than the main one, and where the report is already there.
    """
    if out is None:
        return list(suite.run(None)) if share.is_main else run_quietly(suite, None)
    if not force and is_finished(out, suite.protocol):
        return None
    if share.is_main:
        if force and shelf_folder(out).is_dir():
            shutil.rmtree(shelf_folder(out))
        check_free(samples_file(out), force or shelf_folder(out).is_dir())
        Shelf(shelf_folder(out), suite.protocol)
    share.wait()
    shelf = Shelf(shelf_folder(out), suite.protocol)
    results = list(suite.run(shelf))
    share.wait()
    if not share.is_main:
        return None
    write_bytes(samples_file(out), report.to_csv(results), force=True)
    write_bytes(out, report.to_json(suite.protocol, results), force=True)
    shelf.clear()
    return results


def run_quietly(suite: Suite, shelf: Shelf | None) -> None:
    for _ in suite.run(shelf):
        pass


def read_results(out: Path) -> list[Result]:
    """The results in a report, without samples."""
    records = json.loads(out.read_text())["results"]
    return [from_record(record) for record in records]


def from_record(record: dict[str, Any]) -> Result:
    """Inverse of ``report.to_record``."""

    def number(value: float | None) -> float:
        return float("nan") if value is None else value

    result = Result(**record)
    return replace(
        result,
        value=number(result.value),
        error_reduction=number(result.error_reduction),
        baselines={name: number(value) for name, value in result.baselines.items()},
        ceilings={name: number(value) for name, value in result.ceilings.items()},
        std={name: number(value) for name, value in result.std.items()},
    )
