"""Where numbers and panels of a run go: TensorBoard, W&B and what else accelerate knows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from lavin.errors import InputError

TENSORBOARD = "tensorboard"
PROJECT = "lavin"
"""Under which other trackers file a run."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that accelerate does not know, or whose package is not installed.

    Raises:
        InputError: says which, and what there is.
    """
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [str(kind) for kind in LoggerType if kind != LoggerType.ALL]
    installed = [str(kind) for kind in get_available_trackers()]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise InputError(
                f"run.trackers: unknown tracker '{name}'; did you mean '{near}'? known: {', '.join(known)}"
            )
        if name not in installed:
            raise InputError(f"run.trackers: '{name}' is not installed; installed: {', '.join(installed) or 'none'}")


def start_trackers(accelerator: Accelerator, names: Sequence[str], record: dict[str, Any]) -> None:
    """Open them, on the main process. TensorBoard alone writes to the run's ``logs/`` and is not told the
    configuration, which lies in every checkpoint."""
    if list(names) == [TENSORBOARD]:
        accelerator.init_trackers("")
    elif names:
        accelerator.init_trackers(PROJECT, config=flat(record))


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"run": {"seed": 0}}`` -> ``{"run.seed": 0}``; what is no number or text, as text."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def show_panels(accelerator: Accelerator, panels: dict[str, Tensor], step: int) -> None:
    """Give pictures, uint8 (3, height, width), to all trackers that take some."""
    for tracker in accelerator.trackers:
        if tracker.name == TENSORBOARD:
            for title, panel in panels.items():
                tracker.tracker.add_image(title, panel.cpu().numpy(), step)
        elif hasattr(tracker, "log_images"):
            pictures = {title: panel.permute(1, 2, 0)[None].cpu().numpy() for title, panel in panels.items()}
            tracker.log_images(pictures, step=step)
