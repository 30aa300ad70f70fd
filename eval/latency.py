"""Seconds a picture takes, by mode, model, resolution and number of pairs, all in one run.

    python eval/latency.py                                           # lavin-tiny
    python eval/latency.py --models 0.1b --resolutions 256 --pairs 1,2,4,8,16
    python eval/latency.py configs/latency/thesis.yaml               # 3.4B on a GPU, as the thesis measures it

Modes: exact, default and fast are a call's ``speed``, each with its own number of points unless --steps is given;
latents is exact with the ST-VAE's latents of the pairs at hand; saved is default with a context encoded beforehand, of
which only the query is left to do; autoregressive is another model, a transformer of as many parameters that writes
the picture token by token. A picture is encoded, sampled, and decoded; the three parts are timed apart. Presets have
random weights.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lavin.bundled import bundled_models
from lavin.cli import run
from lavin.cli_infer import DTYPES, find_device, find_dtype
from lavin.errors import InputError
from lavin.evaluation import cost
from lavin.evaluation.latency import MODES, context_bytes, growth, measure
from lavin.io import check_free, write_bytes
from lavin.memory import keep_freed_memory
from lavin.pipeline import LavinPipeline
from lavin.suggest import unknown

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Options from a file, as defaults of those that the command line does not give."""
    if path is None:
        return None
    try:
        options = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"config {path}: cannot be read ({error})") from error
    known = [parameter.name for parameter in context.command.params if parameter.name not in ("config", "out", "force")]
    for name in options if isinstance(options, dict) else [""]:
        if name not in known:
            raise InputError(f"config {path}: {unknown('option', str(name), known)}")
    context.default_map = options
    return path


@app.command()
def latency(
    config: Annotated[
        Path | None, typer.Argument(help="YAML of options.", is_eager=True, callback=read_config, show_default=False)
    ] = None,
    models: Annotated[
        str, typer.Option(help="Bundled models and presets: lavin-tiny, 0.1b, 1.0b, 3.4b.")
    ] = "lavin-tiny",
    resolutions: Annotated[str, typer.Option(help="Sides in pixels, of presets.")] = "256",
    pairs: Annotated[str, typer.Option(help="Numbers of pairs.")] = "0,1,2,4,8,16",
    modes: Annotated[str, typer.Option(help=f"Of {', '.join(MODES)}.")] = "exact,default,fast,saved",
    attention: Annotated[str, typer.Option(help="Of presets: full or causal.")] = "full",
    steps: Annotated[
        int | None, typer.Option(help="Points of every mode's time grid; each mode's own if not given.")
    ] = None,
    guidance: Annotated[str, typer.Option(help="Guidance scales; 1 is one pass a step, not two.")] = "1.5",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    warmups: Annotated[int, typer.Option(help="Runs before the timed ones.", min=1)] = 1,
    repeats: Annotated[int, typer.Option(help="Timed runs.", min=1)] = 3,
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
    if dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    sides, numbers = numbers_of("--resolutions", resolutions), numbers_of("--pairs", pairs)
    scales = numbers_of("--guidance", guidance, float)
    place, results, memory = find_device(device), [], {}
    keep_freed_memory()
    print_head()
    for name in (name.strip() for name in models.split(",")):
        for side in [None] if name in bundled_models() else sides:
            pipeline = load(name, side, attention, find_dtype(dtype)).to(place)
            pipeline.check_inputs(steps, scales[0], "pt", task=None, ensemble_size=1)
            rate = cost.matmul_rate(place, pipeline.jdit.dtype)
            memory[f"{name} at {pipeline.config.sample_size}"] = context_bytes(pipeline)
            for scale in scales:
                for number in numbers:
                    rows = [
                        measure(pipeline, name, mode, number, steps, scale, warmups, repeats, rate) for mode in chosen
                    ]
                    exact = [row["seconds"] for row in rows if row["mode"] == "exact"]
                    for row in rows:
                        row["speedup_over_exact"] = exact[0] / row["seconds"] if exact else None
                        print_row(row)
                    results += rows
    for row in growth(results):
        print(
            f"{row['preset']} at {row['resolution']}, guidance {row['guidance'] or 'none'}, {row['mode']}: "
            f"seconds grow as pairs^{row['exponent']:.2f}"
        )
    for name, size in memory.items():
        print(f"{name}: a saved context takes {size / 1024:.0f} KiB a pair")
    if out is not None:
        machine = {
            "device": torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "dtype": dtype,
        }
        content = {"machine": machine, "results": results, "growth": growth(results), "bytes_a_saved_pair": memory}
        typer.echo(write_bytes(out, (json.dumps(content, indent=1) + "\n").encode(), force))


def numbers_of(option: str, text: str, kind: type = int) -> list:
    try:
        found = [kind(value) for value in str(text).split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: numbers with commas between them are needed") from error
    if min(found) < 0:
        raise InputError(f"{option} {text}: a number is below 0")
    return found


def load(name: str, resolution: int | None, attention: str, dtype: torch.dtype) -> LavinPipeline:
    """A bundled model at its own size, or a preset with random weights."""
    if name in bundled_models():
        pipeline = LavinPipeline.from_pretrained(name, torch_dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
    if name not in cost.PRESETS:
        raise InputError(unknown("model", name, [*bundled_models(), *cost.PRESETS]))
    return cost.random_pipeline(name, resolution, attention=attention).to(dtype)


def print_head() -> None:
    columns = ("mode", 15), ("side", 6), ("pairs", 6), ("steps", 6), ("guid.", 6), ("median s", 10), ("quartiles", 17)
    print(f"{'model':<12}" + "".join(f"{name:>{width}}" for name, width in columns), end="")
    print(f"{'encode':>9}{'sample':>9}{'decode':>9}{'faster':>8}{'matmul':>8}{'MiB':>8}")


def print_row(row: dict[str, Any]) -> None:
    faster = "" if row["speedup_over_exact"] is None else f"{row['speedup_over_exact']:.2f}x"
    quartiles = " - ".join(f"{value:.3f}" for value in row["quartiles"])
    print(
        f"{row['preset']:<12}{row['mode']:>15}{row['resolution']:>6}{row['pairs']:>6}{row['steps'] or '':>6}"
        f"{row['guidance'] or '':>6}{row['seconds']:>10.3f}{quartiles:>17}"
        + "".join(f"{seconds:>9.3f}" for seconds in row["parts"].values())
        + f"{faster:>8}{row['matmul_share']:>8.1%}{row['peak_memory_bytes'] / 2**20:>8.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(run(app, "latency.py"))
