"""Reports of benchmarks: a table for people, JSON for programs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lavin import __version__
from lavin.encoded import fingerprint
from lavin.evaluation.scores import MODEL, TOKENIZER

if TYPE_CHECKING:
    from lavin.evaluation.episodes import Settings
    from lavin.evaluation.scores import Result
    from lavin.pipeline import LavinPipeline
    from lavin.tasks import HeldOut

VERSION = 3
"""Of protocol and results; files of another one cannot be compared, nor gone on with."""
DIGITS = 6
"""Decimals in the JSON; the last ones of a float32 mean nothing."""
PIPE_WIDTH = 120
"""Columns where the output is no terminal."""


def protocol(pipeline: LavinPipeline, model: str, settings: Settings, held_out: HeldOut | None) -> dict[str, Any]:
    """What the numbers of a suite with one set of settings depend on beside its data.

    Args:
        model: its name, not its place.
    """
    return {
        "queries": settings.queries,
        "pairs": settings.pairs,
        "resolution": pipeline.config.sample_size,
        "steps": settings.steps,
        "guidance": settings.guidance_scale,
    } | environment(pipeline, model, settings, held_out)


def environment(pipeline: LavinPipeline, model: str, settings: Settings, held_out: HeldOut | None) -> dict[str, Any]:
    """What the numbers of any suite depend on beside its data and its settings: the model, the code, the machine."""
    return {
        "version": VERSION,
        "held_out": None
        if held_out is None
        else {
            "classes": list(held_out.classes),
            "colours": list(held_out.colours),
            "palettes": [list(colour) for colour in held_out.palettes],
        },
        "time_grid": pipeline.config.time_grid,
        "precision": settings.precision,
        "device": pipeline.device.type,
        "batch": settings.batch,
        "model": {
            "name": model,
            "weights": {"stvae": fingerprint(pipeline.stvae), "jdit": fingerprint(pipeline.jdit)},
        },
        "lavin": __version__,
        "code": code_hash(),
        "libraries": library_versions(),
    }


LIBRARIES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "scikit-image")
"""What networks, metrics and classical baselines are computed with."""


def library_versions() -> dict[str, str | None]:
    """None for those that are not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def code_hash() -> str:
    """Of the package's sources, so that numbers of another state of the code are told apart."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def to_json(protocol: dict[str, Any], results: Sequence[Result]) -> bytes:
    """``{"protocol": {...}, "results": [{...}, ...]}``, the same bytes for the same numbers; NaN becomes null."""
    content = {"protocol": tidy(protocol), "results": [to_record(result) for result in results]}
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


OPTIONAL = ("unavailable", "published", "failures", "std", "by_seed")
"""Fields of a result that stand in its record only where they say something."""


def to_record(result: Result) -> dict[str, Any]:
    """A result as the JSON has it; the samples have a file of their own."""
    fields = asdict(replace(result, samples=[]))
    del fields["samples"]
    return {name: tidy(value) for name, value in fields.items() if name not in OPTIONAL or value not in (None, {}, [])}


def to_csv(results: Sequence[Result]) -> bytes:
    """One line a query, seed and score: ``task, metric, seed, index, query, pairs`` (ids, blanks between them), then a
    column for everybody's score of it, empty where there is none."""
    fixed = ["task", "metric", "seed", "index", "query", "pairs"]
    names = dict.fromkeys(name for result in results for sample in result.samples for name in sample)
    columns = fixed + [name for name in names if name not in fixed]
    text = io.StringIO()
    lines = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    lines.writeheader()
    for result in results:
        for sample in result.samples:
            values = {name: "" if tidy(value) is None else tidy(value) for name, value in sample.items()}
            lines.writerow({"task": result.task, "metric": result.metric, **values})
    return text.getvalue().encode()


def tidy(value: Any) -> Any:
    """Floats rounded, NaN and infinity as None, inside dictionaries and lists too."""
    if isinstance(value, dict):
        return {name: tidy(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(item) for item in value]
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value


def to_table(protocol: dict[str, Any], results: Sequence[Result]) -> Table:
    """One line a row: its metric, the model, the baselines, and how far the best one's error shrank.

    With several seeds numbers are mean ± standard deviation. Of what was published only the first number has room;
    the JSON has all.
    """
    table = Table(title=f"{protocol['suite']}: {protocol['model']['name']}", caption=caption(protocol, results))
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    others = any(own_baselines(result) for result in results)
    published = any(result.published for result in results)
    names = ["model", *["published"] * published, "copy nearest", "mean target", *["others"] * others]
    for name in (*names, "error reduction", "tokenizer"):
        table.add_column(name, justify="right", no_wrap=name == "others")
    for result in results:
        numbers = [with_std(result, name) for name in ("copy_nearest", "mean_target")]
        table.add_row(
            result.task,
            f"{result.metric} {'↑' if result.higher_is_better else '↓'}",
            "unavailable" if result.unavailable else with_std(result, MODEL),
            *[number(next(iter(result.published.values()), math.nan))] * published,
            *numbers,
            *[listed(result, own_baselines(result))] * others,
            "–" if math.isnan(result.error_reduction) else f"{100 * result.error_reduction:+.0f} %",
            with_std(result, TOKENIZER),
        )
    return table


def caption(protocol: dict[str, Any], results: Sequence[Result]) -> str:
    """The settings, and why numbers are missing or data was skipped."""
    parts = []
    if "queries" in protocol:
        parts += [f"{protocol['queries']} queries, {protocol['pairs']} pairs, {protocol['resolution']} px"]
        parts += [f"{protocol['steps']} steps, guidance {protocol['guidance']:g}"]
    lines = [", ".join([*parts, protocol["precision"]])]
    seeds = dict.fromkeys(tuple(one["seed"] for one in result.by_seed) for result in results if result.by_seed)
    lines += [f"mean ± standard deviation over seeds {', '.join(map(str, one))}" for one in seeds]
    lines += dict.fromkeys(result.unavailable for result in results if result.unavailable)
    lines += [f"skipped {row}: {reason}" for row, reason in protocol.get("skipped", {}).items()]
    return "\n".join(lines)


def listed(result: Result, names: Sequence[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {with_std(result, name)}" for name in names)


def own_baselines(result: Result) -> list[str]:
    """Names of those baselines of a row that not every row has."""
    return [name for name in result.baselines if name not in ("copy_nearest", "mean_target")]


def with_std(result: Result, name: str) -> str:
    """Somebody's value, with its deviation where there are several seeds."""
    value = number(result.values().get(name, math.nan))
    return f"{value} ± {result.std[name]:.2g}" if math.isfinite(result.std.get(name, math.nan)) else value


def number(value: float) -> str:
    """Three significant digits."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def print_table(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(table)
