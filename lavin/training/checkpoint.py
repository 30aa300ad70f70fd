"""Checkpoints of a run: a folder a step, written aside, synced and renamed, so that a torn one never looks whole.

    step-00000500/state.pt      weights, average and optimizer: all that resuming needs, whole weights by name
    step-00000500/record.json   step, resolved configuration, size and checksum of state.pt; written last
    latest                      name of the newest folder

1. A kill at any moment leaves the checkpoints that were whole before it.
2. Resuming takes the newest whole one. A damaged one is renamed to ``damaged-...``, with a warning, and never counted.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"
RECORD = "record.json"
LATEST = "latest"
CHUNK = 1 << 24


@dataclass
class Checkpoint:
    """A whole checkpoint: its folder, and what its record says."""

    folder: Path
    record: dict[str, Any]

    @property
    def step(self) -> int:
        return self.record["step"]

    def state(self) -> dict[str, Any]:
        """What was saved, on the CPU; mapped, so that the ranks of a machine share it."""
        return torch.load(self.folder / STATE, map_location="cpu", weights_only=True, mmap=True)


def save(folder: Path, step: int, state: dict[str, Any], record: dict[str, Any], keep: int) -> Path:
    """Write ``folder/step-XXXXXXXX``, point ``latest`` at it and remove all but the newest ``keep``.

    Raises:
        OSError: the disk is full, for one; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    final = folder / f"step-{step:08d}"
    aside = folder / f".{final.name}.partial"
    try:
        aside.mkdir()
        write_state(aside / STATE, state)
        whole = {"bytes": (aside / STATE).stat().st_size, "crc32": checksum(aside / STATE)}
        write_text(aside / RECORD, json.dumps({"step": step, "state": whole, **record}, indent=1) + "\n")
        sync(aside)
        set_aside(final)
        aside.rename(final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync(folder)
    point(folder, final)
    remove_all_but(folder, "step-*", keep)
    return final


def write_state(path: Path, state: dict[str, Any]) -> None:
    try:
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # torch's, about a file that is shorter than what it wrote
        failed = error.__context__ if isinstance(error.__context__, OSError) else error
        raise OSError(f"{path}: {str(failed).splitlines()[0]}") from error


def write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def point(folder: Path, newest: Path) -> None:
    """Let ``latest`` name a checkpoint."""
    write_text(folder / f".{LATEST}.partial", newest.name + "\n")
    (folder / f".{LATEST}.partial").replace(folder / LATEST)
    sync(folder)


def set_aside(path: Path) -> None:
    """Remove a folder, if there, such that half of it is never found under its name."""
    if path.exists():
        aside = path.with_name(f".{path.name}.removed")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def remove_all_but(folder: Path, pattern: str, keep: int) -> None:
    for old in sorted(folder.glob(pattern))[:-keep]:
        set_aside(old)


def remove_leftovers(folder: Path) -> None:
    """What a killed save or removal left."""
    for pattern in (".*.partial", ".*.removed"):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def steps(folder: Path) -> list[Path]:
    """Checkpoints that look whole, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / RECORD).exists() and (path / STATE).exists())


def check(folder: Path) -> Checkpoint:
    """A checkpoint, its files read and found whole.

    Raises:
        OSError, ValueError, LookupError, pickle.UnpicklingError: it is damaged.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    size, wanted = (folder / STATE).stat().st_size, record["state"]
    if size != wanted["bytes"]:
        raise ValueError(f"{STATE} has {size} bytes instead of {wanted['bytes']}")
    if checksum(folder / STATE) != wanted["crc32"]:
        raise ValueError(f"{STATE} is not what was written")
    return Checkpoint(folder, record)


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None; newer damaged ones are renamed, each with a line that says so."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return check(path)
        except (OSError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
            aside = path.with_name(f"damaged-{path.name}")
            set_aside(aside)
            path.rename(aside)
            print(f"warning: skipped damaged checkpoint {path.name}, now {aside.name}: {error}", flush=True)
    return None
