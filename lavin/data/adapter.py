"""PublicData: what every adapter of a public data set shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lavin.data.sample import Sample, Vocabulary
from lavin.errors import InputError
from lavin.suggest import unknown

SYNONYMS = {"validation": "val", "val": "validation"}
"""Splits by their other name, for data sets that have only one of the two."""
NOT_INSTALLED = "is not installed: pip install 'lavin[benchmarks]'"
"""Of a package that only some data sets need."""


class PublicData(Sequence):
    """The samples of one split, whole and at their own size; each is read from its files when asked for.

    A subclass fills ``names`` and says how one is loaded.

    Args:
        root: where the data set lies; see ``layout``.
        split: one of ``splits``, the first of them if None. "val" and "validation" mean the same.
        complete: refuse to open where a listed file is missing; else that is found when it is read. Damaged files are
            always found when they are read.

    Raises:
        InputError: an unknown split, or the folder does not hold the data set.
    """

    dataset: ClassVar[str]
    licence: ClassVar[str]
    provenance: ClassVar[str] = "ground truth"
    splits: ClassVar[tuple[str, ...]]
    """Names of the splits; the first is the one that benchmarks score."""
    layout: ClassVar[str]
    """What the root must hold, for error messages."""
    official: ClassVar[dict[str, int]] = {}
    """Samples that the publishers' lists have, by split."""
    vocabulary = Vocabulary()
    names: list[str]
    """What tells the samples apart, in their order."""

    def __init__(self, root: str | Path, split: str | None = None, complete: bool = True):
        split = self.splits[0] if split is None else split
        if split not in self.splits and SYNONYMS.get(split) in self.splits:
            split = SYNONYMS[split]
        if split not in self.splits:
            raise InputError(unknown(f"split of {self.dataset}", split, self.splits))
        self.root, self.split = Path(root), split
        if not self.root.is_dir():
            raise self.error("is no folder" if self.root.exists() else "does not exist")
        self.names = self.find()
        if not self.names:
            raise self.error(f"no pictures of split '{split}'")
        if complete:
            self.require_files()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.dataset}: sample {index} of {len(self)}")
        return self.load(int(index) % len(self))

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        return [self[int(index)] for index in indices]

    @abstractmethod
    def find(self) -> list[str]:
        """The names of the split's samples, and whatever else the adapter needs before it loads one."""

    @abstractmethod
    def files(self, index: int) -> list[Path]:
        """The files of one sample."""

    @abstractmethod
    def load(self, index: int) -> Sample:
        """One sample, read from its files."""

    def expected(self) -> int | None:
        """How many samples the publishers' list of the split has; None where that is not known."""
        return self.official.get(self.split)

    def missing(self) -> list[Path]:
        """Files that are listed but not there, each once."""
        wanted = dict.fromkeys(path for index in range(len(self)) for path in self.files(index))
        return [path for path in wanted if not path.is_file()]

    def require_files(self) -> None:
        """Refuse a data set with missing files."""
        if missing := self.missing():
            raise self.error(f"{len(missing)} of the files listed are missing, the first is {missing[0]}")

    def error(self, what: str) -> InputError:
        return InputError(f"{self.root}: {what}; {self.dataset} needs {self.layout}")

    def sample(self, index: int, rgb: np.ndarray, **labels: Any) -> Sample:
        """Sample of a picture, uint8 (height, width, 3), and its labels."""
        return Sample(
            id=f"{self.dataset}/{self.split}/{self.names[index]}",
            clip=torch.from_numpy(np.array(rgb))[None],
            **{
                "dataset": self.dataset,
                "split": self.split,
                "licence": self.licence,
                "provenance": self.provenance,
                **labels,
            },
        )
