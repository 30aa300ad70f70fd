"""Samples a second that a J-DiT trains here, and the share of the device's rate of matrix products that it reaches.

    python eval/throughput.py                                        # the J-DiT of small.yaml, and 0.1b at 256x256
    python eval/throughput.py --models 0.1b --checkpointing on,off --attention full,causal --out throughput.json
    torchrun --nproc_per_node 2 eval/throughput.py --models 0.1b     # two processes; so does accelerate launch
    python eval/throughput.py --models 0.1b --profile                # and what the time of a step goes to

Steps are a run's own, on random latents: forward, backward, clipping, AdamW, EMA. Operations are those of one forward
and one backward pass; what checkpointing computes again does not count. On an idle machine only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lavin.cli import run
from lavin.errors import InputError
from lavin.io import check_free, write_bytes
from lavin.suggest import unknown

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SWITCH = {"off": False, "on": True}


@app.command()
def throughput(
    models: Annotated[str, typer.Option(help="Bundled models, small, 0.1b, 1.0b, 3.4b.")] = "small,0.1b",
    resolution: Annotated[int, typer.Option(help="Side of the pictures, pixels.")] = 256,
    pairs: Annotated[int, typer.Option(help="Pairs of a context.")] = 4,
    batch: Annotated[int, typer.Option(help="Sequences of each process.")] = 1,
    attention: Annotated[str, typer.Option(help="Of full, causal.")] = "full",
    precision: Annotated[
        str, typer.Option(help="Of bf16, fp32; auto is bf16 where the machine computes in it, else fp32.")
    ] = "auto",
    checkpointing: Annotated[str, typer.Option(help="Of off, on.")] = "off,on",
    compiled: Annotated[bool, typer.Option("--compile", help="With torch.compile.")] = False,
    steps: Annotated[int, typer.Option(help="Timed steps.")] = 3,
    profile: Annotated[bool, typer.Option("--profile", help="Print what a step's time goes to.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Print a row for every combination."""
    first = int(os.environ.get("RANK", 0)) == 0
    if out is not None and first:
        check_free(out, force)
    if resolution < 16 or resolution % 16:
        raise InputError(f"--resolution is {resolution}; it must be a multiple of 16")
    for name, value in (("pairs", pairs), ("batch", batch), ("steps", steps)):
        if value < 1:
            raise InputError(f"--{name} is {value}; it must be at least 1")
    kinds, precisions = (
        listed("attention", attention, ("full", "causal")),
        listed("precision", precision, ("auto", "bf16", "fp32")),
    )
    switches = [SWITCH[word] for word in listed("checkpointing", checkpointing, tuple(SWITCH))]

    from lavin.evaluation.throughput import Setting, measure, sizes

    names = [name.strip() for name in models.split(",")]
    for name in names:
        sizes(name)
    settings = [
        Setting(name, resolution, pairs, batch, kind, number, switch, compiled)
        for name in names
        for kind in kinds
        for number in precisions
        for switch in switches
    ]
    rows: list[dict[str, Any]] = []
    if first:
        print("model       attention  precision  checkpointing  tokens  s a step  samples/s  GFLOP/s    of  GiB")
    for setting in settings:
        if profile:
            with torch.profiler.profile() as profiler:
                rows.append(measure(setting, steps))
        else:
            rows.append(measure(setting, steps))
        if first:
            print_row(rows[-1])
            if profile:
                print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    if out is not None and first:
        write_bytes(out, (json.dumps(rows, indent=1) + "\n").encode(), force)
        print(out)


def listed(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Words of an option, checked."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in known:
            raise InputError(f"--{option}: {unknown('value', word, known)}")
    return words


def print_row(row: dict[str, Any]) -> None:
    switch = "on" if row["gradient_checkpointing"] else "off"
    print(
        f"{row['model']:<12}{row['attention']:<11}{row['precision']:<11}{switch:<15}{row['tokens']:>6}"
        f"{row['seconds_a_step']:>10.3f}{row['samples_per_s']:>11.3f}{row['matmul_flops_per_s'] / 1e9:>9.0f}"
        f"{row['matmul_share']:>6.0%}{row['peak_memory_bytes'] / 2**30:>5.1f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(run(app, "throughput.py"))
