"""Seconds a picture takes, by mode, model, resolution and number of pairs, all in one run.

    python eval/latency.py                                           # lavin-tiny
    python eval/latency.py --models 0.1b --resolutions 256 --pairs 1,2,4,8,16
    python eval/latency.py --models 3.4b --resolutions 256,320,384,448,512 --pairs 8 --device cuda --repeats 10

Modes: exact, default and fast are a call's ``speed``; saved is default with a context encoded beforehand, of which
only the query is left to do. A picture is encoded, sampled with guidance 1.5, and decoded. Presets have random weights.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lavin import flow
from lavin.bundled import bundled_models
from lavin.cli import run
from lavin.cli_infer import find_device
from lavin.errors import InputError
from lavin.evaluation import cost
from lavin.io import check_free, write_bytes
from lavin.pictures import Picture
from lavin.pipeline import LavinPipeline, draw_noise
from lavin.speed import SPEEDS
from lavin.suggest import unknown

MODES = (*SPEEDS, "saved")
GUIDANCE = 1.5

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def latency(
    models: Annotated[
        str, typer.Option(help="Bundled models and presets: lavin-tiny, 0.1b, 1.0b, 3.4b.")
    ] = "lavin-tiny",
    resolutions: Annotated[str, typer.Option(help="Sides in pixels, of presets.")] = "256",
    pairs: Annotated[str, typer.Option(help="Numbers of pairs.")] = "0,1,2,4,8,16",
    modes: Annotated[str, typer.Option(help="Of exact, default, fast, saved.")] = ",".join(MODES),
    attention: Annotated[str, typer.Option(help="Of presets: full or causal.")] = "full",
    steps: Annotated[int, typer.Option(help="Points of the time grid; one more than solver steps.")] = 20,
    warmups: Annotated[int, typer.Option(help="Runs before the timed ones.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed runs.")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON to write.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Print a table of medians, and how time grows with the number of pairs."""
    if out is not None:
        check_free(out, force)
    chosen = [name.strip() for name in modes.split(",")]
    for mode in chosen:
        if mode not in MODES:
            raise InputError(unknown("mode", mode, MODES))
    sides, numbers = ([int(value) for value in text.split(",")] for text in (resolutions, pairs))
    place, results = find_device(device), []
    print(f"{'model':<12}{'mode':<9}{'side':>6}{'pairs':>6}{'median s':>10}{'spread':>9}", end="")
    print(f"{'faster':>8}{'matmul':>8}{'MiB':>8}")
    for name in models.split(","):
        for side in [None] if name in bundled_models() else sides:
            pipeline = load(name.strip(), side, attention).to(place)
            rate = cost.matmul_rate(place, pipeline.jdit.dtype)
            for number in numbers:
                rows = [measure(pipeline, name, mode, number, steps, warmups, repeats, rate) for mode in chosen]
                exact = [row["seconds"] for row in rows if row["mode"] == "exact"]
                for row in rows:
                    row["speedup_over_exact"] = exact[0] / row["seconds"] if exact else None
                    print_row(row)
                results += rows
    for line in growth(results):
        print(line)
    if out is not None:
        machine = {
            "device": torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        }
        content = {"machine": machine, "guidance": GUIDANCE, "results": results}
        typer.echo(write_bytes(out, (json.dumps(content, indent=1) + "\n").encode(), force))


def load(name: str, resolution: int | None, attention: str) -> LavinPipeline:
    """A bundled model at its own size, or a preset with random weights."""
    if name in bundled_models():
        pipeline = LavinPipeline.from_pretrained(name)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
    if name not in cost.PRESETS:
        raise InputError(unknown("model", name, [*bundled_models(), *cost.PRESETS]))
    return cost.random_pipeline(name, resolution, attention=attention)


def measure(
    pipeline: LavinPipeline, name: str, mode: str, pairs: int, steps: int, warmups: int, repeats: int, rate: float
) -> dict[str, Any]:
    """One row: the median of some runs."""
    call = prepare(pipeline, mode, pairs, steps)
    with FlopCounterMode(display=False) as flops:
        call()
    for _ in range(warmups - 1):
        call()
    cost.reset_peak(pipeline.device)
    seconds = [timed(call, pipeline.device) for _ in range(repeats)]
    median = statistics.median(seconds)
    return {
        "preset": name,
        "mode": mode,
        "attention": pipeline.jdit.config.attention,
        "resolution": pipeline.config.sample_size,
        "pairs": pairs,
        "steps": steps,
        "seconds": median,
        "seconds_spread": max(seconds) - min(seconds),
        "flops": flops.get_total_flops(),
        "matmul_share": flops.get_total_flops() / median / rate,
        "peak_memory_bytes": cost.peak_bytes(pipeline.device),
    }


def timed(call: Callable[[], Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@torch.no_grad()
def prepare(pipeline: LavinPipeline, mode: str, pairs: int, steps: int) -> Callable[[], Tensor]:
    """A picture, ready to be computed: of mode ``saved`` the context is encoded here, before the clock starts."""
    side = pipeline.config.sample_size
    generator = torch.Generator().manual_seed(0)
    pictures = [Picture(torch.rand(1, 3, side, side, generator=generator) * 2 - 1) for _ in range(2 * pairs + 1)]
    grid = flow.time_grid(pipeline.config.time_grid, steps).to(pipeline.device)
    encoded = None
    if mode == "saved" and pairs:
        halves = [picture.frames.transpose(0, 1) for picture in pictures[:-1]]
        encoded = pipeline.encode_context(list(zip(halves[::2], halves[1::2], strict=True)))

    @torch.no_grad()
    def call() -> Tensor:
        if encoded is None:
            latents = [pipeline.encode(picture) for picture in pictures[:-1]]
            context, cache = list(zip(latents[::2], latents[1::2], strict=True)), None
        else:
            context, cache = encoded.latents, encoded.cache
        query = pipeline.encode(pictures[-1])
        noise = draw_noise(query, [torch.Generator().manual_seed(1)], 1)
        speed = SPEEDS["default" if mode == "saved" else mode]
        return pipeline.decode(pipeline.solve(context, query, noise, grid, GUIDANCE, speed, cache), 1, 1)[0]

    return call


def print_row(row: dict[str, Any]) -> None:
    faster = "" if row["speedup_over_exact"] is None else f"{row['speedup_over_exact']:.2f}x"
    print(
        f"{row['preset']:<12}{row['mode']:<9}{row['resolution']:>6}{row['pairs']:>6}{row['seconds']:>10.3f}"
        f"{row['seconds_spread']:>9.3f}{faster:>8}{row['matmul_share']:>8.1%}{row['peak_memory_bytes'] / 2**20:>8.0f}",
        flush=True,
    )


def growth(results: list[dict[str, Any]]) -> list[str]:
    """Exponents of time against pairs (seconds ~ pairs^a), by least squares on logarithms over 1 pair and more."""
    lines = []
    series: dict[tuple, list[tuple[int, float]]] = {}
    for row in results:
        if row["pairs"]:
            key = (row["preset"], row["resolution"], row["mode"])
            series.setdefault(key, []).append((row["pairs"], row["seconds"]))
    for (name, side, mode), points in series.items():
        if len(points) > 1:
            x, y = zip(*((math.log(pairs), math.log(seconds)) for pairs, seconds in points), strict=True)
            slope = statistics.linear_regression(x, y).slope
            lines.append(f"{name} at {side}, {mode}: seconds grow as pairs^{slope:.2f}")
    return lines


if __name__ == "__main__":
    sys.exit(run(app, "latency.py"))
