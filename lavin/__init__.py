"""In-context vision: show input-target pairs and a query, and a flow-matching transformer predicts its target.

    from lavin import LavinPipeline, load_pairs

    pipe = LavinPipeline.from_pretrained("lavin-tiny")
    out = pipe(context=load_pairs("pairs/"), query="img.png")
    out.images[0].save("prediction.png")

Names are imported on first use: torch and diffusers take seconds, ``import lavin`` and ``lavin --help`` do not.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "LavinPipeline": "lavin.pipeline",
    "LavinOutput": "lavin.pipeline",
    "load_pairs": "lavin.data.folders",
    "Pairs": "lavin.data.folders",
    "STVAE": "lavin.models.stvae",
    "JDiT": "lavin.models.jdit",
    "Scenes": "lavin.data.scenes",
    "Sample": "lavin.data.sample",
    "Context": "lavin.context",
    "Example": "lavin.context",
    "get_task": "lavin.tasks",
    "InputError": "lavin.errors",
    "LavinError": "lavin.errors",
}
"""Public name -> the module that defines it."""

__all__ = [*_HOMES, "assets_dir", "config_dir"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lavin' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def assets_dir() -> Path:
    """Folder of the bundled models and example contexts."""
    return Path(__file__).parent / "assets"


def config_dir() -> Path:
    """Folder of the configurations: inside an installed package, beside it in a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"
