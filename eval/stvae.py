"""The ST-VAE alone: how good its reconstructions are, and what a training step costs.

    python eval/stvae.py quality --model lavin-tiny [--data DIR] [--out FILE.json] [--picture FILE.png]
    python eval/stvae.py speed                          a training step beside diffusers' AutoencoderKLCogVideoX
    python eval/stvae.py memory                         by size and length: whole, in chunks, in tiles

The table has PSNR, SSIM and LPIPS by frame, statistics of the latent, and what each task's labels lose on the way.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from lavin.cli import run

app = typer.Typer(add_completion=False, help=__doc__.splitlines()[0], rich_markup_mode=None)


@app.command()
def quality(
    model: Annotated[str, typer.Option(help="A bundled model's name, a pipeline's or an ST-VAE's folder.")] = (
        "lavin-tiny"
    ),
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 128,
    frames: Annotated[int, typer.Option(help="Of the clips, 1 + 4k.")] = 17,
    images: Annotated[int, typer.Option(help="Held-out scenes, and photos of a kind.", min=2)] = 64,
    clips: Annotated[int, typer.Option(help="Held-out clips of a rate.", min=1)] = 8,
    fps: Annotated[str, typer.Option(help="Their rates, frames per second: more is slower.", metavar="A,B,…")] = "8",
    tasks: Annotated[str | None, typer.Option(help="Only these, e.g. depth,normals.", show_default=False)] = None,
    queries: Annotated[int, typer.Option(help="Targets of a task.", min=1)] = 32,
    pool: Annotated[int, typer.Option(help="Held-out scenes that these are drawn from.", min=2)] = 128,
    data: Annotated[
        Path | None,
        typer.Option(help="Photos too: a folder with camvid, bsds500, rgbd or some of them.", show_default=False),
    ] = None,
    backbone: Annotated[str, typer.Option("--lpips", help="alex, vgg or squeeze.")] = "alex",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", show_default=False)] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG of originals, reconstructions, errors.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite them.")] = False,
) -> None:
    """Reconstructions, latent and labels of one ST-VAE."""
    from lavin.io import check_free, check_png, write_bytes, write_image

    for path, option in ((out, "--out"), (picture, "--picture")):
        if path is not None:
            check_free(path, force, option)
    if picture is not None:
        check_png(picture)

    from lavin import __version__
    from lavin.cli_infer import find_device
    from lavin.encoded import fingerprint
    from lavin.evaluation import stvae as report
    from lavin.metrics.perceptual import BACKBONES
    from lavin.suggest import unknown

    if backbone not in BACKBONES:
        raise report.InputError(f"--lpips: {unknown('backbone', backbone, BACKBONES)}")
    perceptual, why_not = report.make_lpips(backbone)
    report.check(size, frames, perceptual is not None)
    rates = report.rates(fps)
    names = report.task_names([name.strip() for name in tasks.split(",")] if tasks else None)
    photos = report.photo_clips(data, size, images, frames) if data is not None else {}
    network = report.load(model).to(find_device(device))
    moving = {f"clips, {rate:g} fps": report.scene_clips(size, frames, clips, rate) for rate in rates}
    kinds = {"scenes": report.scene_clips(size, 1, images)} | moving | photos
    codec = report.fit_codec(size, frames, network.config.latent_channels)
    qualities = [report.quality(kind, network, codec, shown, perceptual) for kind, shown in kinds.items()]
    latent = report.latent_statistics(network, kinds["scenes"])
    found = list(report.ceilings(network, names, size, queries, pool))

    report.print_report(qualities, latent, found, why_not)
    protocol = {
        "model": Path(model).name, "weights": fingerprint(network), "class": type(network).__name__, "size": size,
        "frames": frames, "split": report.SPLIT, "images": images, "clips": clips, "queries": queries, "pool": pool,
        "latent_of": "scenes", "lpips": f"unavailable: {why_not}" if why_not else backbone, "device": device,
        "lavin": __version__,
    }  # fmt: skip
    if out is not None:
        content = report.to_dict(protocol, qualities, latent, found)
        typer.echo(write_bytes(out, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode(), force))
    if picture is not None:
        typer.echo(write_image(picture, report.draw(network, kinds), force))


@app.command()
def speed(
    config: Annotated[str, typer.Option(help="Sizes of the model: a file of configs/stvae.")] = "compare",
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    repeats: Annotated[int, typer.Option(help="Steps of each, in turn.", min=1)] = 7,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "cpu",
) -> None:
    """Seconds of a training step (forward, backward), ours and diffusers' in turn, on images and on clips."""
    from lavin.cli_infer import find_device
    from lavin.evaluation.stvae_cost import step_seconds

    print(f"{'batch':<20}{'ours':>10}{'diffusers':>12}{'ratio':>8}")
    for batch, ours, theirs in step_seconds(config, size, repeats, find_device(device)):
        print(f"{batch:<20}{ours:>9.3f}s{theirs:>11.3f}s{theirs / ours:>8.2f}", flush=True)


@app.command()
def memory(
    preset: Annotated[str, typer.Option(help="A file of configs/models: stvae_full or stvae_tiny.")] = "stvae_full",
    size: Annotated[list[int], typer.Option(help="Side in pixels; may be repeated.")] = [256, 512],  # noqa: B006
    frames: Annotated[list[int], typer.Option(help="Of the clip, 1 + 4k; may be repeated.")] = [1, 17, 49],  # noqa: B006
) -> None:
    """Activations and arithmetic of encoding and decoding one clip in bf16, from shapes: nothing is computed."""
    from lavin.evaluation import stvae_cost

    stvae_cost.check(size, frames)
    print(f"{'pixels':<8}{'frames':>7}{'':>8}{'encode GiB':>12}{'TFLOP':>8}{'decode GiB':>12}{'TFLOP':>8}")
    for row in stvae_cost.memory(preset, size, frames):
        print(f"{row['side']:<8}{row['frames']:>7}{row['how']:>8}", end="")
        for part in ("encode", "decode"):
            print(f"{row[f'{part}_bytes'] / 2**30:>12.2f}{row[f'{part}_flops'] / 1e12:>8.1f}", end="")
        print(flush=True)


if __name__ == "__main__":
    sys.exit(run(app, "stvae.py"))
