"""`lavin context`: pairs encoded once and kept as a file, for `lavin infer --context FILE.ctx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavin.errors import InputError

context = typer.Typer(name="context", help="Encode a context once and keep it as a file.", no_args_is_help=True)


@context.command()
def save(
    pairs: Annotated[Path, typer.Argument(help="Folder of <name>_input.* / <name>_target.* pairs.")],
    out: Annotated[Path, typer.Option(help="File to write, *.ctx.")],
    model: Annotated[str, typer.Option(help="Bundled model or model folder that it is for.")] = "lavin-tiny",
    task: Annotated[str | None, typer.Option(help="What the pairs show, to note it.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
) -> None:
    """Encode all pairs of a folder for one model."""
    from lavin.bundled import find_model, find_released
    from lavin.cli_infer import find_device, find_dtype
    from lavin.data.folders import load_pairs
    from lavin.encoded import SUFFIX
    from lavin.io import check_free

    if out.suffix != SUFFIX:
        raise InputError(f"--out {out}: a context's file name ends in {SUFFIX}")
    check_free(out, force)
    released = find_released(model)
    folder = released or find_model(model)
    examples = load_pairs(pairs)

    from lavin.labels import find_task
    from lavin.memory import keep_freed_memory
    from lavin.pipeline import LavinPipeline

    keep_freed_memory()
    task = find_task(task).name if task else None
    place = find_device(device)
    load = LavinPipeline.from_released if released else LavinPipeline.from_pretrained
    pipeline = load(folder, torch_dtype=find_dtype(dtype)).to(place)
    encoded = pipeline.encode_context(examples, task)
    typer.echo(encoded.save(out, force))


@context.command()
def show(
    file: Annotated[Path, typer.Argument(help="A *.ctx file.")],
    out: Annotated[Path | None, typer.Option(help="Also draw its pairs as PNG.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a picture that exists.")] = False,
) -> None:
    """Print what a context file holds, and draw its pairs."""
    from lavin.encoded import EncodedContext
    from lavin.io import check_free, draw_grid, write_image

    if out is not None:
        check_free(out, force)
    encoded = EncodedContext.load(file)
    kept = "latents" if encoded.cache is None else "latents, keys and values"
    frames = [half.shape[2] for half in encoded.latents[0]]
    rows = {
        "pairs": f"{len(encoded)}, {'images' if frames == [1, 1] else f'clips of {frames[0]} latent frames'}",
        "task": encoded.task or "not told",
        "pixels": f"{encoded.sample_size}x{encoded.sample_size}",
        "keeps": f"{kept}, {encoded.num_bytes / len(encoded) / 1024:.0f} KiB a pair",
        **{f"{part} weights": made for part, made in encoded.models.items()},
    }
    for name, value in rows.items():
        typer.echo(f"{name:<16}{value}")
    if out is not None:
        from PIL import Image

        pictures = [
            tuple(Image.fromarray(half.permute(1, 2, 0).numpy()) for half in pair) for pair in encoded.thumbnails
        ]
        typer.echo(write_image(out, draw_grid(pictures, len(pictures)), force))
