"""ImageNet-1K (Russakovsky et al. 2015): photos without labels that our tasks could use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lavin.data.adapter import PublicData
from lavin.data.sample import Sample
from lavin.io import SUFFIXES, read_image

PLACES = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
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
        folders = [self.root / place / self.split for place in PLACES]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise self.error(f"no folder {self.split}")
        found = sorted(pictures(folder), key=lambda path: path.name)
        self.paths = found
        return [path.stem for path in found]

    def files(self, index: int) -> list[Path]:
        return [self.paths[index]]

    def load(self, index: int) -> Sample:
        return self.sample(index, np.asarray(read_image(self.paths[index])))


def pictures(folder: Path) -> list[Path]:
    """Picture files of a folder and of those in it; a stat of each of a million files would take minutes."""
    with os.scandir(folder) as entries:
        inside = list(entries)
    found = [Path(entry.path) for entry in inside if entry.name.lower().endswith(SUFFIXES) and entry.name[0] != "."]
    for entry in inside:
        if entry.is_dir():
            names = os.listdir(entry.path)
            found += [Path(entry.path, name) for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    return found
