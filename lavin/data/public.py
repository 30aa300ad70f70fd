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
    kinds = option_types(DATASETS[name])
    for option, value in options.items():
        if option not in kinds:
            raise InputError(unknown(f"option of {name}", option, kinds))
        if not isinstance(value, kinds[option]) or (isinstance(value, bool) and bool not in kinds[option]):
            wanted = " or ".join(kind.__name__ for kind in kinds[option] if kind is not type(None))
            raise InputError(f"option {option} of {name} is {value!r}; it must be of type {wanted}")
    return DATASETS[name](root, split, **options)


def option_types(adapter: type[PublicData]) -> dict[str, tuple[type, ...]]:
    """What can be asked of an adapter beside folder and split, and of which types it may be."""
    from typing import get_args, get_type_hints

    hints = get_type_hints(adapter.__init__)
    for name in ("root", "split", "return"):
        hints.pop(name, None)
    kinds = {name: get_args(hint) or (hint,) for name, hint in hints.items()}
    return {name: (*kind, int) if float in kind else kind for name, kind in kinds.items()}
