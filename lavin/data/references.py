"""The references of RefCOCO's files, which are pickles: read without running what they might say."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lavin.errors import InputError
from lavin.io import write_bytes

BROKEN_PICKLE = (
    *(pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(MemoryError, OverflowError, RecursionError, ImportError),
)


class Reference(NamedTuple):
    """An object that people described."""

    ref_id: int
    ann_id: int
    """Of the object, in ``instances.json``."""
    image_id: int
    split: str
    sentences: list[tuple[int, str]]
    """Number and text."""


class PlainUnpickler(pickle.Unpickler):
    """Makes containers, strings and numbers only. A pickle that names any class or function is refused: to call them is
    how a pickle runs programs."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only lists, dictionaries, texts and numbers are read")


def load_plain(path: Path) -> Any:
    """What a pickle holds; Python 2's texts are read as UTF-8.

    Raises:
        InputError: it is damaged, or holds more than plain data.
    """
    try:
        with path.open("rb") as file:
            return PlainUnpickler(file, encoding="utf-8", errors="replace").load()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except BROKEN_PICKLE as error:
        raise InputError(f"{path}: cannot be read as a pickle of references ({error})") from error


def read_references(path: Path) -> list[Reference]:
    """The references of a ``refs(...).p``, in its order.

    The first reading leaves ``refs(...).p.json`` beside it, which serves as long as the pickle keeps its length and
    time.

    Raises:
        InputError: the pickle is damaged, holds more than plain data, or no references.
    """
    cache = path.with_name(f"{path.name}.json")
    stamp = [path.stat().st_size, path.stat().st_mtime_ns]
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(cache.read_bytes())
        if kept["pickle"] == stamp:
            return [reference(*values) for values in kept["references"]]
    content = load_plain(path)
    try:
        references = [from_pickle(one) for one in content]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: holds no references as RefCOCO has them ({error!r})") from error
    with suppress(InputError):  # a folder that cannot be written costs a second the next time
        write_bytes(cache, json.dumps({"pickle": stamp, "references": references}).encode(), force=True)
    return references


def reference(ref_id: int, ann_id: int, image_id: int, split: str, sentences: list) -> Reference:
    return Reference(ref_id, ann_id, image_id, split, [(int(number), str(text)) for number, text in sentences])


def from_pickle(one: dict[str, Any]) -> Reference:
    sentences = [(sentence["sent_id"], sentence["sent"]) for sentence in one["sentences"]]
    return reference(int(one["ref_id"]), int(one["ann_id"]), int(one["image_id"]), str(one["split"]), sentences)
