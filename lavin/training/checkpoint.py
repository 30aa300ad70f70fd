"""Checkpoints of a run: a folder a step, written aside and renamed, so that a torn one never looks whole."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from lavin.errors import InputError

STATE = "state.pt"
"""Model, EMA and optimizer: all that resuming needs."""
RECORD = "record.json"
"""Step and resolved configuration, for people; written last."""


def save(folder: Path, step: int, state: dict[str, Any], record: dict[str, Any], keep: int) -> Path:
    """Write ``folder/step-XXXXXXXX`` and remove all but the newest ``keep``."""
    final = folder / f"step-{step:08d}"
    aside = folder / f".{final.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    torch.save(state, aside / STATE)
    (aside / RECORD).write_text(json.dumps({"step": step, **record}, indent=1) + "\n")
    for path in aside.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def steps(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / RECORD).exists() and (path / STATE).exists())


def load_latest(folder: Path, device: str | torch.device = "cpu") -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest whole checkpoint, or None where there is none.

    Raises:
        InputError: the newest checkpoint is damaged.
    """
    whole = steps(folder)
    if not whole:
        return None
    newest = whole[-1]
    try:
        state = torch.load(newest / STATE, map_location=device, weights_only=True)
        return json.loads((newest / RECORD).read_text())["step"], state
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"checkpoint {newest} is damaged ({error}); remove it to resume from the one before"
        ) from error
