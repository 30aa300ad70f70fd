"""PASCAL VOC 2012 (Everingham et al. 2010), and PASCAL-5i, its four folds of classes (Shaban et al. 2017)."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from lavin.data.adapter import PublicData
from lavin.data.files import read_levels, read_list
from lavin.data.sample import Instance, Sample, Vocabulary
from lavin.errors import InputError
from lavin.io import read_image

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle"),
    *("bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""In the files 1 to 20; a row is a fold of PASCAL-5i."""
FOLD = 5
"""Classes of a fold."""
VOID = 255
VOCABULARY = Vocabulary(things=CLASSES, stuff=("background",))
YEAR = "VOC2012"
LENGTHS = {
    "boxes": {"train": 5717, "val": 5823, "trainval": 11540},
    "segments": {"train": 1464, "val": 1449, "trainval": 2913},
}
"""Of the lists."""


class VOC(PublicData):
    """What the sets on VOC's pictures share."""

    licence = "PASCAL VOC 2012: Flickr's terms, research use"
    vocabulary = VOCABULARY

    @property
    def folder(self) -> Path:
        """Of the year, which may be the root itself."""
        places = (self.root / "VOCdevkit" / YEAR, self.root / YEAR, self.root)
        return next((place for place in places if (place / "JPEGImages").is_dir()), self.root)

    def picture(self, name: str) -> Path:
        return self.folder / "JPEGImages" / f"{name}.jpg"

    def read_classes(self, path: Path, rgb: np.ndarray) -> np.ndarray:
        """Class of every pixel as it is stored: 0 background, 1 to 20, 255 void.

        Raises:
            InputError: another number, or not the picture's size.
        """
        classes = read_levels(path)
        if classes.shape != rgb.shape[:2]:
            sizes = ["{1}x{0}".format(*shape) for shape in (classes.shape, rgb.shape)]
            raise InputError(f"{path}: is {sizes[0]} but its picture is {sizes[1]}")
        strange = classes[(classes > len(CLASSES)) & (classes != VOID)]
        if len(strange):
            raise InputError(
                f"{path}: class {strange[0]}; 0 (background) to {len(CLASSES)}, or {VOID} (void), is needed"
            )
        return classes


def semantic(classes: np.ndarray) -> Tensor:
    """Stored classes as ``Sample.semantic``: things from 0, then the background, 255 = void."""
    ids = np.where(classes == 0, len(CLASSES), np.where(classes == VOID, VOID, classes.astype(np.int64) - 1))
    return torch.from_numpy(ids.astype(np.uint8))[None]


def instance(class_id: int, mask: np.ndarray, track_id: int = 0, crowd: bool = False) -> Instance:
    """One object, or all of a class, by its pixels, bool (height, width)."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=torch.float32)
    return Instance(class_id, CLASSES[class_id], torch.from_numpy(mask)[None], box, track_id, crowd=crowd)


class VOC2012(VOC):
    """Objects by class: their boxes, or their pixels.

    Args:
        labels: ``boxes`` of the detection lists (``ImageSets/Main``); an object's mask is its filled box.
            ``segments`` of the segmentation lists (``ImageSets/Segmentation``): pixels of classes and objects.
        single_below: only pictures with exactly one annotated object, whose box covers less than this share of the
            picture: 0.2 in the visual-prompting literature (Bar et al. 2022). Of ``boxes`` only.
        fold: of those, only objects of this fold of PASCAL-5i, 0 to 3: five classes each.

    Boxes are corners in pixels from 0, x1 and y1 exclusive; in the files they count from 1, inclusive. Objects marked
    difficult are objects like others.
    """

    dataset = "voc2012"
    splits = ("val", "train", "trainval")
    layout = (
        "[VOCdevkit/]VOC2012/{JPEGImages/*.jpg,Annotations/*.xml,ImageSets/{Main,Segmentation}/<split>.txt,"
        "SegmentationClass/*.png,SegmentationObject/*.png}"
    )

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        complete: bool = True,
        labels: str = "boxes",
        single_below: float | None = None,
        fold: int | None = None,
    ):
        if labels not in ("boxes", "segments"):
            raise InputError(f"labels is '{labels}'; it must be 'boxes' or 'segments'")
        if single_below is not None and labels != "boxes":
            raise InputError("single_below is an option of labels='boxes'")
        if fold is not None and (single_below is None or fold not in range(4)):
            raise InputError(f"fold is {fold}; it must be 0, 1, 2 or 3, and single_below be given")
        self.labels, self.single_below, self.fold = labels, single_below, fold
        super().__init__(root, split, complete)
        if single_below is not None:
            self.names = [name for name in self.names if self.is_single(name, single_below)]
            if not self.names:
                of_fold = "" if fold is None else f" of fold {fold}"
                raise self.error(
                    f"no picture of '{self.split}' has one object{of_fold} that covers less than {single_below:g}"
                )

    def expected(self) -> int | None:
        return None if self.single_below is not None else LENGTHS[self.labels].get(self.split)

    def find(self) -> list[str]:
        kind = "Main" if self.labels == "boxes" else "Segmentation"
        path = self.folder / "ImageSets" / kind / f"{self.split}.txt"
        if not path.is_file():
            raise self.error(f"no list {path.relative_to(self.root)}")
        return read_list(path)

    def files(self, index: int) -> list[Path]:
        name = self.names[index]
        if self.labels == "boxes":
            return [self.picture(name), self.annotation(name)]
        return [
            self.picture(name),
            *(self.folder / f"Segmentation{kind}" / f"{name}.png" for kind in ("Class", "Object")),
        ]

    def annotation(self, name: str) -> Path:
        return self.folder / "Annotations" / f"{name}.xml"

    def is_single(self, name: str, share: float) -> bool:
        objects, (width, height) = read_annotation(self.annotation(name))
        if len(objects) != 1 or self.fold not in (None, objects[0][0] // FOLD):
            return False
        x0, y0, x1, y1 = objects[0][1]
        return (x1 - x0) * (y1 - y0) < share * width * height

    def class_of(self, index: int) -> str:
        """Class of the first object, without reading the picture; of ``single_below`` the only one."""
        return CLASSES[read_annotation(self.annotation(self.names[index]))[0][0][0]]

    def load(self, index: int) -> Sample:
        rgb = np.asarray(read_image(self.picture(self.names[index])))
        if self.labels == "boxes":
            return self.sample(index, rgb, instances=self.boxes(index, rgb))
        classes_path, objects_path = self.files(index)[1:]
        classes, objects = self.read_classes(classes_path, rgb), read_levels(objects_path)
        if objects.shape != classes.shape:
            raise InputError(f"{objects_path}: is not of its picture's size")
        found = []
        for number in np.unique(objects[(objects != 0) & (objects != VOID)]):
            mask = objects == number
            inside = classes[mask & (classes != 0) & (classes != VOID)]
            if len(inside):
                found.append(instance(int(np.bincount(inside).argmax()) - 1, mask, int(number)))
        return self.sample(index, rgb, instances=found, semantic=semantic(classes))

    def boxes(self, index: int, rgb: np.ndarray) -> list[Instance]:
        path = self.annotation(self.names[index])
        objects, size = read_annotation(path)
        if size != rgb.shape[1::-1]:
            raise InputError(f"{path}: says {size[0]}x{size[1]} but its picture is {rgb.shape[1]}x{rgb.shape[0]}")
        found = []
        for number, (class_id, box) in enumerate(objects):
            mask = np.zeros(rgb.shape[:2], bool)
            x0, y0, x1, y1 = (int(side + 0.5) for side in box)
            mask[y0:y1, x0:x1] = True
            corners = torch.tensor([box], dtype=torch.float32)
            found.append(Instance(class_id, CLASSES[class_id], torch.from_numpy(mask)[None], corners, number))
        return found


Box = tuple[float, float, float, float]


def read_annotation(path: Path) -> tuple[list[tuple[int, Box]], tuple[int, int]]:
    """Objects of a VOC annotation as (class, box), and the picture's (width, height).

    Parts of objects, e.g. a person's head, are left out. Boxes are x0, y0, x1, y1 from 0, x1 and y1 exclusive.

    Raises:
        InputError: no XML, an unknown class, or a box that is empty or outside the picture.
    """
    try:
        tree = ElementTree.parse(path).getroot()
        width, height = (int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        objects = []
        for one in tree.findall("object"):
            name = one.findtext("name")
            if name not in CLASSES:
                raise InputError(f"{path}: class '{name}' is none of VOC's {len(CLASSES)}")
            x0, y0, x1, y1 = (float(one.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            if not (1 <= x0 <= x1 <= width and 1 <= y0 <= y1 <= height):
                raise InputError(f"{path}: box {x0:g} {y0:g} {x1:g} {y1:g} is not inside 1 to {width} x {height}")
            objects.append((CLASSES.index(name), (x0 - 1, y0 - 1, x1, y1)))
    except InputError:
        raise
    except (OSError, ElementTree.ParseError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a VOC annotation ({error})") from error
    return objects, (width, height)


class Pascal5i(VOC):
    """Entries of PASCAL-5i: a picture and one of the fold's classes, whose pixels are the sample's only instance.

    The instance is marked as a crowd: it is all of the class. ``semantic`` holds the other classes and void, which the
    visual-prompting literature counts as background.

    Args:
        fold: 0 to 3, called splits 1 to 4 in tables: classes 1 to 5, 6 to 10, 11 to 15 or 16 to 20.
        lists: folder of ``{val,trn}/fold<fold>.txt``, if it is not below the root; a line is ``<name>__<class>``, and
            classes count from 1.
    """

    dataset = "pascal5i"
    splits = ("val", "train")
    layout = (
        "[VOCdevkit/]VOC2012/{JPEGImages/*.jpg,SegmentationClassAug/*.png (or SegmentationClass)} "
        "and splits/[pascal/]{val,trn}/fold<0-3>.txt with lines <name>__<class>"
    )
    entries_of_folds = (346, 451, 725, 346)
    """Of the validation lists."""

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        complete: bool = True,
        fold: int = 0,
        lists: str | Path | None = None,
    ):
        if fold not in range(4):
            raise InputError(f"fold is {fold}; it must be 0, 1, 2 or 3")
        self.fold, self.lists = fold, lists
        super().__init__(root, split, complete)

    def find(self) -> list[str]:
        path = self.list_file()
        low = FOLD * self.fold + 1
        self.entries: list[tuple[str, int]] = []
        """Picture and class, from 0."""
        for number, line in enumerate(read_list(path), 1):
            match = re.fullmatch(r"(\w+?)__(\d+)", line)
            if match is None or not low <= int(match[2]) < low + FOLD:
                raise InputError(
                    f"{path}: entry {number} is '{line}'; <name>__<class> is needed, class {low} to {low + FOLD - 1}"
                )
            self.entries.append((match[1], int(match[2]) - 1))
        labels = [self.folder / f"SegmentationClass{kind}" for kind in ("Aug", "")]
        self.labels = next((folder for folder in labels if folder.is_dir()), labels[0])
        return [f"fold{self.fold}/{name}__{class_id + 1:02}" for name, class_id in self.entries]

    def list_file(self) -> Path:
        name = f"fold{self.fold}.txt"
        folders = [Path(self.lists)] if self.lists is not None else []
        if self.lists is None:
            folders += [base / place for base in (self.root, self.folder) for place in ("splits/pascal", "splits")]
        for folder in folders:
            for split in ("val",) if self.split == "val" else ("trn", "train"):
                if (folder / split / name).is_file():
                    return folder / split / name
        where = f"below {self.lists}" if self.lists is not None else "below splits/; give lists=DIR if it is elsewhere"
        raise self.error(f"no list {self.split}/{name} {where}")

    def expected(self) -> int | None:
        return self.entries_of_folds[self.fold] if self.split == "val" else None

    def files(self, index: int) -> list[Path]:
        name, _ = self.entries[index]
        return [self.picture(name), self.labels / f"{name}.png"]

    def class_of(self, index: int) -> str:
        """The entry's class, without reading a file."""
        return CLASSES[self.entries[index][1]]

    def load(self, index: int) -> Sample:
        picture, labels = self.files(index)
        rgb = np.asarray(read_image(picture))
        classes = self.read_classes(labels, rgb)
        class_id = self.entries[index][1]
        mask = classes == class_id + 1
        if not mask.any():
            raise InputError(f"{labels}: no pixel of class {class_id + 1} ({CLASSES[class_id]}), which the list says")
        return self.sample(index, rgb, instances=[instance(class_id, mask, crowd=True)], semantic=semantic(classes))
