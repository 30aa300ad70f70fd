"""YAML files and `key=value` overrides -> checked dataclasses; unknown keys are refused with the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from lavin.errors import InputError
from lavin.suggest import unknown

Config = TypeVar("Config")


def load_config(schema: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and `key=value` overrides into a checked dataclass.

    Args:
        schema: ``STVAEConfig`` or ``PretrainConfig``.
        path: a YAML file that sets values only.
        overrides: e.g. ``run.max_steps=100``.

    Raises:
        InputError: missing file, unknown key (the nearest is suggested), or a value of the wrong kind.
    """
    if not Path(path).is_file():
        raise InputError(f"config {path}: no such file")
    for override in overrides:
        if "=" not in override:
            raise InputError(f"'{override}' is no override; write key=value, e.g. run.max_steps=100")
    try:
        values = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise InputError(f"config {path}: {str(error).splitlines()[0]}") from error
    if OmegaConf.is_dict(values) and "output_dir" in values:
        values = OmegaConf.merge(values, {"run": {"output_dir": values.pop("output_dir")}})
    refuse_unknown_keys(schema, OmegaConf.to_container(values), str(path))
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except InputError:
        raise
    except TypeError as error:  # OmegaConf's, where a mapping stands for a list
        raise InputError(f"config {path}: {error}") from error
    except (ConfigKeyError, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        raise InputError(f"config {path}: {str(error).splitlines()[0]} ({getattr(error, 'full_key', '')})") from error


def refuse_unknown_keys(schema: type, values: Any, path: str, prefix: str = "", top: type | None = None) -> None:
    """Raise for the first key that the dataclass does not have; free-form dictionaries may hold any."""
    if not isinstance(values, dict):
        raise InputError(f"config {path}: {prefix.rstrip('.') or 'it'} must be a mapping of keys to values")
    fields = {entry.name: entry for entry in dataclasses.fields(schema)}
    for key, value in values.items():
        if key not in fields:
            known = [prefix + name for name in fields] + ([] if prefix else ["output_dir"])
            raise InputError(f"config {path}: {unknown_key(f'{prefix}{key}', known, top or schema)}")
        nested = fields[key].default_factory
        if dataclasses.is_dataclass(nested):
            refuse_unknown_keys(nested, value, path, f"{prefix}{key}.", top or schema)
        elif listed := dataclass_in_list(schema, key):
            if not isinstance(value, list):
                raise InputError(f"config {path}: {prefix}{key} must be a list of mappings, such as [{{frames: 5}}]")
            for number, entry in enumerate(value):
                refuse_unknown_keys(listed, entry, path, f"{prefix}{key}[{number}].", top or schema)


def dataclass_in_list(schema: type, key: str) -> type | None:
    """What a field's list is of, if it is of dataclasses."""
    of = get_args(get_type_hints(schema)[key])
    return of[0] if of and dataclasses.is_dataclass(of[0]) else None


def all_keys(schema: type, prefix: str = "") -> list[str]:
    """Every key of a configuration, those within others as ``run.max_steps``."""
    keys = []
    for entry in dataclasses.fields(schema):
        keys.append(prefix + entry.name)
        if dataclasses.is_dataclass(entry.default_factory):
            keys += all_keys(entry.default_factory, f"{prefix}{entry.name}.")
    return keys


def unknown_key(key: str, known: list[str], top: type) -> str:
    """What to say of a key: the nearest of those beside it, else the nearest of all."""
    if difflib.get_close_matches(key, known, n=1, cutoff=0.5):
        return unknown("key", key, known)
    elsewhere = {name.rpartition(".")[2]: name for name in all_keys(top)}
    last = key.rpartition(".")[2]
    (near,) = difflib.get_close_matches(last, elsewhere, n=1, cutoff=0)
    return f"unknown key '{key}'; did you mean '{elsewhere[near]}'? known: {', '.join(sorted(known))}"


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration, JSON-able: it is saved in every checkpoint."""
    return dataclasses.asdict(config)
