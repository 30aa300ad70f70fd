"""Episodes of benchmarks on public data sets: queries of a list, pairs from a pool, truth at the picture's own size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lavin.data.mixture import Episode
from lavin.data.sample import Instance, Sample
from lavin.errors import InputError
from lavin.evaluation.baselines import NAMED, biharmonic, nl_means, skimage_restoration
from lavin.evaluation.benchmarks import Benchmark, DataConfig, eval_dir
from lavin.evaluation.episodes import Row, Settings, episode_rng
from lavin.evaluation.framing import frame
from lavin.evaluation.measures import find_measure
from lavin.evaluation.predictors import Predictor
from lavin.io import SUFFIXES
from lavin.labels import find_task
from lavin.suggest import unknown
from lavin.tasks import Definition
from lavin.tasks.captions import CaptionDefinition, ReferringCaptionTask
from lavin.tasks.selection import Selection


@dataclass(kw_only=True)
class PublicEpisode(Episode):
    """An episode whose query is known at its own size too, where its labels are scored."""

    original: Sample
    scored: str = "whole"
    """Outside this crop of the original nothing is scored, see ``lavin.evaluation.framing``."""


class EveryExpression(ReferringCaptionTask):
    """Referring segmentation as benchmarks count it: the first object is meant, whatever its size and the others."""

    def asked(self, sample: Sample, definition: CaptionDefinition) -> tuple[Instance, str]:
        return sample.instances[0], sample.instances[0].expressions[0]


# --- Data -------------------------------------------------------------------------------------------------------------


class Joined(Sequence):
    """Splits of one data set, one after the other."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = parts
        self.names = [f"{part.split}/{name}" for part in parts for name in part.names]
        self.vocabulary = parts[0].vocabulary
        self.places = [(part, index) for part in parts for index in range(len(part))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        part, place = self.places[index]
        return part[place]

    def files(self, index: int) -> list[Path]:
        part, place = self.places[index]
        return part.files(place)


def open_data(chosen: DataConfig, data: Path, dataset: str) -> Any:
    """A configuration's samples; a split ``a+b`` is both.

    Raises:
        InputError: the folder is not there, or does not hold the data set.
    """
    from lavin.data.public import open_dataset

    folder = data / chosen.root
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {dataset} is looked for there, below --data {data}")
    options = {name: fill_in(value, data) for name, value in chosen.options.items()}
    splits = [None] if chosen.split is None else chosen.split.split("+")
    parts = [open_dataset(dataset, folder, split, **options) for split in splits]
    return parts[0] if len(parts) == 1 else Joined(parts)


def fill_in(value: Any, data: Path) -> Any:
    return value.replace("{data}", str(data)) if isinstance(value, str) else value


def picture_key(data: Any, index: int) -> str:
    """What tells pictures apart, whatever is asked of them: the picture's file where each has one, else the name."""
    (first, *_) = data.files(index)
    return str(first) if first.name.lower().endswith(SUFFIXES) else data.names[index]


def list_hash(names: Sequence[str]) -> str:
    """Of a list of names, one a line."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


# --- Episodes ---------------------------------------------------------------------------------------------------------


class Questions:
    """The episodes of one benchmark, each a function of (benchmark, seed, index).

    Contexts are nested: with more pairs the first ones, the query and its noise stay.

    Args:
        benchmark: one row of it.
        data: ``--data``.

    Raises:
        InputError: the data is not there, or lacks what the benchmark names.
    """

    def __init__(self, name: str, benchmark: Benchmark, data: Path):
        self.name, self.benchmark = name, benchmark
        self.task = EveryExpression() if benchmark.task == ReferringCaptionTask.name else find_task(benchmark.task)
        queries, pool = benchmark.queries, benchmark.pool
        self.queries = open_data(queries, data, queries.dataset)
        merged = replace(pool, root=pool.root or queries.root)
        self.pool = open_data(merged, data, pool.dataset or queries.dataset)
        self.order = self.choose()

    def choose(self) -> list[int]:
        """Positions of the samples that are asked about, in their order."""
        chosen, names = self.benchmark.queries, self.queries.names
        if chosen.names is not None:
            path = eval_dir() / chosen.names
            path = path if path.is_file() else Path(chosen.names)
            if not path.is_file():
                raise InputError(f"benchmark {self.name}: queries.names: {path}: no such file")
            places = {name: index for index, name in enumerate(names)}
            wanted = path.read_text().split()
            missing = [name for name in wanted if name not in places]
            if missing:
                raise InputError(
                    f"{chosen.names}: {len(missing)} of its {len(wanted)} names are not in the data, "
                    f"the first is {missing[0]}"
                )
            return [places[name] for name in wanted]
        if chosen.draw_seed is not None:
            return np.random.default_rng(chosen.draw_seed).permutation(len(names)).tolist()
        return list(range(len(names)))

    def __len__(self) -> int:
        return self.benchmark.queries.count or len(self.order)

    @cached_property
    def pool_by_class(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index in range(len(self.pool)):
            found.setdefault(self.pool.class_of(index), []).append(index)
        return found

    def draw(self, index: int, seed: int | None = None) -> PublicEpisode:
        """The ``index``-th question.

        Args:
            seed: of pairs, definition and degradations; None for the benchmark's first.

        Raises:
            InputError: the pool has too few pictures.
        """
        benchmark, number = self.benchmark, self.order[index % len(self.order)]
        rng = episode_rng(benchmark.seeds[0] if seed is None else seed, self.name, index)
        class_name = self.queries.class_of(number) if benchmark.same_class else None
        definition = self.define(rng, class_name)
        candidates = self.pool_by_class.get(class_name, []) if benchmark.same_class else range(len(self.pool))
        chosen = self.choose_pairs(rng, candidates, picture_key(self.queries, number), class_name)
        original = self.queries[number]
        query, *pairs = (self.frame(sample) for sample in [original, *(self.pool[place] for place in chosen)])
        examples = [self.task.example(sample, definition, rng) for sample in [query, *pairs]]
        known = {"original": original, "scored": benchmark.scored}
        return PublicEpisode(self.task, definition, examples[1:], examples[0], pairs, query, **known)

    def frame(self, sample: Sample) -> Sample:
        try:
            return frame(sample, self.benchmark.crop, self.benchmark.resolution)
        except InputError as error:
            raise InputError(f"{sample.id}: {error}") from error

    def define(self, rng: np.random.Generator, class_name: str | None) -> Definition:
        """The task's standard definition with the benchmark's changes, about the query's class if there is one."""
        kind, changes = self.task.definition_type, self.benchmark.definition
        if strange := [key for key in changes if key not in {field.name for field in fields(kind)}]:
            raise InputError(
                unknown(f"field of {self.task.name}'s definition", strange[0], (f.name for f in fields(kind)))
            )
        if issubclass(kind, Selection):
            return kind(**{"class_name": class_name, **changes})
        return replace(self.task.draw_definition(rng, self.queries.vocabulary, evaluation=True), **changes)

    def choose_pairs(
        self, rng: np.random.Generator, candidates: Sequence[int], query: str, class_name: str | None
    ) -> list[int]:
        """Positions in the pool: random pictures, all different, none the query's."""
        used, chosen = {query}, []
        for place in rng.permutation(len(candidates)):
            key = picture_key(self.pool, candidates[place])
            if key not in used:
                used.add(key)
                chosen.append(int(candidates[place]))
            if len(chosen) == self.benchmark.pairs:
                return chosen
        of_class = f" of class '{class_name}'" if class_name else ""
        raise InputError(
            f"benchmark {self.name}: the pool has {len(chosen)} other pictures{of_class}, not {self.benchmark.pairs}; "
            "take fewer pairs"
        )

    def row(self) -> Row:
        """What is scored, beside which baselines."""
        benchmark, task = self.benchmark, self.task
        if strange := [name for name in benchmark.baselines if name not in NAMED]:
            raise InputError(unknown("baseline", strange[0], NAMED))
        methods = {name: NAMED[name] for name in benchmark.baselines}
        if {biharmonic, nl_means} & set(methods.values()):
            skimage_restoration()
        scores = tuple(
            find_measure(
                task.name, name, first=benchmark.first.get(name), published=dict(benchmark.published.get(name, {}))
            )
            for name in benchmark.metrics
        )
        return Row(self.name, task, baselines=methods, scores=scores)

    def describe(self, scored: int, tasks_seen: Sequence[str] | None) -> dict[str, Any]:
        """The benchmark with what its lists hold, for the report.

        Args:
            scored: how many of the queries are.
            tasks_seen: what the model's training drew; None where it does not say.
        """
        asked = [self.queries.names[number] for number in self.order]
        found = self.benchmark.to_dict()
        found["queries"] |= {"n": len(self), "scored": scored, "samples": len(asked), "list_sha256": list_hash(asked)}
        found["pool"] |= {"samples": len(self.pool), "list_sha256": list_hash(self.pool.names)}
        return found | {"task_seen": None if tasks_seen is None else self.task.name in tasks_seen}


def settings_of(benchmark: Benchmark, queries: int, batch: int, precision: str) -> Settings:
    """How a benchmark's rows are run."""
    return Settings(
        queries=queries,
        pairs=benchmark.pairs,
        steps=benchmark.steps,
        guidance_scale=benchmark.guidance,
        seeds=tuple(benchmark.seeds),
        batch=batch,
        precision=precision,
    )


def check_resolution(predictor: Predictor, benchmark: Benchmark) -> None:
    """Refuse a model that does not work at the benchmark's size.

    Raises:
        InputError: naming both sizes.
    """
    side = predictor.resolution
    if side is not None and side != benchmark.resolution:
        raise InputError(
            f"benchmark {benchmark.name} is scored at {benchmark.resolution} px and model {predictor.name} works at "
            f"{side}; give --resolution {side} for numbers that stand beside no published ones, or another model"
        )
