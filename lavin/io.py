"""Images and labels on disk: read with errors a person understands, written aside and then moved into place.

Knows Pillow and arrays only; torch is not imported, so that bad files are found before seconds of imports.
"""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lavin.errors import InputError, LavinError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 500_000_000
"""Largest picture that is decoded, 1.5 GB as RGB; a small file that claims more is a decompression bomb."""

BROKEN_FILE = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error, zlib.error)
"""What Pillow's decoders raise on damaged files."""

_PILLOW_LIMIT = threading.Lock()


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder by suffix, sorted by name; hidden ones (``._cat.png``) and subfolders left out."""
    return files_by_suffix(folder, SUFFIXES)


def files_by_suffix(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of a folder with one of these suffixes (lower case), sorted by name; see ``image_files``."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error
    wanted = [p for p in entries if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()]
    return sorted(wanted, key=lambda path: path.name)


def read_image(path: str | Path) -> Image.Image:
    """Read a picture as 8-bit RGB, upright (EXIF orientation applied).

    16-bit greys are scaled to 8 bits, palettes and CMYK converted, and transparent pixels shown over white, as most
    viewers do. Of a file with several pictures the first is read.

    Args:
        path: png, jpg, webp, bmp or tiff; the content decides, not the suffix.

    Raises:
        InputError: no such file, no image, damaged, or more than ``MAX_PIXELS``.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; an image file is needed")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        with _open(path) as image:
            _check_size(path, image)
            image.load()
            return to_rgb(ImageOps.exif_transpose(image), path)
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image that can be read; use {', '.join(FORMATS).lower()}") from error
    except PermissionError as error:
        raise InputError(f"{path}: permission denied") from error
    except BROKEN_FILE as error:
        raise InputError(f"{path}: damaged or truncated image ({error})") from error


def _open(path: Path) -> Image.Image:
    """Open without Pillow's own limit, which refuses pictures that are fine here; ``_check_size`` replaces it."""
    with _PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{path}: {width}x{height} is too large; at most {MAX_PIXELS // 10**6} million pixels are read"
        )


def to_rgb(image: Image.Image, name: str | Path = "picture") -> Image.Image:
    """8-bit RGB of any picture; see ``read_image``."""
    if image.mode.startswith("I"):  # I;16, I;16B, ... and I: Pillow's own conversion would clip, not scale
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{name}: 32-bit picture with values beyond 16 bits; save it with 8 or 16 bits")
        return Image.fromarray((values.astype(np.float32) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise InputError(f"{name}: floating-point picture, whose range is unknown; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def check_free(path: str | Path, force: bool = False, option: str = "--out") -> None:
    """Refuse to overwrite a file unless told to.

    Raises:
        InputError: it exists and ``force`` is off, or it is a folder.
    """
    if Path(path).is_dir():
        raise InputError(f"output is a folder: {path}; {option} needs a file name here")
    if Path(path).exists() and not force:
        raise InputError(f"output exists: {path}; give another {option} or --force")


def check_png(path: str | Path) -> None:
    """Refuse a name that does not end in .png: nothing else is written, whatever the name says."""
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"output {path}: pictures are written as PNG; give a name that ends in .png")


def write_bytes(path: str | Path, content: bytes, force: bool = False) -> Path:
    """Write a file whole or not at all: beside its place first, then moved there."""
    path = Path(path)
    check_free(path, force)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        aside.unlink(missing_ok=True)
    return path


def write_image(path: str | Path, image: Image.Image, force: bool = False) -> Path:
    """Write a picture as PNG; see ``write_bytes``.

    Raises:
        InputError: the name does not end in .png, or the file exists and ``force`` is off.
    """
    check_png(path)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return write_bytes(path, buffer.getvalue(), force)


LABEL_SUFFIXES = (".png", ".npy", ".json")
"""What ``write_label`` may add to a name."""


def write_label(path: str | Path, label: Any, task_name: str, force: bool = False) -> Path:
    """Write a label that a task read from a prediction; the suffix says how it was written.

    Args:
        path: file name without suffix.
        label: array or tensor. (1, height, width) becomes a PNG: masks 0 and 255 with 8 bits, class and instance
            numbers as they are with 8 or 16 bits, numbers in [0, 1] (relative disparity) scaled to 16 bits.
            (3, frames, height, width), e.g. unit normals, becomes float32 npy (height, width, 3), and clips of any
            kind npy with the frames first; so do numbers that 16 bits cannot hold (panoptic), as int32. A dictionary
            of tensors with a row a thing (people) becomes JSON, a list of things.
        task_name: for the message if the label cannot be written.
        force: overwrite.

    Returns:
        The file that was written.
    """
    if isinstance(label, dict):
        rows = zip(*(values.tolist() for values in label.values()), strict=True)
        things = [dict(zip(label, row, strict=True)) for row in rows]
        return write_bytes(f"{path}.json", (json.dumps(things, indent=1) + "\n").encode(), force)
    label = np.asarray(label)
    check_finite(label, f"the {task_name} label")
    label = np.moveaxis(label, 0, -1) if label.ndim == 4 else label
    if label.ndim not in (3, 4):
        raise LavinError(f"a {task_name} label of shape {label.shape} cannot be written")
    wide = label.dtype.kind in "iu" and (label.min() < 0 or label.max() > 65535)
    if len(label) > 1 or label.ndim == 4 or wide:
        buffer = io.BytesIO()
        label = label.astype(np.float32 if label.dtype.kind == "f" else np.int32 if wide else label.dtype)
        np.save(buffer, label[0] if len(label) == 1 else label)
        return write_bytes(f"{path}.npy", buffer.getvalue(), force)
    return write_image(f"{path}.png", Image.fromarray(label_levels(label[0])), force)


def label_levels(label: np.ndarray) -> np.ndarray:
    """A label (height, width) as 8- or 16-bit levels."""
    if label.dtype == bool:
        return label.astype(np.uint8) * 255
    if label.dtype.kind == "f":
        return (label.clip(0, 1) * 65535).round().astype(np.uint16)
    return label.astype(np.uint8 if label.max() < 256 else np.uint16)


Cell = Image.Image | Sequence[Image.Image] | None
"""Of a grid: a picture, the frames of a clip, or nothing."""


def draw_grid(columns: Sequence[tuple[Cell, Cell]], pairs: int, side: int = 256) -> Image.Image:
    """One picture of a context and its predictions: inputs above, targets below, a wider gap before the queries.

    Args:
        columns: (input, target), first those of the context; of a clip the first, middle and last frame are shown.
        pairs: how many columns are the context's.
        side: longest side of a picture in pixels.
    """
    gap, wide = side // 32, side // 8
    cells = [[film_strip(cell, side) for cell in column] for column in columns]
    heights = [max((column[row].height for column in cells if column[row]), default=0) for row in range(2)]
    width = sum(column_width(column) + gap for column in cells) + gap + wide
    canvas = Image.new("RGB", (width, sum(heights) + 3 * gap), "white")
    x = gap
    for number, column in enumerate(cells):
        x += wide if number == pairs else 0
        for row, picture in enumerate(column):
            if picture is not None:
                canvas.paste(picture, (x, gap + row * (heights[0] + gap)))
        x += column_width(column) + gap
    return canvas


def film_strip(cell: Cell, side: int) -> Image.Image | None:
    """A picture with its longer side ``side``; of a clip the first, middle and last frame, one below the other."""
    if cell is None or isinstance(cell, Image.Image):
        return cell and fit(cell, side)
    shown = cell if len(cell) == 1 else [cell[0], cell[len(cell) // 2], cell[-1]]
    return stack([fit(frame, side) for frame in shown])


def stack(pictures: Sequence[Image.Image], titles: Sequence[str] = ()) -> Image.Image:
    """Pictures one below the other on white, each with its title at the left."""
    font = ImageFont.load_default(16)
    margin = max([font.getlength(title) + 24 for title in titles], default=0)
    size = (int(margin) + max(picture.width for picture in pictures), sum(picture.height for picture in pictures))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    y = 0
    for number, picture in enumerate(pictures):
        canvas.paste(picture, (int(margin), y))
        if titles:
            draw.text((12, y + picture.height // 2), titles[number], fill="black", font=font, anchor="lm")
        y += picture.height
    return canvas


def column_width(column: Sequence[Image.Image | None]) -> int:
    return max(picture.width for picture in column if picture)


def fit(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side ``side``, at least one pixel each way."""
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    return picture.resize(size, Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.NEAREST)


def check_finite(values: np.ndarray, name: str) -> None:
    """Refuse to save NaN or infinity."""
    if not np.isfinite(values).all():
        raise LavinError(f"{name} has NaN or infinite values; run in float32 (--dtype float32)")
