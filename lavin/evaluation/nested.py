"""The study of context length, answered: nested contexts are encoded once, and processes share the queries."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Generator, Tensor

from lavin import flow
from lavin.context import Example
from lavin.data.mixture import Episode
from lavin.evaluation import scenes
from lavin.evaluation.context_length import OTHER_TASK, SHUFFLED, Study, control_pairs, draw_question, shows
from lavin.evaluation.episodes import Row, noise_generator
from lavin.evaluation.predictions import encode, inference, reconstruct
from lavin.models.jdit import ConditionCache
from lavin.pipeline import LavinPipeline, draw_noise

REMEMBERED = 16_384
"""Latents of clips kept: 270 MB at 128 pixels."""


class RememberedLatents:
    """Encodes clips, and remembers the latents of those it saw last: scenes come back in many contexts.

    Args:
        capacity: most clips that it remembers.
    """

    def __init__(self, pipeline: LavinPipeline, capacity: int = REMEMBERED):
        self.pipeline, self.capacity = pipeline, capacity
        self._latents: OrderedDict[bytes, Tensor] = OrderedDict()

    def __call__(self, clips: Sequence[Tensor]) -> Tensor:
        """Latents of equally long clips, (clips, channels, latent_frames, height / 8, width / 8)."""
        keys = [blake2b(clip.numpy().tobytes(), digest_size=16).digest() for clip in clips]
        new = {key: clip for key, clip in zip(keys, clips, strict=True) if key not in self._latents}
        found = {key: self._latents[key] for key in keys if key not in new}
        if new:
            found |= zip(new, encode(self.pipeline, list(new.values())), strict=True)
        for key in keys:
            self._latents[key] = found[key]
            self._latents.move_to_end(key)
        while len(self._latents) > self.capacity:
            self._latents.popitem(last=False)
        return torch.stack([found[key] for key in keys])

    def pairs(self, contexts: Sequence[Sequence[Example]]) -> list[tuple[Tensor, Tensor]]:
        """(input, target) latents of every place in the context, the batch being the contexts."""
        return [
            (self([pair.input for pair in place]), self([pair.target for pair in place]))
            for place in zip(*contexts, strict=True)
        ]


def nested_caches(
    pipeline: LavinPipeline, pairs: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int]
) -> dict[int, ConditionCache | None]:
    """Length -> keys and values of so many pairs, each continuing the shorter one; None for a model that has none."""
    caches: dict[int, ConditionCache | None] = dict.fromkeys(lengths)
    if pipeline.jdit.config.attention == "causal":
        past, known = None, 0
        for length in lengths:
            halves = [half for pair in pairs[known:length] for half in pair]
            if halves:
                frames = [half.shape[2] for half in halves]
                past, known = pipeline.jdit.encode_condition(torch.cat(halves, dim=2), frames, past=past), length
            caches[length] = past
    return caches


class Runner:
    """Answers questions with one model.

    Args:
        folder: of the model, for what its training left out.
    """

    def __init__(self, pipeline: LavinPipeline, folder: Path, study: Study):
        self.pipeline, self.study = pipeline, study
        self.held_out = scenes.read_held_out(folder)
        self.pools = scenes.Pools(pipeline.config.sample_size, study.pool)
        self.latents = RememberedLatents(pipeline)

    def predict(
        self, episodes: Sequence[Episode], noise: Sequence[Generator], rngs: Sequence[np.random.Generator]
    ) -> dict[str, list[Tensor]]:
        """Length or control -> predicted targets of a batch, all from the same noise.

        Args:
            noise: generators, one an episode.
            rngs: draw the controls.
        """
        study, pipeline = self.study, self.pipeline
        frames, predicted = episodes[0].target.shape[1], {}
        with inference(pipeline, study.precision):
            pairs = self.latents.pairs([episode.pairs for episode in episodes])
            query = self.latents([episode.query.input for episode in episodes])
            start = draw_noise(query, noise, ensemble_size=1, frames=pairs[0][1].shape[2])
            grid = flow.time_grid(pipeline.config.time_grid, study.steps).to(pipeline.device)

            def answer(name: str, pairs, cache: ConditionCache | None = None) -> None:
                guidance = study.guidance_scale if pairs else 1  # without pairs both passes would be one
                latents = pipeline.solve(pairs, query, start, grid, guidance, pairs_cache=cache)
                predicted[name] = pipeline.decode(latents, frames, ensemble_size=1)

            for length, cache in nested_caches(pipeline, pairs, study.lengths).items():
                answer(str(length), pairs[:length], cache)
            if study.control_length is not None:
                vocabulary = self.pools.of(episodes[0].task).vocabulary
                controls = [
                    control_pairs(episode, study.control_length, rng, vocabulary)
                    for episode, rng in zip(episodes, rngs, strict=True)
                ]
                for name in (OTHER_TASK, SHUFFLED):
                    answer(name, self.latents.pairs([control[name] for control in controls]))
        return predicted

    def records(self, row: Row, context: int, indices: Sequence[int]) -> list[dict[str, Any]]:
        """One record a question, one batch: ``scores`` by the task's metric of that query alone, and ``shown``, the
        lengths at which the pairs show all that the query's target uses."""
        study, pool = self.study, self.pools.of(row.task)
        seeds = (study.seed, crc32(row.name.encode()))
        episodes = [draw_question(pool, row, study, index, context, self.held_out) for index in indices]
        noise = [noise_generator(study.seed, row.name, index) for index in indices]
        rngs = [np.random.default_rng((*seeds, index, 3, context)) for index in indices]
        predicted = self.predict(episodes, noise, rngs)
        predicted["code"] = [episode.target for episode in episodes]
        predicted["tokenizer"] = reconstruct(self.pipeline, predicted["code"], study.precision)
        found = []
        for number, (index, episode) in enumerate(zip(indices, episodes, strict=True)):
            scored = {name: score(episode, clips[number]) for name, clips in predicted.items()}
            shown = [length for length in study.lengths if length and shows(episode, length)]
            found.append({"task": row.name, "query": index, "context": context, "scores": scored, "shown": shown})
        return found


def score(episode: Episode, clip: Tensor) -> float | None:
    """The task's metric of one query alone; None where it has nothing to score."""
    task = episode.task
    value = float(task.metric().score(task.read(clip, episode.definition), episode.truth))
    return value if math.isfinite(value) else None


# --- The run ----------------------------------------------------------------------------------------------------------

Chunk = tuple[str, int, tuple[int, ...]]
"""Row, context and queries of one batch."""


def chunks(rows: Sequence[Row], queries: int, contexts: int, batch: int, done: Sequence[dict[str, Any]]) -> list[Chunk]:
    """What is left to do; the rows take turns, so that a study cut short has as much of each."""
    have = {(record["task"], record["context"], record["query"]) for record in done}
    left = [
        (row.name, context, tuple(index for index in indices if (row.name, context, index) not in have))
        for context in range(contexts)
        for indices in (range(at, min(at + batch, queries)) for at in range(0, queries, batch))
        for row in rows
    ]
    return [chunk for chunk in left if chunk[2]]


def answers(work: Sequence[Chunk], folder: Path, study: Study, device: str, workers: int = 1) -> Iterator[list[dict]]:
    """Records of each chunk as it is done.

    Args:
        folder: the model's.
        workers: processes that share the work, each with a model of its own; 1 is this process. The cores are shared
            out among them.
    """
    if workers == 1 or len(work) < 2:
        start_worker(folder, study, device, None)
        yield from map(work_on, work)
        return
    cores = max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), start_worker, (folder, study, device, cores)) as pool:
        try:
            for future in as_completed([pool.submit(work_on, chunk) for chunk in work]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_runner: Runner | None = None
"""Of this process, so that a worker loads its model and renders its scenes once."""


def start_worker(folder: Path, study: Study, device: str, threads: int | None) -> None:
    global _runner
    if threads is not None:
        torch.set_num_threads(threads)
    pipeline = LavinPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    _runner = Runner(pipeline, folder, study)


def work_on(chunk: Chunk) -> list[dict[str, Any]]:
    name, context, indices = chunk
    (row,) = scenes.task_rows([name])
    return _runner.records(row, context, indices)
