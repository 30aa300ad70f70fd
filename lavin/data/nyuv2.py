"""NYU Depth v2 (Silberman et al. 2012): indoor pictures with depth and normals, in each form that people have."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavin.data.adapter import PublicData
from lavin.data.depth import metres, normals_from_depth
from lavin.data.files import read_levels
from lavin.data.sample import Sample
from lavin.errors import InputError
from lavin.io import image_files, read_image

LABELED = "nyu_depth_v2_labeled.mat"
COLOUR_CAMERA = np.array([[518.857901, 0, 325.082445], [0, 519.469611, 253.236166], [0, 0, 1]])
"""Intrinsics of the colour camera, to which depth is registered (the data set's toolbox, whose first pixel is at 1)."""
EIGEN_CROP = (slice(45, 471), slice(41, 601))
"""Rows and columns that benchmarks score (Eigen et al. 2014); the rest is a white border or has no depth."""
ZERO_LENGTH = 0.1
"""Shortest vector that is a stored normal; 8 bits cannot make one of length 1 so short."""
BROKEN_ARRAY = (OSError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError)
"""What scipy, h5py and numpy raise on files that are damaged or hold something else."""


class NYUv2(PublicData):
    """Depth in metres and unit normals of 480 x 640 pictures; called by their number in the labelled set, from 0.

    Three layouts are told apart by their files:

    - ``nyu_depth_v2_labeled.mat`` (MATLAB 7.3) with ``splits.mat``: raw and filled depth;
    - ``official_splits/{train,test}/<scene>/{rgb,sync_depth}_<number>``: raw depth, 16-bit millimetres;
    - ``{train,test}/<number>_{img,normal}.png``, ``<number>_intrins.npy``, as DSINE publishes them: normals, no depth.

    Args:
        depth: ``raw``, as measured, for scores; or ``filled`` (inpainted), which only the MATLAB file has. None is
            filled for the training split where it is there, else raw.
        normals: ``depth`` makes them of the depth; ``none`` leaves them out; or DSINE's folder, which holds those
            that the literature scores.
        eigen_crop: nothing is known outside ``EIGEN_CROP``.
        split_file: a ``splits.mat`` elsewhere, or a text file of the split's numbers, from 1, one a line.
    """

    dataset = "nyuv2"
    licence = "NYU Depth v2: none stated, research use"
    splits = ("test", "train")
    layout = (
        f"{LABELED} and splits.mat, or official_splits/{{train,test}}/<scene>/{{rgb_*.jpg,sync_depth_*.png}}, "
        "or {train,test}/*_{img.png,normal.png,intrins.npy}"
    )
    official = {"test": 654, "train": 795}

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        complete: bool = True,
        depth: str | None = None,
        normals: str | Path = "depth",
        eigen_crop: bool = False,
        split_file: str | Path | None = None,
    ):
        if depth not in (None, "raw", "filled"):
            raise InputError(f"depth is '{depth}'; it must be 'raw' or 'filled'")
        self.depth, self.eigen_crop, self.split_file = depth, eigen_crop, split_file
        self.normals = normals
        super().__init__(root, split, complete)

    def find(self) -> list[str]:
        self.form = self.open_form()
        self.scored_normals = None
        if self.normals not in ("depth", "none"):
            self.scored_normals = DSINENormals(Path(self.normals), self.split)
            if not self.scored_normals.numbers:
                what = f"{self.normals}: no {self.split}/<number>_normal.png"
                raise InputError(f"{what}; normals may be 'depth', 'none' or DSINE's folder")
        return [f"{number:06}" for number in self.form.numbers]

    def open_form(self) -> Labeled | OfficialSplits | DSINENormals:
        if (self.root / LABELED).is_file():
            return Labeled(self.root, self.split, self.depth, self.split_file)
        for kind, places in ((OfficialSplits, ("official_splits", "")), (DSINENormals, ("", "dsine_eval/nyuv2"))):
            for place in places:
                form = kind(self.root / place, self.split)
                if form.numbers:
                    if self.depth == "filled":
                        raise InputError(f"{self.root}: depth='filled' is in {LABELED} only")
                    return form
        raise self.error(f"neither {LABELED} nor pictures of split '{self.split}'")

    def files(self, index: int) -> list[Path]:
        number = self.form.numbers[index]
        return self.form.files(number) + ([self.scored_normals.normal(number)] if self.scored_normals else [])

    def load(self, index: int) -> Sample:
        number, provenance = self.form.numbers[index], self.provenance
        maps = self.form.read(number)
        depth, normals, K = maps.get("depth"), maps.get("normals"), maps.get("K", COLOUR_CAMERA)
        if self.scored_normals:
            normals = self.scored_normals.read_normals(number)
        elif self.normals == "none":
            normals = None
        elif depth is not None:
            normals, provenance = normals_from_depth(depth, K), "ground truth; normals from depth"
        for name, label in (("depth", depth), ("normals", normals)):
            if label is not None and label.shape[:2] != maps["rgb"].shape[:2]:
                sizes = ["{1}x{0}".format(*shape) for shape in (label.shape, maps["rgb"].shape)]
                raise InputError(f"{self.root}: {name} of picture {number} is {sizes[0]} but the picture {sizes[1]}")
        if self.eigen_crop:
            depth, normals = keep_crop(depth, np.nan), keep_crop(normals, 0)
        return self.sample(
            index,
            maps["rgb"],
            depth=None if depth is None else torch.from_numpy(depth)[None],
            normals=None if normals is None else torch.from_numpy(normals).permute(2, 0, 1)[:, None].contiguous(),
            K=torch.from_numpy(K).float(),
            provenance=provenance,
        )


def keep_crop(values: np.ndarray | None, unknown: float) -> np.ndarray | None:
    """What is outside ``EIGEN_CROP`` becomes unknown."""
    if values is None:
        return None
    kept = np.full_like(values, unknown)
    kept[EIGEN_CROP] = values[EIGEN_CROP]
    return kept


class Labeled:
    """The labelled set in one MATLAB 7.3 file, which is HDF5: axes come reversed, for MATLAB's are column-major.

    Raises:
        InputError: h5py is missing, or a file is damaged or not what its name says.
    """

    def __init__(self, root: Path, split: str, depth: str | None, split_file: str | Path | None):
        try:
            import h5py  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"{root / LABELED} is read with h5py, which is not installed: pip install 'lavin[benchmarks]'"
            ) from error
        self.path = root / LABELED
        kind = depth or ("filled" if split == "train" else "raw")
        self.depth = "depths" if kind == "filled" else "rawDepths"
        with opened(self.path) as file:
            shape = file["images"].shape
            if len(shape) != 4 or shape[1] != 3 or file[self.depth].shape != (shape[0], *shape[2:]):
                raise ValueError(f"images are {shape} and {self.depth} {file[self.depth].shape}")
        self.numbers = read_split(Path(split_file) if split_file else root / "splits.mat", split, shape[0])

    def files(self, number: int) -> list[Path]:
        return [self.path]

    def read(self, number: int) -> dict[str, Any]:
        with opened(self.path) as file:
            rgb, depth = file["images"][number].transpose(2, 1, 0), file[self.depth][number].T
        depth = np.ascontiguousarray(depth, dtype=np.float32)
        return {"rgb": rgb, "depth": np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file for the time of a read, so that worker processes share no handle.

    Raises:
        InputError: it is damaged, or not what the body takes it for.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except BROKEN_ARRAY as error:
        raise InputError(f"{path}: damaged, or not the labelled set as MATLAB 7.3 ({error})") from error


def read_split(path: Path, split: str, count: int) -> list[int]:
    """Numbers of a split's pictures, from 0, in rising order.

    Args:
        path: MATLAB's ``splits.mat`` (``trainNdxs``, ``testNdxs``), or a text file; both count from 1.
        count: how many pictures there are.

    Raises:
        InputError: no such file, or other things than numbers of pictures in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {LABELED} needs splits.mat beside it, or split_file=FILE")
    from scipy.io import loadmat, matlab

    try:
        if path.suffix == ".mat":
            numbers = loadmat(path)[f"{split}Ndxs"].ravel().astype(np.int64)
        else:
            numbers = np.loadtxt(path, dtype=np.int64, ndmin=1).ravel()
    except (*BROKEN_ARRAY, matlab.MatReadError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as the split '{split}' ({error})") from error
    if not len(numbers) or numbers.min() < 1 or numbers.max() > count or len(set(numbers)) < len(numbers):
        raise InputError(f"{path}: the split '{split}' must be different numbers from 1 to {count}")
    return sorted(int(number) - 1 for number in numbers)


class OfficialSplits:
    """``<split>/<scene>/rgb_<number>.jpg`` with ``sync_depth_<number>.png`` in millimetres."""

    def __init__(self, root: Path, split: str):
        self.pictures: dict[int, Path] = {}
        scenes = sorted(path for path in (root / split).iterdir() if path.is_dir()) if (root / split).is_dir() else []
        for path in (path for scene in scenes for path in image_files(scene)):
            if match := re.fullmatch(r"rgb_(\d+)", path.stem):
                number = int(match[1])
                if number in self.pictures:
                    raise InputError(
                        f"{root / split}: picture {number} is there twice: {self.pictures[number]}, {path}"
                    )
                self.pictures[number] = path
        self.numbers = sorted(self.pictures)

    def files(self, number: int) -> list[Path]:
        picture = self.pictures[number]
        return [picture, picture.with_name(picture.stem.replace("rgb", "sync_depth") + ".png")]

    def read(self, number: int) -> dict[str, Any]:
        picture, depth = self.files(number)
        return {"rgb": np.asarray(read_image(picture)), "depth": metres(read_levels(depth))}


class DSINENormals:
    """``<split>/<number>_img.png`` with ``_normal.png`` and ``_intrins.npy``: the normals of GeoNet (Qi et al. 2018) as
    DSINE (Bae and Davison 2024) publishes them. Its axes are x left, y up, z towards the viewer."""

    def __init__(self, root: Path, split: str):
        self.folder = root / split
        found = image_files(self.folder) if self.folder.is_dir() else []
        matches = (re.fullmatch(r"(\d+)_normal\.png", path.name) for path in found)
        self.names = {int(match[1]): match[1] for match in matches if match}
        self.numbers = sorted(self.names)

    def normal(self, number: int) -> Path:
        return self.folder / f"{self.names.get(number, f'{number:06}')}_normal.png"

    def files(self, number: int) -> list[Path]:
        return [self.folder / f"{self.names[number]}_{ending}" for ending in ("img.png", "normal.png", "intrins.npy")]

    def read_normals(self, number: int) -> np.ndarray:
        """Unit normals in our axes, float32 (height, width, 3); zeros where black."""
        levels = np.asarray(read_image(self.normal(number)))
        normals = levels.astype(np.float32) / 127.5 - 1
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        known = levels.any(-1, keepdims=True) & (length > ZERO_LENGTH)
        return np.where(known, normals / np.maximum(length, ZERO_LENGTH) * np.float32([-1, 1, 1]), np.float32(0))

    def read(self, number: int) -> dict[str, Any]:
        picture, _, intrinsics = self.files(number)
        try:
            K = np.load(intrinsics, allow_pickle=False).astype(np.float64)
        except BROKEN_ARRAY as error:
            raise InputError(f"{intrinsics}: cannot be read as 3 x 3 camera intrinsics ({error})") from error
        if K.shape != (3, 3):
            raise InputError(f"{intrinsics}: holds {K.shape} numbers; 3 x 3 camera intrinsics are needed")
        return {"rgb": np.asarray(read_image(picture)), "normals": self.read_normals(number), "K": K}
