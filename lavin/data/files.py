"""Files of data sets: heads without decoding, label levels as they are stored, camera files; errors name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lavin.errors import InputError
from lavin.io import BROKEN_FILE


def check_pair(picture: Path, label: Path) -> None:
    """Refuse a label that is missing or not of its picture's size; only the files' heads are read."""
    if not label.is_file():
        raise InputError(f"{label}: no such file; it is the label of {picture.name}")
    sizes = ["{}x{}".format(*stored_size(path)) for path in (picture, label)]
    if sizes[0] != sizes[1]:
        raise InputError(f"{label}: is {sizes[1]} but its picture {picture.name} is {sizes[0]}")


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image upright, without decoding it."""
    try:
        with Image.open(path) as image:
            turned = image.format == "JPEG" and image.getexif().get(0x0112, 1) >= 5  # EXIF orientations by 90 degrees
            return image.size[::-1] if turned else image.size
    except BROKEN_FILE as error:
        raise InputError(f"{path}: not an image that can be read") from error


def read_list(path: Path) -> list[str]:
    """The first word of each line of a text file, as lists of names have it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of names ({error})") from error
    return [line.split()[0] for line in lines if line.strip()]


def read_levels(path: Path) -> np.ndarray:
    """Label levels as they are stored, 8 or 16 bits, (height, width); of a palette picture the indices."""
    try:
        with Image.open(path) as image:
            levels = np.array(image)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except BROKEN_FILE as error:
        raise InputError(f"{path}: damaged or truncated image ({error})") from error
    if levels.ndim != 2 or levels.dtype.kind not in "ui":
        raise InputError(f"{path}: a label with one channel of 8 or 16 bits is needed")
    return levels


def read_intrinsics(path: Path) -> np.ndarray:
    """(3, 3) pinhole intrinsics in pixels of a text file."""
    return read_matrix(path, 3, "camera intrinsics")


TO_OUR_CAMERA = np.diag([1.0, -1, -1, 1])
"""Between x right, y down, z forward, as files have it, and x right, y up, z towards the viewer."""


def read_pose(path: Path) -> np.ndarray:
    """(4, 4) camera-to-world of a text file that has it for x right, y down, z forward; ours, see ``Sample.pose``."""
    return read_matrix(path, 4, "numbers of a camera pose") @ TO_OUR_CAMERA


def read_matrix(path: Path, side: int, what: str) -> np.ndarray:
    """A square matrix of a text file."""
    try:
        matrix = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {side} x {side} {what} ({error})") from error
    if matrix.shape != (side, side):
        raise InputError(f"{path}: holds {matrix.shape} numbers; {side} x {side} {what} are needed")
    return matrix
