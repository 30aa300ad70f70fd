"""Shelf: answers of networks on disk, so that an evaluation that was cut short goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lavin.bundled import read_json
from lavin.errors import InputError

PROTOCOL = "protocol.json"


class Shelf:
    """A folder with one file a batch, and the protocol under which its answers were made.

    Clips are kept in full precision, so that a run that goes on gives the bytes of one that was never cut short.

    Args:
        folder: made where it is not there.
        protocol: of this run, as the report has it.

    Raises:
        InputError: the folder holds another protocol's answers; the message names the first key that differs.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any]):
        self.folder = folder
        path = folder / PROTOCOL
        if path.is_file():
            check_same(read_json(path), protocol, f"{folder}: an evaluation that was cut short")
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(path, json.dumps(protocol).encode())
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from error

    def path(self, row: str, seed: int, start: int) -> Path:
        return self.folder / row.replace("/", "-") / f"seed-{seed}" / f"{start:06}.safetensors"

    def take(self, row: str, seed: int, start: int) -> dict[str, list[Tensor]] | None:
        """Name -> clips of the batch that begins with this query; None if it was not answered yet."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path(row, seed, start)
        if not path.is_file():
            return None
        try:
            return {name: list(clips) for name, clips in load_file(path).items()}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: damaged ({error}); remove it, and its batch is done again") from error

    def put(self, row: str, seed: int, start: int, answers: Mapping[str, Sequence[Tensor]]) -> None:
        """Keep a batch's answers, whole or not at all."""
        from safetensors.torch import save

        path = self.path(row, seed, start)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, save({name: torch.stack(list(clips)).contiguous() for name, clips in answers.items()}))

    def clear(self) -> None:
        """Remove it: the report is written."""
        shutil.rmtree(self.folder)


def write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(content)
    os.replace(aside, path)


def check_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], what: str, prefix: str = "") -> None:
    """Refuse results of another protocol.

    Raises:
        InputError: naming the first key that differs, and both values.
    """
    ours = json.loads(json.dumps(ours))
    for key in dict.fromkeys([*ours, *theirs]):
        here, there = ours.get(key), theirs.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            check_same(there, here, what, f"{prefix}{key}.")
        elif here != there:
            raise InputError(
                f"{what} with {prefix}{key} {json.dumps(there)}, and this one has {json.dumps(here)}; "
                "give another --out, or --force to begin anew"
            )
