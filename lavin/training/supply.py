"""What the J-DiT trains on: latents of contexts for every bucket, cached before training or streamed during it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavin.data.mixture import Pool
from lavin.data.stream import ContextStream
from lavin.encoded import fingerprint
from lavin.errors import InputError
from lavin.models.stvae import STVAE
from lavin.training.buckets import BatchPlan, Bucket, plan_batch
from lavin.training.config import PretrainConfig, to_dict
from lavin.training.latents import LatentCache, build_cache, load_or_build
from lavin.training.signals import deaf_to_interrupts
from lavin.training.streaming import LatentRing, shares

BUCKET_SEEDS = 1_000_003
"""Between the seeds of two buckets, so that they do not show the same contexts in two shapes."""


def cached(config: PretrainConfig, bucket: Bucket, stvae: STVAE, folder: Path, split: str) -> LatentCache:
    """Latents of a split's contexts on scenes; built once and found again by what they depend on.

    Raises:
        InputError: too few scenes for some task.
    """
    cache, scenes = config.cache, bucket.scenes
    training = split == "train"
    contexts = bucket.contexts if training else bucket.validation_contexts
    count = scenes.train_scenes if training else scenes.validation_scenes
    tasks, seed = bucket.tasks.on_scenes(scenes), config.run.seed + BUCKET_SEEDS * bucket.number
    key = {
        "tasks": list(tasks.probabilities()),
        "config": [to_dict(tasks), cache.pairs, contexts, count, to_dict(scenes)],
        "split": split,
        "seed": seed,
        "precision": config.run.precision,
        "stvae": [fingerprint(stvae), stvae.config.shift, stvae.config.scale],
    }

    def build() -> LatentCache:
        pool = Pool(scenes.source(split), range(count))
        try:
            return build_cache(stvae, pool, tasks, contexts, cache.pairs, seed, config.run.precision)
        except ValueError as error:
            raise InputError(
                f"bucket {bucket.name}, {count} scenes of {split}: {error}; raise scenes.*_scenes"
            ) from error

    return load_or_build(folder / f"latents-{split}", key, build)


class Supply:
    """Batches of every bucket.

    Args:
        folder: of the run; its caches lie there.
        step: the first that will be trained.
        rank, ranks: this process among those that train.
    """

    def __init__(
        self,
        config: PretrainConfig,
        buckets: list[Bucket],
        stvae: STVAE,
        folder: Path,
        step: int,
        rank: int,
        ranks: int,
    ):
        self.config, self.rank, self.ranks = config, rank, ranks
        self.streams = config.stream.workers > 0
        if self.streams:
            workers = share_out(config.stream.workers, [bucket.share for bucket in buckets])
            drawn = steps_of(config, buckets, step)
            self.contexts = [self.stream(*each, stvae) for each in zip(buckets, workers, drawn, strict=True)]
        else:
            self.contexts = [cached(config, bucket, stvae, folder, "train") for bucket in buckets]

    def stream(self, bucket: Bucket, workers: int, steps: int, stvae: STVAE) -> LatentRing:
        """Latents of contexts that workers draw from now on: a resumed run goes on with ones that it has not seen.

        Args:
            steps: that drew from it before.
        """
        config, stream = self.config, self.config.stream
        source = ContextStream(
            shares(bucket.scenes, bucket.tasks, stream, config.photos),
            list(bucket.tasks.probabilities()),
            config.cache.pairs,
            config.tasks.held_out(),
            config.run.seed + BUCKET_SEEDS * bucket.number,
            stream.batch,
            first=steps * config.run.accumulation * self.fresh(bucket) // stream.batch,
            rank=self.rank,
            ranks=self.ranks,
        )
        with deaf_to_interrupts():
            ring = LatentRing(stvae, source, workers, bucket.contexts, config.run.precision)
        ring.advance(min(bucket.batch_size, bucket.contexts))
        return ring

    def fresh(self, bucket: Bucket) -> int:
        """New contexts a batch of a bucket: as many of each sequence as in the others, whole batches of a worker."""
        stream = self.config.stream
        wanted = stream.fresh * bucket.batch_size / self.config.run.batch_size
        return max(1, round(wanted / stream.batch)) * stream.batch

    def batch(self, plan: BatchPlan, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Condition, targets and task ids of a batch, as ``LatentCache.sequences``."""
        contexts = self.contexts[plan.bucket.number]
        if self.streams:
            contexts.advance(self.fresh(plan.bucket))
        return contexts.sequences(rng, plan.bucket.batch_size, plan.pairs)

    def logs(self) -> dict[str, Tensor]:
        """How many damaged samples workers of this rank left out; nothing without streams, whose scenes are drawn."""
        if not self.streams:
            return {}
        return {"damaged_samples": torch.tensor(float(sum(len(contexts.damaged) for contexts in self.contexts)))}


def steps_of(config: PretrainConfig, buckets: list[Bucket], step: int) -> list[int]:
    """How many of the steps before ``step`` drew each bucket."""
    if len(buckets) == 1:
        return [step]
    drawn = [plan_batch(config, buckets, earlier).bucket.number for earlier in range(step)]
    return [drawn.count(number) for number in range(len(buckets))]


def share_out(workers: int, shares: list[float]) -> list[int]:
    """Workers of each share: one, and of the rest as many as it is due, largest claims first."""
    given = [1] * len(shares)
    for _ in range(workers - len(shares)):
        claims = [share * workers - count for share, count in zip(shares, given, strict=True)]
        given[claims.index(max(claims))] += 1
    return given
