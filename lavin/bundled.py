"""Where a model's files are, and whether they can be loaded; torch-free, so that a bad name fails at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lavin import assets_dir
from lavin.errors import InputError
from lavin.suggest import unknown

INDEX = "model_index.json"
TRAINING_RECORD = "training.json"
"""Beside a model that was trained here: its configuration, and what its definitions never used."""
COMPONENTS = ("stvae", "jdit")
RELEASED_JDIT = ("lavin_dit.safetensors", "lavin_dit.safetensors.index.json")
RELEASED_STVAE = "stvae.pt"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
LAYOUT = f"a model folder holds {INDEX} and {', '.join(f'{c}/{{config.json, *.safetensors}}' for c in COMPONENTS)}"


def bundled_models() -> dict[str, Path]:
    """Name -> folder of the models that come with the package."""
    return {index.parent.name: index.parent for index in sorted(assets_dir().glob(f"*/{INDEX}"))}


def is_released(folder: Path) -> bool:
    """Whether a folder holds the authors' release: its J-DiT, whole or in shards, and its ST-VAE."""
    return (folder / RELEASED_STVAE).is_file() and any((folder / name).is_file() for name in RELEASED_JDIT)


def find_released(name_or_folder: str | Path) -> Path | None:
    """The folder, if it is in the release's layout and neither a bundled model's name nor a model folder."""
    folder = Path(name_or_folder)
    known = str(name_or_folder) in bundled_models() or (folder / INDEX).exists()
    return folder if not known and is_released(folder) else None


def find_model(name_or_folder: str | Path) -> Path:
    """Folder of a model, its files checked: everything there, nothing pickled, no file cut short.

    Args:
        name_or_folder: a bundled model's name, which comes first, or a folder.

    Raises:
        InputError: unknown name, missing or damaged files, a pickle.
    """
    models = bundled_models()
    if str(name_or_folder) in models:
        folder = models[str(name_or_folder)]
    else:
        folder = Path(name_or_folder)
    if folder.suffix.lower() in PICKLES and folder.is_file():
        refuse_pickle(folder)
    if folder.is_file():
        raise InputError(f"model {folder} is a file; give its folder: {LAYOUT}")
    if not folder.is_dir():
        raise InputError(unknown("model", str(name_or_folder), models) + "; or give a folder that exists")
    if find_released(folder):
        raise InputError(
            f"model {folder} is in the release's layout; use LavinPipeline.from_released, or 'lavin convert' it"
        )
    read_index(folder)
    for component in COMPONENTS:
        check_component(folder / component)
    return folder


def read_index(folder: Path) -> dict[str, Any]:
    """The settings in a model's ``model_index.json``."""
    if not (folder / INDEX).exists():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in PICKLES:
                refuse_pickle(path)
        raise InputError(f"model {folder}: no {INDEX}; {LAYOUT}")
    return read_json(folder / INDEX)


def trained_on_clips(folder: Path) -> bool | None:
    """Whether a model was trained on clips; None where its folder does not say."""
    path = folder / TRAINING_RECORD
    frames = read_json(path).get("config", {}).get("scenes", {}).get("frames") if path.exists() else None
    return None if frames is None else frames > 1


def check_component(folder: Path) -> None:
    """Refuse a component without configuration, without safetensors, or with damaged ones."""
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise InputError(f"model {folder.parent}: no {folder.name}/; {LAYOUT}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in PICKLES:
                refuse_pickle(path)
        raise InputError(f"model {folder.parent}: no *.safetensors in {folder.name}/; {LAYOUT}")
    if not (folder / "config.json").exists():
        raise InputError(f"model {folder.parent}: no config.json in {folder.name}/; {LAYOUT}")
    read_json(folder / "config.json")
    for path in weights:
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: corrupt or truncated safetensors file ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object is needed, not a {type(content).__name__}")
    return content


def refuse_pickle(path: Path) -> None:
    raise InputError(
        f"{path}: pickle checkpoints can run any code when loaded and are refused; convert it to safetensors"
    )
