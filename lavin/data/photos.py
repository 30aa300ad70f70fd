"""Real images as sources: CamVid, BSDS500 and an RGB-D video, in folders as their data sets have them.

Pictures have any size; a sample is a square, as the model sees it: labels are cut and squashed with their picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lavin.data.sample import Instance, Sample, Vocabulary
from lavin.errors import InputError
from lavin.io import BROKEN_FILE, image_files, read_image
from lavin.suggest import unknown

SPLITS = {"train": "train", "validation": "val"}
"""Split -> its folder in the data sets that have one for each."""
LEAST_SHARE = 0.5
"""Least height and width of a crop, in those of its picture."""
WIDEST = 4 / 3
"""Width to height of a crop, and the inverse, where the picture allows it: squashing distorts no more than this."""

Maps = dict[str, np.ndarray]
"""A picture, ``rgb``, and its labels at full size, each (height, width) or (height, width, 3)."""


@dataclass(frozen=True)
class View:
    """A rectangle of a picture, perhaps mirrored, that becomes a square of ``size`` pixels."""

    top: int
    left: int
    height: int
    width: int
    size: int
    flip: bool = False

    def resample(self, values: np.ndarray, method: Image.Resampling) -> Tensor:
        """Antialiased: levels (height, width, 3), or one float32 per pixel."""
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        return self._oriented(np.asarray(Image.fromarray(values).resize((self.size, self.size), method, box)))

    def nearest(self, values: np.ndarray) -> Tensor:
        """The value under the centre of each pixel of the square."""
        centres = (np.arange(self.size) + 0.5) / self.size
        rows, columns = ((centres * side).astype(int) for side in (self.height, self.width))
        return self._oriented(values[self.top + rows][:, self.left + columns])

    def _oriented(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy((values[:, ::-1] if self.flip else values).copy())

    def intrinsics(self, K: np.ndarray) -> Tensor:
        """Pinhole intrinsics of the square, from the picture's; (0, 0) is the top left corner of the first pixel."""
        x, y = self.size / self.width, self.size / self.height
        K = np.array([[x, 0, -x * self.left], [0, y, -y * self.top], [0, 0, 1]]) @ K
        if self.flip:
            K[0, 2] = self.size - K[0, 2]
        return torch.from_numpy(K).float()


def draw_view(rng: np.random.Generator, height: int, width: int, size: int) -> View:
    """A crop of half to all of each side and within ``WIDEST`` where the picture allows that, mirrored or not."""

    def draw(side: int, low: float, high: float) -> int:
        low, high = min(max(LEAST_SHARE * side, low), side), max(LEAST_SHARE * side, min(high, side))
        return round(rng.uniform(min(low, high), high))

    rows = draw(height, LEAST_SHARE * width / WIDEST, width * WIDEST)
    columns = draw(width, rows / WIDEST, rows * WIDEST)
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    return View(top, left, rows, columns, size, flip=bool(rng.random() < 0.5))


class Photos:
    """Source of real pictures with labels, one frame per Sample; its kinds are in ``KINDS``.

    Index i is picture ``i % len(source)``. Where it augments, i also draws a crop and whether that is mirrored, a
    function of (seed, i), so that the indices never end; where not, the sample is the whole picture, squashed to a
    square as ``lavin infer`` does it. A picture is decoded when first asked for, and then stays in memory.

    Args:
        folder: where the data set lies.
        split: "train" or "validation".
        size: side of the square in pixels.
        seed: of the augmentation; another seed is another series of crops.
        augment: None to augment the training split only.

    Raises:
        InputError: an unknown split, no such folder, no pictures in it, or a label that is missing or not of its
            picture's size. Damaged files are found when they are read.
    """

    dataset: ClassVar[str]
    licence: ClassVar[str]
    provenance: ClassVar[str] = "ground truth"
    labels: ClassVar[str]
    """Folder beside ``images``."""
    vocabulary = Vocabulary()

    def __init__(
        self, folder: str | Path, split: str = "train", size: int = 128, seed: int = 0, augment: bool | None = None
    ):
        if split not in SPLITS:
            raise InputError(unknown("split", split, SPLITS))
        self.folder, self.split, self.size, self.seed = Path(folder), split, size, seed
        self.augment = split == "train" if augment is None else augment
        self.files = self.find()
        for picture, label in self.files:
            check_pair(picture, label)
        self._decoded: dict[int, Maps] = {}

    def __len__(self) -> int:
        """How many different pictures there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        number = index % len(self)
        if number not in self._decoded:
            self._decoded[number] = self.decode(*self.files[number])
        maps = self._decoded[number]
        height, width, _ = maps["rgb"].shape
        view, series = View(0, 0, height, width, self.size), ""
        if self.augment:
            view = draw_view(np.random.default_rng((self.seed, index)), height, width, self.size)
            series = f"{self.seed}/"
        return Sample(
            id=f"{self.dataset}/{self.split}/{series}{index}",
            clip=view.resample(maps["rgb"], Image.Resampling.BICUBIC)[None],
            dataset=self.dataset,
            split=self.split,
            licence=self.licence,
            provenance=self.provenance,
            **self.annotate(maps, view),
        )

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        return [self[int(index)] for index in indices]

    def find(self) -> list[tuple[Path, Path]]:
        """(picture, label) files of the split, in the order of the source."""
        part = self.folder / SPLITS[self.split]
        files = [(path, part / self.labels / f"{path.stem}.png") for path in image_files(part / "images")]
        if not files:
            raise InputError(f"{part / 'images'}: no pictures")
        return files

    def decode(self, picture: Path, label: Path) -> Maps:
        """All that samples need of a picture."""
        raise NotImplementedError

    def annotate(self, maps: Maps, view: View) -> dict[str, Any]:
        """The sample's labels, as fields of Sample."""
        raise NotImplementedError


class CamVid(Photos):
    """Driving scenes with a class for every pixel: ``{train,val}/{images/*,labels/*.png}``, class index or void.

    The labels tell no objects apart: a sample has one instance per class, all its pixels, marked as crowd. So it can
    be asked for as foreground, but is nothing to be counted, boxed or pointed at.
    """

    dataset = "camvid"
    licence = "CamVid: research use"
    labels = "labels"
    vocabulary = Vocabulary(
        things=(
            "sky",
            "building",
            "pole",
            "road",
            "pavement",
            "tree",
            "sign",
            "fence",
            "car",
            "pedestrian",
            "bicyclist",
        )
    )
    VOID = 11
    """Class index in the files; 255 means the same."""

    def decode(self, picture: Path, label: Path) -> Maps:
        classes = read_levels(label)
        strange = classes[(classes > self.VOID) & (classes != 255)]
        if len(strange):
            raise InputError(f"{label}: class index {strange[0]}; 0 to {self.VOID} (void), or 255, is needed")
        classes = np.where(classes == self.VOID, 255, classes).astype(np.uint8)
        return {"rgb": np.asarray(read_image(picture)), "semantic": classes}

    def annotate(self, maps: Maps, view: View) -> dict[str, Any]:
        semantic = view.nearest(maps["semantic"])[None]
        present = [number for number in semantic.unique().tolist() if number != 255]
        return {"semantic": semantic, "instances": [self._region(number, semantic == number) for number in present]}

    def _region(self, number: int, mask: Tensor) -> Instance:
        _, y, x = mask.nonzero(as_tuple=True)
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])[None].float()
        return Instance(number, self.vocabulary.things[number], mask, box, track_id=number, crowd=True)


class BSDS500(Photos):
    """Natural photos with people's drawings of boundaries: ``{train,val}/{images/*,boundaries/*.png}``, 0 to 255 for
    none to all of the people."""

    dataset = "bsds500"
    licence = "BSDS500: non-commercial research"
    labels = "boundaries"

    def decode(self, picture: Path, label: Path) -> Maps:
        share = read_levels(label).astype(np.float32) / 255
        return {"rgb": np.asarray(read_image(picture)), "boundaries": share}

    def annotate(self, maps: Maps, view: View) -> dict[str, Any]:
        return {"boundaries": view.resample(maps["boundaries"], Image.Resampling.BILINEAR).clamp(0, 1)[None]}


class RGBD(Photos):
    """An indoor video with depth, in the layout of 7-Scenes: ``train/<frame>.color.jpg``, ``train/<frame>.depth.png``
    (16-bit millimetres, 0 or 65535 = unknown) and ``camera-intrinsics.txt``; poses are not read.

    The first 80 % of its frames are for training, the last 15 % for validation; those between are used by neither,
    since neighbouring frames show nearly the same. Colour and depth are taken to be registered. Normals are those of
    the measured depth, smoothed; see ``normals_from_depth``.
    """

    dataset = "rgbd"
    licence = "7-Scenes: research use"
    provenance = "depth camera"
    TRAIN_PERCENT, VALIDATION_PERCENT = 80, 15

    def find(self) -> list[tuple[Path, Path]]:
        self.K = read_intrinsics(self.folder / "camera-intrinsics.txt")
        ending = ".color.jpg"
        pictures = [path for path in image_files(self.folder / "train") if path.name.endswith(ending)]
        train, validation = (len(pictures) * share // 100 for share in (self.TRAIN_PERCENT, self.VALIDATION_PERCENT))
        if not validation:
            raise InputError(f"{self.folder / 'train'}: {len(pictures)} frames *{ending}; at least 7 are needed")
        chosen = pictures[:train] if self.split == "train" else pictures[-validation:]
        return [(path, path.with_name(path.name.removesuffix(ending) + ".depth.png")) for path in chosen]

    def decode(self, picture: Path, label: Path) -> Maps:
        depth = read_levels(label)
        normals = normals_from_depth(metres(depth), self.K)
        levels = (normals * 127).round().astype(np.int8)  # 0.3 degrees at most, and a quarter of the memory
        return {"rgb": np.asarray(read_image(picture)), "depth": depth.astype(np.uint16), "normals": levels}

    def annotate(self, maps: Maps, view: View) -> dict[str, Any]:
        normals = view.nearest(maps["normals"]).float()
        normals = torch.nn.functional.normalize(normals, dim=2)  # zeros stay zeros
        if view.flip:
            normals[..., 0] *= -1
        return {
            "depth": torch.from_numpy(metres(view.nearest(maps["depth"]).numpy()))[None],
            "normals": normals.permute(2, 0, 1)[:, None].contiguous(),
            "K": view.intrinsics(self.K),
        }


KINDS: dict[str, type[Photos]] = {"camvid": CamVid, "bsds500": BSDS500, "rgbd": RGBD}


def open_photos(
    kind: str, folder: str | Path, split: str, size: int, seed: int = 0, augment: bool | None = None
) -> Photos:
    """The source of that kind, see ``Photos``.

    Raises:
        InputError: an unknown kind, or a folder that does not hold it.
    """
    if kind not in KINDS:
        raise InputError(unknown("kind of photos", kind, KINDS))
    return KINDS[kind](folder, split, size, seed, augment)


# --- Files ------------------------------------------------------------------------------------------------------------


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


def read_levels(path: Path) -> np.ndarray:
    """Label levels as they are stored, 8 or 16 bits, (height, width); of a palette picture the indices."""
    try:
        with Image.open(path) as image:
            levels = np.array(image)
    except BROKEN_FILE as error:
        raise InputError(f"{path}: damaged or truncated image ({error})") from error
    if levels.ndim != 2 or levels.dtype.kind not in "ui":
        raise InputError(f"{path}: a label with one channel of 8 or 16 bits is needed")
    return levels


def read_intrinsics(path: Path) -> np.ndarray:
    """(3, 3) pinhole intrinsics in pixels of a text file."""
    try:
        K = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as 3 x 3 camera intrinsics ({error})") from error
    if K.shape != (3, 3):
        raise InputError(f"{path}: holds {K.shape} numbers; 3 x 3 camera intrinsics are needed")
    return K


# --- Depth ------------------------------------------------------------------------------------------------------------


def metres(depth_mm: np.ndarray) -> np.ndarray:
    """float32 metres of 16-bit millimetres; NaN where 0 or 65535, which mean that nothing was measured."""
    known = (depth_mm != 0) & (depth_mm != 65535)
    return np.where(known, depth_mm / np.float32(1000), np.float32(np.nan))


JUMP = np.log(1.05)
"""Neighbouring depths that differ by more than 5 % belong to two surfaces."""
FAR_M = 20_000.0
"""Stands for an unknown depth; so far from all others that no filter mixes them."""
LITTLE = 1e-3
"""Scale of slopes beside log depth in a bilateral filter, so that depth alone says which pixels are averaged."""


def normals_from_depth(depth_m: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Unit normals of a depth picture, float32 (height, width, 3): x right, y up, z towards the viewer.

    With l = log depth, and u, v in pixels from the principal point, back-projection gives a surface the normal

        (fx dl/dx, -fy dl/dy, 1 + u dl/dx + v dl/dy)    up to its length.

    A camera measures depth in steps larger than a pixel's slope, so the slopes, central differences of median-filtered
    depth, are averaged over pixels of nearly equal depth. Averaging the depth itself would flatten every slope that
    ends at a hole or at the picture's border. Zeros where depth is unknown, or a jump or an unknown pixel lies between
    the two points of a difference.

    Args:
        depth_m: (height, width) planar depth, NaN = unknown.
        K: (3, 3) pinhole intrinsics in pixels.
    """
    height, width = depth_m.shape
    step, radius = max(1, width // 320), max(2, width // 80)
    unknown = np.isnan(depth_m)
    log_depth = cv2.medianBlur(np.log(np.where(unknown, np.float32(FAR_M), depth_m)), 5)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (2 * step + 1, 2 * step + 1))
    unknown |= cv2.dilate(jumps(log_depth), cross) > 0

    right, down = slopes(log_depth, step, axis=1), slopes(log_depth, step, axis=0)
    layers = np.stack([log_depth, right * LITTLE, down * LITTLE], axis=-1)
    layers[unknown] = np.log(FAR_M), 0, 0
    border = 2 + step  # where the median and the differences have no room; filled from inside
    layers = layers[border:-border, border:-border]
    for _ in range(2):
        layers = cv2.bilateralFilter(layers, 2 * radius + 1, 0.6 * JUMP, radius)
    log_depth, right, down = np.pad(layers, ((border, border), (border, border), (0, 0)), "edge").transpose(2, 0, 1)
    right, down = right / LITTLE, down / LITTLE
    unknown |= log_depth > np.log(FAR_M) - 1

    v, u = np.mgrid[:height, :width].astype(np.float32) + 0.5 - K[[1, 0], 2].astype(np.float32).reshape(2, 1, 1)
    normals = np.stack([K[0, 0] * right, -K[1, 1] * down, 1 + u * right + v * down], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[unknown] = 0
    return normals.astype(np.float32)


def slopes(values: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Change per pixel between the points ``step`` before and after each; wrong closer than that to the border."""
    return (np.roll(values, -step, axis) - np.roll(values, step, axis)) / np.float32(2 * step)


def jumps(log_depth: np.ndarray) -> np.ndarray:
    """1 where a pixel and one of its four neighbours are on two surfaces, uint8."""
    found = np.zeros(log_depth.shape, np.uint8)
    for axis in range(2):
        apart = np.abs(np.diff(log_depth, axis=axis)) > JUMP
        low, high = ([slice(None)] * 2 for _ in range(2))
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        found[tuple(low)] |= apart
        found[tuple(high)] |= apart
    return found
