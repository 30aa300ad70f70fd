"""Benchmark: a published protocol as a configuration; ``configs/eval`` holds those of the thesis."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lavin import config_dir
from lavin.errors import InputError
from lavin.evaluation.episodes import check_seeds
from lavin.evaluation.framing import CROPS
from lavin.suggest import unknown


@dataclass
class DataConfig:
    """Samples of a public data set; see ``lavin.data.public.open_dataset``."""

    dataset: str = ""
    """A key of ``DATASETS``; empty for that of the queries."""
    root: str = ""
    """Its folder below ``--data``."""
    split: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """The adapter's own; what begins with ``{data}`` is a path, and ``{data}`` is ``--data``."""


@dataclass
class QueriesConfig(DataConfig):
    """Which samples are asked about, in which order."""

    count: int | None = None
    """How many episodes; beyond the last sample they begin anew with other pairs. None for each sample once."""
    names: str | None = None
    """Text file of names, one a line, below ``configs/eval``; None for all samples in the data set's order."""
    draw_seed: int | None = None
    """Draw them: a random order by this seed instead of the data set's."""


@dataclass
class Benchmark:
    """One protocol: what is asked, about what, with which pairs, and how answers are scored."""

    name: str = ""
    task: str = ""
    queries: QueriesConfig = field(default_factory=QueriesConfig)
    pool: DataConfig = field(default_factory=DataConfig)
    """Where pairs come from, at random and without replacement; never the query's own picture."""
    same_class: bool = False
    """Pairs show the query's class."""
    definition: dict[str, Any] = field(default_factory=dict)
    """Fields of the task's definition that are not standard."""
    crop: str = "whole"
    """What of a picture the model sees, see ``lavin.evaluation.framing``."""
    scored: str = "whole"
    """Of depth: the crop outside of which nothing is scored, though the model sees it."""
    mask: str = ""
    """Which pixels are scored, in words, for the report."""
    alignment: str = ""
    """What is fitted to the truth before scoring, in words, for the report."""
    resolution: int = 256
    """Side of the square, pixels."""
    pairs: int = 8
    steps: int = 20
    """Points of the time grid, one more than solver steps."""
    guidance: float = 1.5
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Of contexts, degradations and noise; with several, all queries are asked once under each of them."""
    metrics: list[str] = field(default_factory=list)
    """See ``lavin.evaluation.measures``; the first is the one that the thesis prints."""
    first: dict[str, int] = field(default_factory=dict)
    """Metric -> how many of the queries count for it, where not all do."""
    baselines: list[str] = field(default_factory=list)
    """See ``lavin.evaluation.baselines.NAMED``."""
    published: dict[str, Any] = field(default_factory=dict)
    """Metric -> method -> its published value, in our units."""
    notes: str = ""
    """Where the published protocol is silent, and what is done here."""
    parts: dict[str, Any] = field(default_factory=dict)
    """Rows of the benchmark: name -> what differs, keys as ``queries.options.fold``. Empty for one row."""

    def __post_init__(self):
        for name in ("name", "task"):
            if not getattr(self, name):
                raise InputError(f"{name} is missing")
        for crop in (self.crop, self.scored):
            if crop not in CROPS:
                raise InputError(unknown("crop", crop, CROPS))
        if self.resolution < 16 or self.resolution % 16:
            raise InputError(f"resolution is {self.resolution}; it must be a multiple of 16")
        if self.pairs < 1:
            raise InputError(f"pairs is {self.pairs}; it must be at least 1")
        check_seeds(self.seeds)
        if self.queries.count is not None and self.queries.count < 1:
            raise InputError(f"queries.count is {self.queries.count}; it must be at least 1")
        if not self.metrics:
            raise InputError("metrics is empty; name at least one")

    def rows(self) -> dict[str, Benchmark]:
        """Row name -> the benchmark with its part's values."""
        if not self.parts:
            return {self.name: self}
        return {f"{self.name}/{part}": self.part(part) for part in self.parts}

    def part(self, name: str) -> Benchmark:
        """The benchmark of one row."""
        found = copy.deepcopy(self)
        found.parts = {}
        for key, value in self.parts[name].items():
            *path, last = key.split(".")
            place: Any = found
            for step in path:
                place = place[step] if isinstance(place, dict) else getattr(place, step, None)
            if isinstance(place, dict):
                place[last] = value
            elif place is not None and hasattr(place, last):
                setattr(place, last, value)
            else:
                raise InputError(f"benchmark {self.name}: parts.{name}: unknown key '{key}'")
        found.__post_init__()
        return found

    def to_dict(self) -> dict[str, Any]:
        """What the report says of it."""
        fields = asdict(self)
        for name in ("parts", "published", "metrics", "baselines"):
            del fields[name]
        return fields


def check_changes(benchmark: Benchmark, overrides: Sequence[str]) -> None:
    """Refuse ``key=value`` changes that would change nothing, because each part of the benchmark has its own value.

    Raises:
        InputError: naming the first such key.
    """
    for key in (override.split("=")[0] for override in overrides):
        parts = [name for name, changes in benchmark.parts.items() if key in changes]
        if parts and len(parts) == len(benchmark.parts):
            raise InputError(f"benchmark {benchmark.name}: {key} is its parts' own ({', '.join(parts)}); leave it out")


def eval_dir() -> Path:
    return config_dir() / "eval"


def thesis_benchmarks() -> dict[str, Path]:
    """Name -> file of the benchmarks that come with the package."""
    return {path.stem: path for path in sorted(eval_dir().glob("*.yaml"))}


def read_benchmark(path: str | Path, overrides: Sequence[str] = ()) -> Benchmark:
    """A benchmark from its file, with ``key=value`` changes.

    Args:
        path: a YAML file, or the name of one of ``thesis_benchmarks``.

    Raises:
        InputError: no such file, an unknown key (the nearest is suggested), or a value that cannot be.
    """
    from lavin.training.config import load_config

    known = thesis_benchmarks()
    if str(path) in known:
        path = known[str(path)]
    elif not Path(path).is_file():
        raise InputError(unknown("benchmark", str(path), known) + "; or give a YAML file")
    return load_config(Benchmark, path, overrides)
