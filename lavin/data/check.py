"""Is a public data set what it should be? Counts, missing and broken files, ranges of values, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lavin.data.adapter import PublicData
from lavin.data.sample import Sample
from lavin.errors import InputError

SHOWN = 8
"""Most samples of a contact sheet."""


@dataclass
class Values:
    """Range and mean of numbers, and how many of all places have none."""

    low: float = float("inf")
    high: float = float("-inf")
    total: float = 0.0
    known: int = 0
    places: int = 0

    def add(self, values: Tensor, places: int | None = None) -> None:
        """Add known values (n,), of that many places."""
        self.places += values.numel() if places is None else places
        if values.numel():
            self.low, self.high = min(self.low, values.min().item()), max(self.high, values.max().item())
            self.total += values.double().sum().item()
            self.known += values.numel()

    def __str__(self) -> str:
        if not self.known:
            return "nothing is known"
        text = f"{self.low:.4g} to {self.high:.4g}, mean {self.total / self.known:.4g}"
        return text + self.unknown()

    def unknown(self) -> str:
        return f", {1 - self.known / self.places:.1%} unknown" if self.known < self.places else ""


@dataclass
class Survey:
    """What was seen of the samples looked at."""

    looked_at: int = 0
    broken: list[str] = field(default_factory=list)
    """What was wrong with samples that could not be read."""
    sizes: Counter = field(default_factory=Counter)
    provenance: Counter = field(default_factory=Counter)
    values: dict[str, Values] = field(default_factory=dict)
    classes: Counter = field(default_factory=Counter)
    """Pixels of each class."""
    instances: Counter = field(default_factory=Counter)
    """Objects of each class."""
    expressions: int = 0
    words: int = 0
    normal: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    """Sum of the known normals."""
    poses: int = 0

    def add(self, sample: Sample, names: tuple[str, ...]) -> None:
        """Add a sample.

        Args:
            names: of the classes.
        """
        _, height, width = sample.size
        self.sizes[f"{width}x{height}"] += 1
        self.provenance[sample.provenance] += 1
        self.measure("picture", sample.clip)
        for name in ("depth", "boundaries"):
            if (label := getattr(sample, name)) is not None:
                self.measure(name, label[label.isfinite()], label.numel())
        if sample.normals is not None:
            vectors = sample.normals.flatten(1)
            length = vectors.norm(dim=0)
            self.measure("normals", length[length > 0], length.numel())
            self.normal += vectors.double().sum(1)
        if sample.semantic is not None:
            known = sample.semantic[sample.semantic != 255]
            self.measure("semantic", known, sample.semantic.numel())
            self.classes.update({names[number]: int((known == number).sum()) for number in known.unique().tolist()})
        for one in sample.instances or []:
            self.instances[one.class_name] += 1
            self.measure("masks", one.mask.float().mean()[None])
            self.expressions += len(one.expressions)
            self.words += sum(len(text.split()) for text in one.expressions)
        self.poses += sample.pose is not None

    def measure(self, name: str, values: Tensor, places: int | None = None) -> None:
        self.values.setdefault(name, Values()).add(values, places)

    def lines(self) -> list[str]:
        """In words, a line a fact."""
        titles = {"depth": "depth m", "normals": "normals' length", "masks": "masks' share"}
        lines = [f"{name}: {listed(counter)}" for name, counter in (("sizes", self.sizes), ("from", self.provenance))]
        lines += [f"{titles.get(name, name)}: {values}" for name, values in self.values.items()]
        if "normals" in self.values and self.values["normals"].known:
            mean = (self.normal / self.values["normals"].known).tolist()
            lines.append("mean normal: {:.3f} right, {:.3f} up, {:.3f} to the viewer".format(*mean))
        if self.classes:
            total = sum(self.classes.values())
            shares = [f"{name} {count / total:.1%}" for name, count in self.classes.most_common()]
            lines.append(f"classes: {', '.join(shares)}")
        if self.instances:
            lines.append(f"objects: {self.instances.total()} ({listed(self.instances)})")
        if self.expressions:
            lines.append(f"expressions: {self.expressions}, {self.words / self.expressions:.1f} words each")
        if self.poses:
            lines.append(f"poses: {self.poses}")
        return lines


def listed(counter: Counter) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common(20)) or "none"


def survey(data: PublicData, indices: Sequence[int]) -> tuple[Survey, list[Sample]]:
    """Read samples one after another; those that cannot be read are noted.

    Returns:
        What was seen, and the samples of a contact sheet, evenly spread.
    """
    seen, shown = Survey(), []
    step = -(-len(indices) // SHOWN)
    for number, index in enumerate(indices):
        seen.looked_at += 1
        try:
            sample = data[index]
        except InputError as error:
            seen.broken.append(str(error))
            continue
        seen.add(sample, data.vocabulary.classes)
        if number % step == 0:
            shown.append(sample)
    return seen, shown
