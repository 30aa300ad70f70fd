"""``lavin convert``: the authors' release to a model folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavin.errors import InputError
from lavin.suggest import unknown

DTYPES = ("float32", "bfloat16", "float16")


def convert(
    out: Annotated[Path, typer.Option(help="Folder to write; it appears only when it is complete.")],
    released: Annotated[
        str | None,
        typer.Option(help="The release: its folder, weights.tar.gz, or a hub id owner/name.", show_default=False),
    ] = None,
    to_released: Annotated[
        bool, typer.Option("--to-released", help="The other way: --model in the release's layout.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="With --to-released: a bundled model's name, or a model folder.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Store as float32, bfloat16 or float16; as they are if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder of this kind that exists.")] = False,
) -> None:
    """Convert the authors' released weights to a model folder, or with --to-released a model to their layout."""
    if to_released and (released is not None or model is None):
        raise InputError("--to-released converts a --model and takes no --released")
    if not to_released and (released is None or model is not None):
        raise InputError("give --released, the folder to convert; or --to-released with the --model to convert")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    if out.exists() and not force:
        raise InputError(f"output exists: {out}; give another --out or --force")

    import torch

    from lavin.convert import convert_released, convert_to_released

    stored = getattr(torch, dtype) if dtype else None
    if to_released:
        for note in convert_to_released(model, out, dtype=stored, force=force):
            typer.echo(f"note: {note}", err=True)
    else:
        convert_released(released, out, dtype=stored, force=force)
    typer.echo(out)
