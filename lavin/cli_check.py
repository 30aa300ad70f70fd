"""``lavin data check``: is a public data set what it should be, before hours are spent on it?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lavin.errors import InputError

if TYPE_CHECKING:
    from lavin.data.sample import Sample

CELL = 160
"""Longer side in pixels of a picture of the contact sheet."""
NAMED = 5
"""Missing and broken files that are named, of each."""


def check(
    name: Annotated[str, typer.Argument(help="Data set, e.g. nyuv2.")],
    root: Annotated[Path, typer.Argument(help="Folder where it lies.")],
    split: Annotated[
        str | None, typer.Option(help="The one that benchmarks score if not given.", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="key=value of the data set, e.g. fold=1; repeat for several.", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many are read, evenly spread over the split.")] = 64,
    out: Annotated[Path | None, typer.Option(help="PNG to write: a contact sheet.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the contact sheet if it exists.")] = False,
) -> None:
    """Look at a public data set: counts, missing and broken files, ranges of values, mean normal, a contact sheet."""
    from lavin.io import check_free, check_png, write_image

    if out is not None:
        check_png(out)
        check_free(out, force)

    import numpy as np

    from lavin.data.check import survey
    from lavin.data.public import open_dataset

    data = open_dataset(name, root, split, **parse(option or []), complete=False)
    typer.echo(f"{name}, split {data.split}, licence: {data.licence}")
    published = data.expected()
    note = "" if published is None else ", as published" if published == len(data) else f"; published are {published}"
    typer.echo(f"samples: {len(data)}{note}")
    missing = data.missing()
    typer.echo(f"missing files: {len(missing)}{named(map(str, missing))}")

    indices = np.unique(np.linspace(0, len(data) - 1, min(samples, len(data))).round().astype(int)).tolist()
    seen, shown = survey(data, indices)
    typer.echo(f"looked at: {seen.looked_at}")
    typer.echo(f"cannot be read: {len(seen.broken)}{named(seen.broken)}")
    for line in seen.lines():
        typer.echo(line)
    if out is not None and shown:
        typer.echo(write_image(out, contact_sheet(shown, len(data.vocabulary.classes)), force))
    if missing or seen.broken:
        raise InputError(
            f"{root}: {len(missing)} files of {name} are missing, {len(seen.broken)} of {seen.looked_at} samples "
            "cannot be read"
        )


def parse(options: list[str]) -> dict[str, Any]:
    """Options of a data set from ``key=value``: numbers where they are ones, else texts.

    Raises:
        InputError: no ``=``, or ``complete``, which is the command's own.
    """
    import json

    values = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key == "complete":
            raise InputError(f"--option {option}: key=value is needed, e.g. fold=1")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return values


def named(what: Iterable[str]) -> str:
    """The first few, a line each."""
    what = list(what)
    return "".join(f"\n  {one}" for one in what[:NAMED]) + ("\n  ..." if len(what) > NAMED else "")


def contact_sheet(samples: list[Sample], classes: int):
    """Samples side by side, a row for the pictures and one for each of their labels."""
    from lavin.io import fit, stack

    rows = {}
    for column, sample in enumerate(samples):
        for title, picture in drawn(sample, classes).items():
            rows.setdefault(title, {})[column] = fit(picture, CELL)
    return stack([strip(row, len(samples)) for row in rows.values()], list(rows))


def strip(row: dict, columns: int):
    """Pictures by their column, with room where there is none."""
    from PIL import Image

    canvas = Image.new("RGB", (columns * (CELL + 4), max(picture.height for picture in row.values()) + 4), "white")
    for column, picture in row.items():
        canvas.paste(picture, (column * (CELL + 4), 0))
    return canvas


def drawn(sample: Sample, classes: int) -> dict[str, Any]:
    """The picture of a sample and each label that it has, as people can see them."""
    from PIL import ImageDraw

    from lavin.cli_data import pictures
    from lavin.tasks import codes

    found = {"picture": pictures(sample.rgb())[0]}
    if sample.depth is not None:
        found["depth"] = pictures(codes.encode_disparity(sample.depth))[0]
    if sample.normals is not None:
        found["normals"] = pictures(codes.encode_normals(sample.normals))[0]
    if sample.semantic is not None:
        colours = codes.grid_palette(classes)
        found["semantic"] = pictures(codes.encode_classes(sample.semantic, tuple(range(classes)), colours))[0]
    if sample.boundaries is not None:
        found["boundaries"] = pictures((2 * sample.boundaries - 1).expand(3, -1, -1, -1))[0]
    if sample.instances:
        mask = sum(one.mask for one in sample.instances).bool()
        found["objects"] = pictures(sample.rgb() * mask + (mask.float() - 1))[0]
        for one in (one for one in sample.instances if not one.crowd):
            x0, y0, x1, y1 = one.box[0].tolist()
            ImageDraw.Draw(found["objects"]).rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline="red")
    return found
