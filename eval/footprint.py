"""What the paper's models need: memory and arithmetic of a picture by size, resolution and pairs; and of conversion.

    python eval/footprint.py table [--out FILE]                 computed from shapes, nothing is run
    python eval/footprint.py measure --preset 0.1b [--pairs 4]  a picture with random weights, timed here
    python eval/footprint.py convert DIR                        a random release of full size: converted, then loaded

Memory is of bf16 weights and activations in GiB, arithmetic in 10^12 floating-point operations (a multiply-add is two).
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lavin.bundled import RELEASED_JDIT, RELEASED_STVAE
from lavin.cli import run
from lavin.context import unconditional
from lavin.convert import convert_released
from lavin.errors import InputError
from lavin.evaluation.cost import (
    PRESETS,
    counted,
    matmul_rate,
    peak_bytes,
    preset,
    random_latents,
    random_pipeline,
)
from lavin.models.jdit import JDiT
from lavin.models.released import (
    JDIT_NAMES,
    STATE_DICT,
    STVAE_NAMES,
    load_released,
    released_names,
    released_shapes,
)
from lavin.models.stvae import STVAE
from lavin.models.weights import shapes
from lavin.pipeline import LavinPipeline

GIB = 2**30
SOLVER_STEPS = 19
"""Of the release's 20-point grid; guidance doubles the network calls."""

app = typer.Typer(add_completion=False, help=__doc__.splitlines()[0], rich_markup_mode=None)


def computed(name: str, resolutions: list[int], pairs: list[int]) -> list[dict[str, Any]]:
    """Rows of the table for one preset: tensors that have shapes and no memory go through the real networks."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    rows = []
    with FakeTensorMode(), torch.no_grad():
        jdit, stvae = preset(f"jdit_{name}", JDiT), preset("stvae_full", STVAE)
        parameters = sum(weight.numel() for network in (jdit, stvae) for weight in network.parameters())
        for resolution in resolutions:
            image = torch.randn(1, 3, 1, resolution, resolution, dtype=torch.bfloat16)
            target, t = random_latents(1, resolution), torch.rand(1)
            encode = counted(lambda image=image: stvae.encode(image).latent_dist.mode())
            decode = counted(lambda target=target: stvae.decode(target).sample)
            without = counted(lambda target=target, t=t: jdit(target, t, unconditional(target)))
            for number in pairs:
                condition = random_latents(2 * number + 1, resolution)
                step = counted(lambda target=target, t=t, condition=condition: jdit(target, t, condition))
                calls = ((2 * number + 1, encode), (SOLVER_STEPS, step), (SOLVER_STEPS, without), (1, decode))
                rows.append(
                    {
                        "preset": name,
                        "resolution": resolution,
                        "pairs": number,
                        "weights_gib": 2 * parameters / GIB,
                        "memory_gib": (2 * parameters + max(held for _, (_, held) in calls)) / GIB,
                        "tflop": sum(times * flops for times, (flops, _) in calls) / 1e12,
                    }
                )
    return rows


@app.command()
def table(
    resolutions: Annotated[str, typer.Option(help="Sides in pixels.")] = "256,512",
    pairs: Annotated[str, typer.Option(help="Numbers of pairs.")] = "1,4,8",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", show_default=False)] = None,
) -> None:
    """Memory and arithmetic of a picture (20 points, guidance 1.5), computed from shapes."""
    sides, numbers = ([int(value) for value in text.split(",")] for text in (resolutions, pairs))
    rows = [row for name in PRESETS for row in computed(name, sides, numbers)]
    print(f"{'model':<6}{'pixels':>8}{'pairs':>7}{'weights':>10}{'memory':>10}{'TFLOP':>10}")
    for row in rows:
        print(
            f"{row['preset']:<6}{row['resolution']:>8}{row['pairs']:>7}{row['weights_gib']:>10.2f}"
            f"{row['memory_gib']:>10.2f}{row['tflop']:>10.1f}"
        )
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n")


@app.command()
def measure(
    preset_name: Annotated[str, typer.Option("--preset", help="0.1b, 1.0b or 3.4b.")] = "0.1b",
    resolution: Annotated[int, typer.Option(help="Side in pixels.")] = 256,
    pairs: Annotated[int, typer.Option(help="Number of pairs.")] = 4,
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
) -> None:
    """One picture (20 points, guidance 1.5, bf16) with random weights: seconds, and the process' peak memory."""
    pipeline = random_pipeline(preset_name, resolution).to(device)
    pictures = torch.rand(2 * pairs + 1, 3, resolution, resolution) * 2 - 1
    context = [(pictures[2 * i], pictures[2 * i + 1]) for i in range(pairs)]
    rate = matmul_rate(pipeline.device, torch.bfloat16) / 1e12
    start = time.perf_counter()
    pipeline(context=context, query=pictures[-1], speed="exact")  # as computed: nothing is cached
    seconds = time.perf_counter() - start
    row = computed(preset_name, [resolution], [pairs])[0]
    peak = peak_bytes(pipeline.device)
    print(
        f"{preset_name} at {resolution}x{resolution}, {pairs} pairs on {device}: {seconds:.1f} s, "
        f"{row['tflop']:.1f} TFLOP, {row['tflop'] / seconds / rate:.0%} of the {rate:.2f} TFLOP/s of its bf16 matmuls; "
        f"peak {peak / GIB:.2f} GiB (computed {row['memory_gib']:.2f})"
    )


# --- Conversion -------------------------------------------------------------------------------------------------------


def write_random_release(folder: Path) -> int:
    """The release's two files at full size, bf16 and float32, in its layout; the J-DiT's bytes."""
    with torch.device("meta"):
        jdit, stvae = preset("jdit_3.4b", JDiT), preset("stvae_full", STVAE)
    wanted = released_shapes(jdit, released_names(shapes(jdit), JDIT_NAMES))
    header, end = {}, 0
    for name, shape in wanted.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / RELEASED_JDIT[0], "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in wanted.values():
            weight = torch.randint(-(2**15), 2**15, (torch.Size(shape).numel(),), dtype=torch.int16) & 0x3FFF  # finite
            file.write(weight.numpy())
    names = released_names(shapes(stvae), STVAE_NAMES)
    state = {names[name]: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes(stvae).items()}
    torch.save({STATE_DICT: state}, folder / RELEASED_STVAE)
    return end


@app.command(hidden=True)
def step(what: str, folder: Path) -> None:
    """One step of ``convert``, in a process of its own: its time and peak memory."""
    calls = {
        "convert": lambda: convert_released(folder / "release", folder / "converted"),
        "load-converted": lambda: LavinPipeline.from_pretrained(folder / "converted", torch_dtype=torch.bfloat16),
        "load-released": lambda: load_released(folder / "release"),
    }
    imports, start = peak_bytes(), time.perf_counter()
    calls[what]()
    seconds = time.perf_counter() - start
    print(f"{what:<16}{seconds:7.1f} s   peak {peak_bytes() / GIB:6.2f} GiB ({imports / GIB:.2f} before it)")


@app.command()
def convert(folder: Annotated[Path, typer.Argument(help="New folder; takes 15 GB, kept.")]) -> None:
    """Make a random release of full size, convert it and load both, and print each step's peak memory."""
    release = folder / "release"
    if folder.exists():
        raise InputError(f"{folder} exists; name a new folder")
    release.mkdir(parents=True)
    size = write_random_release(release)
    print(f"J-DiT {size / GIB:.2f} GiB, ST-VAE {(release / RELEASED_STVAE).stat().st_size / GIB:.2f} GiB", flush=True)
    for what in ("convert", "load-converted", "load-released"):
        subprocess.run([sys.executable, __file__, "step", what, str(folder)], check=True)


if __name__ == "__main__":
    sys.exit(run(app, "footprint.py"))
