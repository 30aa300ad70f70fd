"""What the study of context length found: curves over the number of pairs, with intervals over queries."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from lavin.evaluation.bootstrap import Interval, interval, spearman
from lavin.evaluation.context_length import CEILINGS, OTHER_TASK, SHUFFLED, Study
from lavin.evaluation.episodes import Row
from lavin.evaluation.report import number, tidy

HELPS, HURTS, UNDECIDED = "help", "hurt", "undecided"


@dataclass(frozen=True)
class Point:
    """One length or control of a task; intervals are of 95 % over queries."""

    name: str
    """The number of pairs, ``other_task`` or ``shuffled``."""
    pairs: int
    beyond_training: bool
    value: Interval
    difference: Interval
    """Paired: of a length to the shortest with pairs, of a control to as many true pairs. In the metric's unit."""
    shown: float | None
    """Share of contexts whose pairs show all that the query's target uses; None of controls."""


@dataclass(frozen=True)
class Curve:
    """One task's curve."""

    task: str
    metric: str
    higher_is_better: bool
    queries: int
    contexts: int
    points: tuple[Point, ...]
    controls: tuple[Point, ...]
    ceilings: dict[str, float]
    spearman_trained: float
    """Rank correlation of length and mean over the lengths of training from 1 pair up; 1 is better with every step."""
    spearman_all: float
    """The same with the lengths beyond training."""
    claim_length: int
    verdict: str
    """``help`` where the paired difference of ``claim_length`` to the shortest excludes 0 and is an improvement,
    ``hurt`` where it excludes 0 the other way, else ``undecided``."""

    def point(self, name: str | int) -> Point:
        return next(point for point in (*self.points, *self.controls) if point.name == str(name))


def summarise(
    records: Iterable[dict[str, Any]], rows: Sequence[Row], study: Study, max_pairs: int | None
) -> list[Curve]:
    """One curve a row that has records. A query counts once, as the mean over its contexts.

    Args:
        max_pairs: most pairs in training; None where nobody knows.
    """
    by_row: dict[str, list[dict[str, Any]]] = {row.name: [] for row in rows}
    for record in records:
        if record["task"] in by_row:
            by_row[record["task"]].append(record)
    return [curve_of(row, by_row[row.name], study, max_pairs) for row in rows if by_row[row.name]]


def curve_of(row: Row, records: Sequence[dict[str, Any]], study: Study, max_pairs: int | None) -> Curve:
    values = query_means(records)
    better = bool(row.task.metric().higher_is_better)
    claim = study.control_length or study.longest

    def point(name: str, pairs: int, reference: str, shown: float | None) -> Point:
        beyond = max_pairs is not None and pairs > max_pairs
        difference = interval(values[name] - values[reference])
        return Point(name, pairs, beyond, interval(values[name]), difference, shown)

    def share(length: int) -> float:
        return float(np.mean([length in record["shown"] for record in records])) if length else 0.0

    points = [point(str(length), length, str(study.shortest), share(length)) for length in study.lengths]
    controls = [point(name, claim, str(claim), None) for name in (OTHER_TASK, SHUFFLED) if name in values]
    rising = [p for p in points if p.pairs]
    difference = next(p.difference for p in points if p.pairs == claim)

    def rho(chosen: Sequence[Point]) -> float:
        return (1 if better else -1) * spearman([p.pairs for p in chosen], [p.value.mean for p in chosen])

    verdict = UNDECIDED
    if difference.excludes_zero:
        verdict = HELPS if (difference.mean > 0) == better else HURTS
    return Curve(
        row.name,
        row.metric_name or row.task.metric_name,
        better,
        len(next(iter(values.values()))),
        len({record["context"] for record in records}),
        tuple(points),
        tuple(controls),
        {name: interval(values[name]).mean for name in CEILINGS},
        rho([p for p in rising if not p.beyond_training]),
        rho(rising),
        claim,
        verdict,
    )


def query_means(records: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Length, control or ceiling -> score of every query, the mean over its contexts; NaN where none has one."""
    queries = sorted({record["query"] for record in records})
    names = list(dict.fromkeys(name for record in records for name in record["scores"]))
    found: dict[str, dict[int, list[float]]] = {name: {query: [] for query in queries} for name in names}
    for record in records:
        for name, value in record["scores"].items():
            if value is not None:
                found[name][record["query"]].append(value)
    return {
        name: np.array([np.mean(values[query]) if values[query] else np.nan for query in queries])
        for name, values in found.items()
    }


# --- Reports ----------------------------------------------------------------------------------------------------------


def to_json(protocol: dict[str, Any], curves: Sequence[Curve]) -> bytes:
    """``{"protocol": {...}, "curves": [{...}, ...]}``, the same bytes for the same numbers; NaN becomes null."""
    found = []
    for curve in curves:
        content = asdict(curve) | {
            "points": [flat(p) for p in curve.points],
            "controls": [flat(p) for p in curve.controls],
        }
        found.append(tidy(content))
    return (json.dumps({"protocol": protocol, "curves": found}, indent=1, allow_nan=False) + "\n").encode()


def flat(point: Point) -> dict[str, Any]:
    """A point as named numbers."""
    ends = {
        f"{name}{end}": number
        for name, ends in (("value", point.value), ("difference", point.difference))
        for end, number in zip(("", "_low", "_high"), ends, strict=True)
    }
    content = {"name": point.name, "pairs": point.pairs, "beyond_training": point.beyond_training}
    return tidy(content | ends | {"shown": point.shown})


def to_csv(curves: Sequence[Curve]) -> bytes:
    """One line a task and point."""
    rows = [
        {"task": curve.task, "metric": curve.metric, "higher_is_better": curve.higher_is_better} | flat(point)
        for curve in curves
        for point in (*curve.points, *curve.controls)
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["task"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def to_table(title: str, curves: Sequence[Curve]) -> Table:
    """One line a task: the mean at every length, and whether more pairs help."""
    claim, shortest = curves[0].claim_length, next(p.pairs for p in curves[0].points if p.pairs)
    caption = f"{curves[0].queries} queries, {curves[0].contexts} contexts each; * beyond the pairs of training"
    table = new_table(title, caption)
    for point in curves[0].points:
        table.add_column(f"{point.pairs}{'*' * point.beyond_training}", justify="right", no_wrap=True)
    table.add_column(f"{claim} minus {shortest} [95 %]", justify="right", no_wrap=True)
    table.add_column("more pairs", no_wrap=True)
    table.add_column("ρ", justify="right")
    for curve in curves:
        means = (number(point.value.mean) for point in curve.points)
        found = (signed(curve.point(claim).difference), curve.verdict, number(curve.spearman_trained))
        table.add_row(*heading(curve), *means, *found)
    return table


def to_controls_table(curves: Sequence[Curve]) -> Table:
    """One line a task: true pairs beside pairs that lie, and what the code and the tokenizer let through."""
    table = new_table(f"controls, {curves[0].claim_length} pairs", "of controls the difference to the true pairs, 95 %")
    table.add_column("true pairs", justify="right")
    for control in curves[0].controls:
        for name in (control.name.replace("_", " "), "difference"):
            table.add_column(name, justify="right", no_wrap=True)
    for name in CEILINGS:
        table.add_column(name, justify="right")
    for curve in curves:
        cells = [number(curve.point(curve.claim_length).value.mean)]
        for control in curve.controls:
            cells += [number(control.value.mean), signed(control.difference)]
        table.add_row(*heading(curve), *cells, *(number(curve.ceilings[name]) for name in CEILINGS))
    return table


def to_markdown(tables: Iterable[Table]) -> bytes:
    """Tables for a page of documentation, one after another."""
    text = io.StringIO()
    console = Console(file=text, width=10_000)
    for table in tables:
        table.title = table.caption = None
        table.box = box.MARKDOWN
        console.print(table)
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    return ("\n".join(lines).strip() + "\n").encode()


def new_table(title: str, caption: str) -> Table:
    table = Table(title=title, caption=caption)
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    return table


def heading(curve: Curve) -> tuple[str, str]:
    return curve.task, f"{curve.metric} {'↑' if curve.higher_is_better else '↓'}"


def signed(difference: Interval) -> str:
    """``+0.1 [+0.04, +0.16]``."""
    return f"{difference.mean:+.2g} [{difference.low:+.2g}, {difference.high:+.2g}]"
