"""ImageNet-1K (Russakovsky et al. 2015): photos without labels that our tasks could use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lavin.data.adapter import PublicData
from lavin.data.sample import Sample
from lavin.io import SUFFIXES, read_image

ARCHIVES = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
"""Folders below the root that may hold the splits: unpacked by hand, and as the publisher's archive has them."""


class ImageNet(PublicData):
    """Photos alone, 8-bit RGB whatever they are stored as: some files are CMYK, grey, or PNG by another name.

    The order is that of the file names, whether the files lie in one folder or one for each class: the same drawn
    numbers are the same photos in both.
    """

    dataset = "imagenet"
    licence = "ImageNet: non-commercial research and education"
    splits = ("val", "train")
    layout = "val/<wnid>/*.JPEG or val/*.JPEG; train/<wnid>/*.JPEG"
    official = {"val": 50_000, "train": 1_281_167}

    def find(self) -> list[str]:
        folders = [self.root / place / self.split for place in ARCHIVES]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise self.error(f"no folder {self.split}")
        self.folder, self.places = folder, sorted(pictures(folder), key=lambda place: place[1])
        return [os.path.splitext(name)[0] for _, name in self.places]

    def files(self, index: int) -> list[Path]:
        return [self.folder.joinpath(*self.places[index])]

    def missing(self) -> list[Path]:
        """None: the list is of what is there."""
        return []

    def load(self, index: int) -> Sample:
        return self.sample(index, np.asarray(read_image(*self.files(index))))


def pictures(folder: Path) -> Iterator[tuple[str, str]]:
    """(subfolder, name) of the pictures in a folder, "", and in those below it. No file is looked at: a million would
    take minutes."""
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    yield from (("", entry.name) for entry in inside if is_picture(entry.name))
    for entry in inside:
        if not is_picture(entry.name) and entry.is_dir():
            yield from ((entry.name, name) for name in os.listdir(entry.path) if is_picture(name))


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
