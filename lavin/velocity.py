"""The velocity that a sampler follows: given pairs and a query, with guidance, and with what ``Speed`` spares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lavin import flow
from lavin.context import condition, unconditional
from lavin.flow import Velocity
from lavin.models.jdit import ConditionCache, JDiT
from lavin.speed import Speed

Pairs = Sequence[tuple[Tensor, Tensor]]
"""(input, target) latents, each of batch 1, the same context for every query; or of the queries' batch."""


def guided_velocity(
    jdit: JDiT,
    pairs: Pairs,
    query: Tensor,
    guidance_scale: float,
    speed: Speed,
    pairs_cache: ConditionCache | None = None,
) -> Velocity:
    """(x, t) -> guided velocity of the queries' targets.

    Where both conditions are cached, the passes with and without pairs run as one batch: on a small model a fifth
    faster than one after the other, on a larger one as fast.

    Args:
        query: latents, (batch, channels, latent_frames, height, width).
        guidance_scale: 1 skips the pass without pairs.
        pairs_cache: keys and values of the pairs, where a causal model encoded them earlier.
    """
    with_pairs = velocity(jdit, pairs, query, speed, pairs_cache)
    if guidance_scale == 1:
        return with_pairs
    without_pairs = velocity(jdit, [], query, speed)
    together = isinstance(with_pairs, CachedVelocity) and isinstance(without_pairs, CachedVelocity)
    low, high = speed.guidance_interval

    def guided(x: Tensor, t: Tensor) -> Tensor:
        if not low <= t[0] <= high:
            return with_pairs(x, t)
        slopes = with_pairs.beside(without_pairs, x, t) if together else (with_pairs(x, t), without_pairs(x, t))
        return flow.guide(*slopes, guidance_scale)

    return guided


def velocity(
    jdit: JDiT, pairs: Pairs, query: Tensor, speed: Speed, pairs_cache: ConditionCache | None = None
) -> Velocity:
    """(x, t) -> velocity of the queries' targets; without pairs, as guidance needs it.

    A causal model then sees the query alone, as its first target does in training; a full one sees a zero frame
    before it (release).
    """
    causal = jdit.config.attention == "causal"
    halves = [half for pair in pairs for half in pair]
    clip_frames = [half.shape[2] for half in halves]
    if causal and speed.cached:
        if pairs and pairs_cache is None:
            pairs_cache = jdit.encode_condition(torch.cat(halves, dim=2), clip_frames)
        return CachedVelocity(jdit, jdit.encode_condition(query, [query.shape[2]], past=pairs_cache))
    clip_frames = [*clip_frames, query.shape[2]]
    sequence = condition([[half.expand(len(query), -1, -1, -1, -1) for half in halves]], query)
    if not pairs and not causal:
        clip_frames, sequence = [1, *clip_frames], unconditional(query)
    if causal or speed.refresh == 1:
        return lambda x, t: jdit(x, t, sequence, clip_frames=clip_frames).float()
    return refreshed_velocity(jdit, sequence, clip_frames, speed.refresh)


@dataclass
class CachedVelocity:
    """The velocity given a condition that was encoded once."""

    jdit: JDiT
    cache: ConditionCache

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.jdit(x, t, cache=self.cache).float()

    def beside(self, other: CachedVelocity, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """This velocity and another of the same model, in one pass."""
        return self.jdit(x.repeat(2, 1, 1, 1, 1), t.repeat(2), cache=[self.cache, other.cache]).float().chunk(2)


def refreshed_velocity(jdit: JDiT, sequence: Tensor, clip_frames: list[int], every: int | None) -> Velocity:
    """The velocity of a full model that computes the condition at every ``every``-th call only, or at the first."""
    calls, cache = 0, None

    def found(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls, cache
        if cache is None or (every is not None and calls % every == 0):
            slope, cache = jdit(x, t, sequence, clip_frames=clip_frames, return_cache=True)
        else:
            slope = jdit(x, t, cache=cache)
        calls += 1
        return slope.float()

    return found
