"""Public data sets by name, in the folders in which people have them: the samples that benchmarks score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavin.data.adapter import PublicData
from lavin.data.imagenet import ImageNet
from lavin.data.nyuv2 import NYUv2
from lavin.data.refcoco import GRef, RefCOCO, RefCOCOPlus
from lavin.data.voc import VOC2012, Pascal5i
from lavin.data.whole import BSDS500, RGBD, CamVid
from lavin.errors import InputError
from lavin.suggest import unknown

ADAPTERS = (NYUv2, VOC2012, Pascal5i, ImageNet, RefCOCO, RefCOCOPlus, GRef, CamVid, BSDS500, RGBD)
DATASETS: dict[str, type[PublicData]] = {kind.dataset: kind for kind in ADAPTERS}
"""Name -> adapter; its docstring says what it yields and which options it has."""


def open_dataset(name: str, root: str | Path, split: str | None = None, **options: Any) -> PublicData:
    """The samples of a public data set, whole and at their own size, each loaded when asked for.

    Args:
        name: a key of ``DATASETS``.
        root: where it lies, as its publishers pack it.
        split: None for the one that benchmarks score.
        options: the adapter's own.

    Raises:
        InputError: an unknown name, split or option, or a folder that does not hold the data set: the message names
            the folder, what is missing there, and the layout.
    """
    if name not in DATASETS:
        raise InputError(unknown("data set", name, DATASETS))
    known = option_names(DATASETS[name])
    for option in options:
        if option not in known:
            raise InputError(unknown(f"option of {name}", option, known))
    return DATASETS[name](root, split, **options)


def option_names(kind: type[PublicData]) -> list[str]:
    """What can be asked of an adapter beside folder and split."""
    from inspect import signature

    return [name for name in signature(kind).parameters if name not in ("root", "split")]
