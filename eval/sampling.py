"""What a setting of the sampler costs and loses: time grids, solvers, guidance, on a model's held-out scenes.

    python eval/sampling.py [--model lavin-tiny] [--tasks depth,foreground] [--queries 16] [--out FILE]
    python eval/sampling.py --study speeds --tasks trained --queries 64     # the table of docs/speed.md

For each setting: calls of the network a query, the error of the latents to a 100-step reference (root mean square; the
latents' own is about 1; of its guidance only) or, in ``speeds``, to ``exact``, and each task's metric.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Generator, Tensor

from lavin import flow
from lavin.bundled import find_model
from lavin.cli import run
from lavin.cli_infer import find_device
from lavin.data.mixture import Episode
from lavin.errors import InputError
from lavin.evaluation import report, scenes
from lavin.evaluation.episodes import Settings, draw_episode, noise_generator
from lavin.evaluation.predictions import encode
from lavin.io import check_free, write_bytes
from lavin.pipeline import LavinPipeline, draw_noise
from lavin.speed import EXACT
from lavin.suggest import unknown
from lavin.velocity import velocity

TASKS = "foreground,semantic,detection,depth,normals,edges,colorization,denoising"
"""``trained`` instead takes all that the model was trained on."""
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


STUDIES = {
    "grids": (
        Setting(REFERENCE_POINTS),
        Setting(),
        *(Setting(points) for points in (4, 6, 8, 10, 14, 30)),
        *(Setting(points, "uniform") for points in (4, 6, 10, 20)),
        *(Setting(points, method="midpoint") for points in (4, 6, 10)),
        *(Setting(points, "uniform", "midpoint") for points in (3, 6)),
        *(Setting(until=until) for until in (0.2, 0.5)),
        *(Setting(guidance=scale) for scale in (1.0, 2.0, 3.0, 4.0)),
        Setting(guidance=3.0, until=0.5),
        Setting(10, guidance=3.0),
    ),
    "speeds": (
        Setting(),
        Setting(until=0.2),
        *(Setting(points, until=until) for points in (14, 10) for until in (1.0, 0.2)),
        *(Setting(points, until=0.2) for points in (8, 6)),
    ),
}
"""The first of each is the reference, whose latents those with its guidance are compared with."""


@app.command()
def sampling(
    model: Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")] = "lavin-tiny",
    tasks: Annotated[str, typer.Option(help="Tasks, e.g. depth,normals.")] = TASKS,
    queries: Annotated[int, typer.Option(help="Queries a task.")] = 16,
    pairs: Annotated[int, typer.Option(help="Pairs of every context.")] = 4,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "auto",
    study: Annotated[str, typer.Option(help="Settings to compare: grids or speeds.")] = "grids",
    out: Annotated[Path | None, typer.Option(help="JSON to write.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Print a line a setting."""
    if out is not None:
        check_free(out, force)
    if study not in STUDIES:
        raise InputError(unknown("--study", study, STUDIES))
    settings = STUDIES[study]
    folder = find_model(model)
    names = scenes.trained_tasks(folder) if tasks == "trained" else [name.strip() for name in tasks.split(",")]
    rows = scenes.task_rows(names)
    pipeline = LavinPipeline.from_pretrained(folder).to(find_device(device))
    pipeline.set_progress_bar_config(disable=True)
    chosen = Settings(queries=queries, pairs=pairs)
    scenes.check_settings(pipeline, chosen)
    pools, held_out = scenes.Pools(pipeline.config.sample_size, chosen.pool), scenes.read_held_out(folder)
    found = {setting: {"errors": [], "metrics": {}, "calls": 0.0} for setting in settings}
    for row in rows:
        metrics = {setting: row.task.metric() for setting in settings}
        for start in range(0, queries, BATCH):
            numbers = range(start, min(start + BATCH, queries))
            episodes = [draw_episode(pools.of(row.task), row, pairs, chosen.seed, n, held_out) for n in numbers]
            noise = [noise_generator(chosen.seed, row.name, n) for n in numbers]
            for setting, latents, error, calls in sample(pipeline, episodes, noise, settings):
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
    report.print_table(to_table(settings, results, rows))
    if out is not None:
        content = {"model": folder.name, "study": study, "queries": queries, "pairs": pairs, "results": results}
        typer.echo(write_bytes(out, (json.dumps(report.tidy(content), indent=1) + "\n").encode(), force))


@torch.no_grad()
def sample(pipeline: LavinPipeline, episodes: Sequence[Episode], generators: Sequence[Generator], settings):
    """Yield (setting, latents, error to the reference, calls of the network) of one batch; its condition is encoded
    once for all settings."""
    pairs = [
        tuple(encode(pipeline, list(half)) for half in zip(*examples, strict=True))
        for examples in zip(*(episode.pairs for episode in episodes), strict=True)
    ]
    query = encode(pipeline, [episode.query.input for episode in episodes])
    noise = draw_noise(query, generators, ensemble_size=1)
    with_context = velocity(pipeline.jdit, pairs, query, EXACT)
    without = velocity(pipeline.jdit, [], query, EXACT)
    reference = None
    for setting in settings:
        latents, calls = solve(with_context, without, noise, setting)
        reference = latents if reference is None else reference
        same = setting.guidance == settings[0].guidance
        yield setting, latents, (latents - reference).square().mean().sqrt().item() if same else math.nan, calls


def solve(with_context: flow.Velocity, without: flow.Velocity, noise: Tensor, setting: Setting) -> tuple[Tensor, int]:
    """Latents, and how often the network was called."""
    calls = 0

    def guided(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        slope, calls = with_context(x, t), calls + 1
        if setting.guidance != 1 and t[0] <= setting.until:
            slope, calls = flow.guide(slope, without(x, t), setting.guidance), calls + 1
        return slope

    grid = flow.time_grid(setting.grid, setting.points).to(noise.device)
    return flow.solve(guided, noise, grid, setting.method), calls


def to_table(settings, results, rows) -> Table:
    table = Table(title="settings of the sampler")
    for name in ("setting", "calls", "error", *(f"{row.name} {row.task.metric_name}" for row in rows)):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for setting, result in zip(settings, results, strict=True):
        numbers = [report.number(value) for value in (result["error"], *result["metrics"].values())]
        table.add_row(setting.name, str(result["calls"]), *numbers)
    return table


if __name__ == "__main__":
    sys.exit(run(app, "sampling.py"))
