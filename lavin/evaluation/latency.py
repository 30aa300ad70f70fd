"""How long a picture takes, part by part: modes of a pipeline, and an autoregressive transformer beside it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from lavin import flow
from lavin.evaluation import autoregressive, cost
from lavin.pictures import Picture
from lavin.pipeline import LavinPipeline, draw_noise
from lavin.speed import EXACT, SPEEDS, Speed

MODES = (*SPEEDS, "latents", "saved", "autoregressive")
"""``latents``: exact, with the ST-VAE's latents of the pairs at hand. ``saved``: default, with an encoded context."""
PARTS = ("encode", "sample", "decode")


@dataclass
class Clock:
    """Seconds of each part of one run."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = time.perf_counter() - start


Run = Callable[[Clock], Tensor]


def find_steps(mode: str, steps: int | None) -> int:
    """Points of the time grid: as asked for, or the mode's own."""
    return steps or SPEEDS.get("default" if mode == "saved" else mode, EXACT).num_inference_steps


@torch.no_grad()
def prepare(pipeline: LavinPipeline, mode: str, pairs: int, steps: int | None, guidance: float) -> Run:
    """A picture, ready to be computed; what a mode has at hand is computed here, before the clock starts.

    Args:
        steps: None for the mode's own.
    """
    side, device = pipeline.config.sample_size, pipeline.device
    if mode == "autoregressive":
        return prepare_autoregressive(pipeline, pairs)
    generator = torch.Generator().manual_seed(0)
    pictures = [Picture(torch.rand(1, 3, side, side, generator=generator) * 2 - 1) for _ in range(2 * pairs + 1)]
    grid = flow.time_grid(pipeline.config.time_grid, find_steps(mode, steps)).to(device)
    speed: Speed = SPEEDS[{"saved": "default", "latents": "exact"}.get(mode, mode)]
    encoded = None
    if pairs and mode in ("saved", "latents"):
        halves = [picture.frames.transpose(0, 1) for picture in pictures[:-1]]
        encoded = pipeline.encode_context(list(zip(halves[::2], halves[1::2], strict=True)))

    @torch.no_grad()
    def run(clock: Clock) -> Tensor:
        with clock.part("encode"):
            if encoded is None:
                *latents, query = pipeline.encode(pictures)
                context = list(zip(latents[::2], latents[1::2], strict=True))
            else:
                context, [query] = encoded.latents, pipeline.encode(pictures[-1:])
        cache = encoded.cache if encoded is not None and mode == "saved" else None
        with clock.part("sample"):
            noise = draw_noise(query, [Generator().manual_seed(1)], 1)
            latent = pipeline.solve(context, query, noise, grid, guidance, speed, cache)
        with clock.part("decode"):
            return pipeline.decode(latent, 1, 1)[0]

    return run


def prepare_autoregressive(pipeline: LavinPipeline, pairs: int) -> Run:
    """A transformer as large as the pipeline's J-DiT, at its size; pairs and query are its prompt."""
    jdit = pipeline.jdit
    parameters = sum(parameter.numel() for parameter in jdit.parameters())
    model = autoregressive.build(
        parameters,
        jdit.config.hidden_size,
        jdit.config.num_heads,
        pipeline.config.sample_size,
        pipeline.device,
        jdit.dtype,
    )

    @torch.no_grad()
    def run(clock: Clock) -> Tensor:
        with clock.part("encode"):
            cache, token = model.prefill(2 * pairs + 1)
        with clock.part("sample"):
            tokens = model.generate(cache, token)
        with clock.part("decode"):
            return model.decode(tokens)[0].float().cpu()

    return run


def measure(
    pipeline: LavinPipeline,
    name: str,
    mode: str,
    pairs: int,
    steps: int | None,
    guidance: float,
    warmups: int,
    repeats: int,
    rate: float,
) -> dict[str, Any]:
    """One row: medians of some runs.

    Args:
        rate: operations a second of this device's matrix products, in the same run.
    """
    run, device = prepare(pipeline, mode, pairs, steps, guidance), pipeline.device
    with cost.operation_counter() as flops:
        run(Clock(device))
    for _ in range(warmups - 1):
        run(Clock(device))
    cost.reset_peak(device)
    runs = []
    for _ in range(repeats):
        clock = Clock(device)
        run(clock)
        runs.append(clock.seconds)
    totals = [sum(parts.values()) for parts in runs]
    seconds = statistics.median(totals)
    low, _, high = statistics.quantiles(totals, n=4, method="inclusive") if len(totals) > 1 else [seconds] * 3
    return {
        "preset": name,
        "mode": mode,
        "attention": pipeline.jdit.config.attention,
        "resolution": pipeline.config.sample_size,
        "pairs": pairs,
        "steps": None if mode == "autoregressive" else find_steps(mode, steps),
        "guidance": None if mode == "autoregressive" else guidance,
        "seconds": seconds,
        "quartiles": [low, high],
        "parts": {part: statistics.median(parts[part] for parts in runs) for part in PARTS},
        "flops": flops.get_total_flops(),
        "matmul_share": flops.get_total_flops() / seconds / rate,
        "peak_memory_bytes": cost.peak_bytes(device),
    }


def context_bytes(pipeline: LavinPipeline) -> int:
    """Bytes of one pair in a saved context."""
    side = pipeline.config.sample_size
    pair = tuple(torch.rand(3, 1, side, side) * 2 - 1 for _ in range(2))
    return pipeline.encode_context([pair]).num_bytes


def growth(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponents of time against pairs (seconds ~ pairs^a), by least squares on logarithms over 1 pair and more."""
    found = []
    series: dict[tuple, list[tuple[int, float]]] = {}
    for row in results:
        if row["pairs"]:
            key = (row["preset"], row["resolution"], row["guidance"], row["mode"])
            series.setdefault(key, []).append((row["pairs"], row["seconds"]))
    for (name, side, guidance, mode), points in series.items():
        if len(points) > 1:
            x, y = zip(*((math.log(pairs), math.log(seconds)) for pairs, seconds in points), strict=True)
            exponent = statistics.linear_regression(x, y).slope
            found.append({"preset": name, "resolution": side, "guidance": guidance, "mode": mode, "exponent": exponent})
    return found
