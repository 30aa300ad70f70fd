"""RefCOCO, RefCOCO+ and G-Ref: expressions that refer to one object of a COCO photo (Kazemzadeh et al. 2014; Yu et al.
2016; Mao et al. 2016)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lavin.data.adapter import NOT_INSTALLED, PublicData
from lavin.data.references import Reference, read_references
from lavin.data.sample import Instance, Sample, Vocabulary
from lavin.errors import InputError
from lavin.io import read_image

PHOTOS = ("train2014", "images/train2014", "images/mscoco/images/train2014", "train2017", "images/train2017")
"""Folders that may hold COCO's photos, below the root or beside it."""


class Expression(NamedTuple):
    """One text and the object that it means."""

    reference: Reference
    sent_id: int
    text: str


class RefCOCO(PublicData):
    """One sample an expression, as the protocol counts them: the object meant comes first among the instances and alone
    has ``expressions``, the one text; the photo's other objects follow.

    ``refs(<by>).p`` is a pickle. It is read once, by an unpickler that makes containers, strings and numbers only, and
    kept as JSON beside it where the folder can be written.

    Args:
        by: who split the set: ``unc``, ``google`` or ``umd``; None for the usual one, which G-Ref has from UMD.
        photos: folder of COCO's photos, if it is none of those in ``layout``. Photos of train2017 are the same.
    """

    dataset = "refcoco"
    licence = "RefCOCO tool: Apache-2.0; photos: Flickr's terms"
    splits = ("val", "testA", "testB", "train")
    by = "unc"
    official = {"val": 10_834, "testA": 5_657, "testB": 5_095}

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        complete: bool = True,
        by: str | None = None,
        photos: str | Path | None = None,
    ):
        self.by, self.photos = by or self.by, photos
        self.layout = (
            f"{self.dataset}/{{refs({self.by}).p,instances.json}} and COCO's photos in train2014/ "
            "or images/train2014/, below it or beside it"
        )
        super().__init__(root, split, complete)

    def expected(self) -> int | None:
        return super().expected() if self.by == type(self).by else None

    def find(self) -> list[str]:
        folder = self.root / self.dataset
        folder = folder if folder.is_dir() else self.root
        pickled, instances = folder / f"refs({self.by}).p", folder / "instances.json"
        for path in (pickled, instances):
            if not path.is_file():
                raise self.error(f"no {path.relative_to(self.root)}")
        references = [one for one in read_references(pickled) if one.split == self.split]
        self.objects = Objects(instances, {one.image_id for one in references})
        self.vocabulary = self.objects.vocabulary
        for one in references:
            if one.ann_id not in self.objects.by_photo[one.image_id]:
                raise InputError(f"{instances}: photo {one.image_id} has no object {one.ann_id}, which {pickled} names")
        self.folder = self.find_photos(folder)
        self.expressions = [Expression(one, *sentence) for one in references for sentence in one.sentences]
        return [f"{one.reference.ref_id}/{one.sent_id}" for one in self.expressions]

    def find_photos(self, folder: Path) -> Path:
        if self.photos is not None:
            places = [Path(self.photos)]
        else:
            places = [base / place for base in (self.root, folder, self.root.parent) for place in PHOTOS]
        for place in places:
            if place.is_dir():
                return place
        raise self.error("no folder of COCO's photos; give photos=DIR" if self.photos is None else f"no {self.photos}")

    def files(self, index: int) -> list[Path]:
        photo = self.expressions[index].reference.image_id
        names = (self.objects.images[photo][0], f"{photo:012}.jpg")  # as in 2014 and as in 2017
        return [next((self.folder / name for name in names if (self.folder / name).is_file()), self.folder / names[0])]

    def load(self, index: int) -> Sample:
        expression, (path,) = self.expressions[index], self.files(index)
        rgb, meant = np.asarray(read_image(path)), expression.reference
        instances = self.objects.read(meant.image_id, path, rgb.shape[:2])
        first = next(one for one in instances if one.track_id == meant.ann_id)
        first.expressions = [expression.text]
        return self.sample(index, rgb, instances=[first, *(one for one in instances if one is not first)])


class RefCOCOPlus(RefCOCO):
    """RefCOCO+, whose expressions say nothing of places; see ``RefCOCO``."""

    dataset = "refcoco+"
    official = {"val": 10_758, "testA": 5_726, "testB": 4_889}


class GRef(RefCOCO):
    """G-Ref (RefCOCOg), with longer expressions; see ``RefCOCO``. Google's split has no test."""

    dataset = "refcocog"
    splits = ("val", "test", "train")
    by = "umd"
    official = {}


class Objects:
    """The objects of some photos, from COCO's ``instances.json``.

    Raises:
        InputError: the file is damaged or lacks a photo.
    """

    def __init__(self, path: Path, photos: set[int]):
        self.path = path
        try:
            content = json.loads(path.read_bytes())
            wanted = (one for one in content["images"] if one["id"] in photos)
            self.images = {one["id"]: (one["file_name"], one["height"], one["width"]) for one in wanted}
            categories = {one["id"]: one["name"] for one in content["categories"]}
            self.by_photo: dict[int, dict[int, dict[str, Any]]] = {number: {} for number in photos}
            for one in content["annotations"]:
                if one["image_id"] in photos:
                    self.by_photo[one["image_id"]][one["id"]] = one
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read as COCO's instances ({error!r})") from error
        self.vocabulary = Vocabulary(things=tuple(categories[number] for number in sorted(categories)))
        self.class_ids = {number: class_id for class_id, number in enumerate(sorted(categories))}
        if missing := sorted(photos - self.images.keys()):
            raise InputError(f"{path}: {len(missing)} photos of the references are missing, the first is {missing[0]}")

    def read(self, photo: int, path: Path, size: tuple[int, int]) -> list[Instance]:
        """A photo's objects, numbered (``track_id``) as in the file.

        Args:
            path: the photo's file, for errors.
            size: (height, width) of the photo as it is.
        """
        _, height, width = self.images[photo]
        if (height, width) != size:
            raise InputError(f"{path}: is {size[1]}x{size[0]} but {self.path.name} says {width}x{height}")
        found = []
        for number, one in self.by_photo[photo].items():
            try:
                mask = read_mask(one["segmentation"], *size)
                x, y, width, height = map(float, one["bbox"])
                class_id = self.class_ids[one["category_id"]]
                crowd = bool(one.get("iscrowd", 0))
            except InputError:
                raise
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise InputError(f"{self.path}: object {number} is damaged ({error!r})") from error
            box = torch.tensor([[x, y, x + width, y + height]])
            name = self.vocabulary.things[class_id]
            found.append(Instance(class_id, name, torch.from_numpy(mask)[None], box, number, crowd=crowd))
        return found


def read_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Bool (height, width) of COCO's polygons, whose union is meant, or of its run lengths.

    Raises:
        InputError: pycocotools is missing.
        ValueError, TypeError, KeyError: it is neither, or of another size.
    """
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise InputError(f"pycocotools draws COCO's masks, but {NOT_INSTALLED}") from error

    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']}, not {[height, width]}")
        counts = segmentation["counts"]
        run_lengths = coco.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
        return coco.decode(run_lengths).astype(bool)
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer than three corners have no area
    if not polygons:
        return np.zeros((height, width), bool)
    return coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))).astype(bool)


def held_out_photos(root: str | Path) -> list[int]:
    """COCO ids of all photos that RefCOCO, RefCOCO+ or G-Ref validate or test on, as far as the sets are there.

    They lie in COCO's train2017: whoever trains on it must leave them out of all tasks, or these benchmarks are leaked.

    Args:
        root: folder of ``refcoco/``, ``refcoco+/`` and ``refcocog/``.

    Raises:
        InputError: none of the sets is there.
    """
    found = list(reference_files(Path(root)))
    if not found:
        raise InputError(f"{root}: no refcoco/refs(unc).p, refcoco+/refs(unc).p or refcocog/refs(umd).p")
    return sorted({one.image_id for path in found for one in read_references(path) if one.split != "train"})


def reference_files(root: Path) -> Iterator[Path]:
    for kind in (RefCOCO, RefCOCOPlus, GRef):
        yield from sorted((root / kind.dataset).glob("refs(*).p"))
