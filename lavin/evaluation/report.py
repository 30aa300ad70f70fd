"""Reports of benchmarks: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lavin.evaluation.scenes import Result

DIGITS = 6
"""Decimals in the JSON; the last ones of a float32 mean nothing."""
PIPE_WIDTH = 120
"""Columns where the output is no terminal."""


def to_json(protocol: dict[str, Any], results: Sequence[Result]) -> bytes:
    """``{"protocol": {...}, "results": [{...}, ...]}``, the same bytes for the same numbers; NaN becomes null."""
    content = {"protocol": protocol, "results": [tidy(asdict(result)) for result in results]}
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def tidy(value: Any) -> Any:
    """Floats rounded, NaN and infinity as None, inside dictionaries too."""
    if isinstance(value, dict):
        return {name: tidy(item) for name, item in value.items()}
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value


def to_table(protocol: dict[str, Any], results: Sequence[Result]) -> Table:
    """One line a row: its metric, the model, the baselines, and how far the better one's error shrank."""
    table = Table(
        title=f"{protocol['suite']}: {protocol['model']['name']}",
        caption=f"{protocol['queries']} queries, {protocol['pairs']} pairs, {protocol['resolution']} px, "
        f"{protocol['steps']} steps, guidance {protocol['guidance']:g}, {protocol['precision']}",
    )
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in ("model", "copy nearest", "mean target", "error reduction", "tokenizer"):
        table.add_column(name, justify="right")
    for result in results:
        numbers = [result.value, *result.baselines.values()]
        table.add_row(
            result.task,
            f"{result.metric} {'↑' if result.higher_is_better else '↓'}",
            *map(number, numbers),
            "–" if math.isnan(result.error_reduction) else f"{100 * result.error_reduction:+.0f} %",
            number(result.ceilings["tokenizer"]),
        )
    return table


def number(value: float) -> str:
    """Three significant digits."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def print_table(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(table)
