"""What a setting of the sampler costs and loses: time grids, solvers, guidance, on a model's held-out scenes.

    python eval/sampling.py [--model lavin-tiny] [--tasks depth,foreground] [--queries 16] [--out FILE]

For each setting: calls of the network a query, the error of the latents to a 100-step reference (root mean square; the
latents' own is about 1; of the default's guidance only), and each task's metric.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor

from lavin import flow
from lavin.bundled import find_model
from lavin.cli import run
from lavin.cli_infer import find_device
from lavin.evaluation import report, scenes
from lavin.evaluation.episodes import Settings, draw_episode, noise_generator
from lavin.evaluation.predictions import encode
from lavin.io import check_free, write_bytes
from lavin.pipeline import LavinPipeline, draw_noise
from lavin.speed import SPEEDS

TASKS = "foreground,semantic,detection,depth,normals,edges,colorization,denoising"
REFERENCE_POINTS = 102
BATCH = 8

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Setting:
    """One way to sample."""

    points: int = 20
    grid: str = "linear_quadratic"
    method: str = "euler"
    guidance: float = 1.5
    until: float = 1.0
    """Flow time after which guidance is left out."""

    @property
    def name(self) -> str:
        text = f"{self.points} {self.grid} {self.method}, guidance {self.guidance:g}"
        return text if self.until == 1 else f"{text} until {self.until:g}"


SETTINGS = (
    Setting(),
    *(Setting(points) for points in (4, 6, 8, 10, 14, 30)),
    *(Setting(points, "uniform") for points in (4, 6, 10, 20)),
    *(Setting(points, method="midpoint") for points in (4, 6, 10)),
    *(Setting(points, "uniform", "midpoint") for points in (3, 6)),
    *(Setting(until=until) for until in (0.2, 0.5)),
    *(Setting(guidance=scale) for scale in (1.0, 2.0, 3.0, 4.0)),
    Setting(guidance=3.0, until=0.5),
    Setting(10, guidance=3.0),
)
"""The first is what the others are compared with: the default of the pipeline."""


@app.command()
def sampling(
    model: Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")] = "lavin-tiny",
    tasks: Annotated[str, typer.Option(help="Tasks, e.g. depth,normals.")] = TASKS,
    queries: Annotated[int, typer.Option(help="Queries a task.")] = 16,
    pairs: Annotated[int, typer.Option(help="Pairs of every context.")] = 4,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON to write.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Print a line a setting."""
    if out is not None:
        check_free(out, force)
    folder = find_model(model)
    rows = scenes.task_rows([name.strip() for name in tasks.split(",")])
    pipeline = LavinPipeline.from_pretrained(folder).to(find_device(device))
    pipeline.set_progress_bar_config(disable=True)
    chosen = Settings(queries=queries, pairs=pairs)
    scenes.check_settings(pipeline, chosen)
    pools, held_out = scenes.Pools(pipeline.config.sample_size, chosen.pool), scenes.read_held_out(folder)
    found = {setting: {"errors": [], "metrics": {}, "calls": 0.0} for setting in SETTINGS}
    for row in rows:
        metrics = {setting: row.task.metric() for setting in SETTINGS}
        for start in range(0, queries, BATCH):
            numbers = range(start, min(start + BATCH, queries))
            episodes = [draw_episode(pools.of(row.task), row, pairs, chosen.seed, n, held_out) for n in numbers]
            noise = [noise_generator(chosen.seed, row.name, n) for n in numbers]
            for setting, latents, error, calls in sample(pipeline, episodes, noise):
                found[setting]["errors"].append(error)
                found[setting]["calls"] = calls
                with torch.no_grad():
                    clips = pipeline.decode(latents, episodes[0].target.shape[1], ensemble_size=1)
                for clip, episode in zip(clips, episodes, strict=True):
                    metrics[setting].update(row.task.read(clip, episode.definition), episode.truth)
        for setting, metric in metrics.items():
            found[setting]["metrics"][row.name] = float(metric.compute())
    results = [
        {
            **asdict(setting),
            "calls": values["calls"],
            "error": sum(values["errors"]) / len(values["errors"]),
            "metrics": values["metrics"],
        }
        for setting, values in found.items()
    ]
    report.print_table(to_table(results, rows))
    if out is not None:
        content = {"model": folder.name, "queries": queries, "pairs": pairs, "results": results}
        typer.echo(write_bytes(out, (json.dumps(report.tidy(content), indent=1) + "\n").encode(), force))


@torch.no_grad()
def sample(pipeline: LavinPipeline, episodes, generators):
    """Yield (setting, latents, error to the reference, calls of the network) of one batch; its condition is encoded
    once for all settings."""
    pairs = [
        tuple(encode(pipeline, list(half)) for half in zip(*examples, strict=True))
        for examples in zip(*(episode.pairs for episode in episodes), strict=True)
    ]
    query = encode(pipeline, [episode.query.input for episode in episodes])
    noise = draw_noise(query, generators, ensemble_size=1)
    speed = SPEEDS["default"]
    with_context, without = pipeline.velocity(pairs, query, speed), pipeline.velocity([], query, speed)
    guidance = SETTINGS[0].guidance
    reference, _ = solve(with_context, without, noise, Setting(REFERENCE_POINTS, guidance=guidance))
    for setting in SETTINGS:
        latents, calls = solve(with_context, without, noise, setting)
        error = (latents - reference).square().mean().sqrt().item() if setting.guidance == guidance else math.nan
        yield setting, latents, error, calls


def solve(with_context: flow.Velocity, without: flow.Velocity, noise: Tensor, setting: Setting) -> tuple[Tensor, int]:
    """Latents, and how often the network was called."""
    calls = 0

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        slope, calls = with_context(x, t), calls + 1
        if setting.guidance != 1 and t[0] <= setting.until:
            slope, calls = flow.guide(slope, without(x, t), setting.guidance), calls + 1
        return slope

    grid = flow.time_grid(setting.grid, setting.points).to(noise.device)
    return flow.solve(velocity, noise, grid, setting.method), calls


def to_table(results, rows) -> Table:
    table = Table(title="settings of the sampler")
    for name in ("setting", "calls", "error", *(f"{row.name} {row.task.metric_name}" for row in rows)):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for setting, result in zip(SETTINGS, results, strict=True):
        numbers = [report.number(value) for value in (result["error"], *result["metrics"].values())]
        table.add_row(setting.name, str(result["calls"]), *numbers)
    return table


if __name__ == "__main__":
    sys.exit(run(app, "sampling.py"))
