"""Real images as sources: CamVid, BSDS500 and an RGB-D video, in folders as their data sets have them.

Pictures have any size; a sample is a square, as the model sees it: labels are cut and squashed with their picture.
Whole pictures at their own size are in ``lavin.data.public``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lavin.data.depth import metres, normals_from_depth
from lavin.data.files import check_pair, read_intrinsics, read_levels, read_pose
from lavin.data.sample import Instance, Sample, Vocabulary
from lavin.data.view import View, draw_view
from lavin.errors import InputError
from lavin.io import image_files, read_image
from lavin.suggest import unknown

Maps = dict[str, np.ndarray]
"""A picture, ``rgb``, and its labels at full size, each (height, width) or (height, width, 3)."""


class Photos:
    """Source of real pictures with labels, one frame per Sample; its kinds are in ``KINDS``.

    Index i is picture ``i % len(source)``. Where it augments, i also draws a crop and whether that is mirrored, a
    function of (seed, i), so that the indices never end; where not, the sample is the whole picture, squashed to a
    square as ``lavin infer`` does it. A picture is decoded when first asked for, and then stays in memory.

    Args:
        folder: where the data set lies.
        split: "train", "validation", or "test" where the data set has one.
        size: side of the square in pixels.
        seed: of the augmentation; another seed is another series of crops.
        augment: None to augment the training split only.
        complete: refuse files that are missing or disagree in size; else they are found when they are read.

    Raises:
        InputError: an unknown split, no such folder, no pictures in it, or a label that is missing or not of its
            picture's size. Damaged files are found when they are read.
    """

    dataset: ClassVar[str]
    licence: ClassVar[str]
    provenance: ClassVar[str] = "ground truth"
    labels: ClassVar[str]
    """Folder beside ``images``."""
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "test"}
    """Split -> its folder in the data sets that have one for each."""
    vocabulary = Vocabulary()

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        size: int = 128,
        seed: int = 0,
        augment: bool | None = None,
        complete: bool = True,
    ):
        if split not in self.splits:
            raise InputError(unknown("split", split, self.splits))
        self.folder, self.split, self.size, self.seed = Path(folder), split, size, seed
        self.augment = split == "train" if augment is None else augment
        self.files = self.find()
        for picture, label in self.files if complete else ():
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
        view, series = View(0, 0, height, width, (self.size, self.size)), ""
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
        part = self.folder / self.splits[self.split]
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
    (16-bit millimetres, 0 or 65535 = unknown), ``train/<frame>.pose.txt`` (camera-to-world, may be missing) and
    ``camera-intrinsics.txt``.

    The first 80 % of its frames are for training, the last 15 % for validation; those between are used by neither,
    since neighbouring frames show nearly the same. Colour and depth are taken to be registered. Normals are those of
    the measured depth, smoothed; see ``normals_from_depth``.
    """

    dataset = "rgbd"
    licence = "7-Scenes: research use"
    provenance = "depth camera"
    splits = {"train": "train", "validation": "train"}
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
        maps = {"rgb": np.asarray(read_image(picture)), "depth": depth.astype(np.uint16), "normals": levels}
        pose = label.with_name(label.name.removesuffix(".depth.png") + ".pose.txt")
        return maps | ({"pose": read_pose(pose)} if pose.is_file() else {})

    def annotate(self, maps: Maps, view: View) -> dict[str, Any]:
        normals = view.nearest(maps["normals"]).float()
        normals = torch.nn.functional.normalize(normals, dim=2)  # zeros stay zeros
        if view.flip:
            normals[..., 0] *= -1
        posed = "pose" in maps and not view.flip  # no camera sees a mirrored world
        return {
            "depth": torch.from_numpy(metres(view.nearest(maps["depth"]).numpy()))[None],
            "normals": normals.permute(2, 0, 1)[:, None].contiguous(),
            "K": view.intrinsics(self.K),
            "pose": torch.from_numpy(maps["pose"])[None].float() if posed else None,
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
