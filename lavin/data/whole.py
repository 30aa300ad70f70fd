"""CamVid, BSDS500 and RGB-D videos as benchmarks need them: every picture once, whole and at its own size."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from lavin.data import photos
from lavin.data.adapter import PublicData
from lavin.data.files import check_pair
from lavin.data.sample import Sample
from lavin.data.view import View
from lavin.errors import InputError


class WholePhotos(PublicData):
    """The pictures of a kind of ``lavin.data.photos``, with the same labels."""

    kind: ClassVar[type[photos.Photos]]
    splits = ("validation", "train", "test")

    def find(self) -> list[str]:
        try:
            self.source = self.kind(self.root, self.split, augment=False, complete=False)
        except InputError as error:
            raise InputError(f"{error}; {self.dataset} needs {self.layout}") from error
        return [picture.name.split(".")[0] for picture, _ in self.source.files]

    def files(self, index: int) -> list[Path]:
        return list(self.source.files[index])

    def require_files(self) -> None:
        super().require_files()
        for picture, label in self.source.files:
            check_pair(picture, label)

    def load(self, index: int) -> Sample:
        maps = self.source.decode(*self.source.files[index])
        return self.sample(index, maps["rgb"], **self.source.annotate(maps, View.whole(*maps["rgb"].shape[:2])))


class CamVid(WholePhotos):
    """Driving scenes with a class for every pixel; see ``lavin.data.photos.CamVid``."""

    kind = photos.CamVid
    dataset, licence, vocabulary = kind.dataset, kind.licence, kind.vocabulary
    layout = "{train,val,test}/{images/*,labels/<same name>.png}, class indices 0 to 11"


class BSDS500(WholePhotos):
    """Natural photos with people's drawings of boundaries; see ``lavin.data.photos.BSDS500``."""

    kind = photos.BSDS500
    dataset, licence = kind.dataset, kind.licence
    layout = "{train,val,test}/{images/*,boundaries/<same name>.png}, 0 to 255 for none to all of the people"


class RGBD(WholePhotos):
    """An indoor video with depth, normals and poses; see ``lavin.data.photos.RGBD``."""

    kind = photos.RGBD
    dataset, licence, provenance = kind.dataset, kind.licence, kind.provenance
    splits = ("validation", "train")
    layout = "train/<frame>.{color.jpg,depth.png,pose.txt} and camera-intrinsics.txt"
