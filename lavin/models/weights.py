"""Weights on disk, one tensor at a time: their names and shapes first, then each when it is needed.

A mapping that stays open keeps every page that was read resident, so a file is mapped anew for each tensor: loading
needs the model's own size and one tensor more, converting needs one tensor.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lavin.bundled import read_json
from lavin.errors import InputError

FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""What safetensors calls the types that weights may have."""
STEM = "diffusion_pytorch_model"
"""File name of a component's weights in a model folder, as diffusers writes it."""
LISTED = 20
"""Names that an error lists of each kind; it counts the rest."""


@dataclass(frozen=True)
class Entry:
    """What a file says of a tensor before it is read; ``dtype`` is a torch dtype, or the name of an unusable one."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass
class Weights:
    """Tensors of a file or of several: what there is, and how one of them is read.

    Args:
        origin: file to name in errors.
        entries: shape and dtype by name.
        read: a tensor by name; it may lie in mapped memory.
    """

    origin: Path
    entries: Mapping[str, Entry]
    read: Callable[[str], Tensor]

    def dtype(self) -> torch.dtype:
        """The stored dtype, the widest where several are mixed."""
        widest = None
        for entry in self.entries.values():
            widest = entry.dtype if widest is None else torch.promote_types(widest, entry.dtype)
        return widest or torch.float32

    def cast(self, dtype: torch.dtype | None) -> Weights:
        """The same in another precision; None leaves every tensor as it is."""
        if dtype is None:
            return self
        entries = {name: Entry(entry.shape, dtype) for name, entry in self.entries.items()}
        return Weights(self.origin, entries, lambda name: self.read(name).to(dtype))

    def renamed(self, names: Mapping[str, str]) -> Weights:
        """The weights ``names`` lists, new name -> present one."""
        entries = {new: self.entries[present] for new, present in names.items()}
        return Weights(self.origin, entries, lambda new: self.read(names[new]))


# --- Reading ----------------------------------------------------------------------------------------------------------


def open_safetensors(path: Path) -> Weights:
    """A safetensors file, or the ``*.safetensors.index.json`` of a file in shards.

    Raises:
        InputError: a file is missing, cut short or damaged, or a shard lacks what the index says of it.
    """
    files = shards(path) if path.suffix == ".json" else [path]
    entries, places = {}, {}
    for file in files:
        with mapped(file) as content:
            for name in content.keys():  # noqa: SIM118, it is no dictionary
                part = content.get_slice(name)
                code = part.get_dtype()
                if name in entries:
                    raise InputError(f"{path}: {name} is both in {places[name].name} and in {file.name}")
                entries[name] = Entry(tuple(part.get_shape()), FLOATS.get(code, code))
                places[name] = file

    def read(name: str) -> Tensor:
        with mapped(places[name]) as content:
            return content.get_tensor(name)

    return Weights(path, entries, read)


def shards(index: Path) -> list[Path]:
    """Files that an index names, all there, in order."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise InputError(f"{index}: no weight_map from weights to files")
    files = sorted(set(weight_map.values()))
    for file in files:
        if Path(file).name != file:
            raise InputError(f"{index}: shard '{file}' is no file beside the index")
        if not (index.parent / file).is_file():
            lost = sorted(name for name, place in weight_map.items() if place == file)
            raise InputError(f"{index.parent / file}: missing shard; {index.name} says it holds {listed(lost, 3)}")
    return [index.parent / file for file in files]


@contextmanager
def mapped(path: Path) -> Iterator:
    """A safetensors file mapped into memory for as long as it is needed."""
    try:
        with safe_open(path, framework="pt") as content:
            yield content
    except (SafetensorError, OSError) as error:
        if not path.is_file():
            raise InputError(f"{path}: no such file") from error
        raise InputError(f"{path}: corrupt or truncated safetensors file ({error})") from error


def open_pickle(path: Path, key: str) -> Weights:
    """The tensors under ``key`` of a file that ``torch.save`` wrote; nothing but tensors is ever unpickled.

    Raises:
        InputError: no such file, damaged, or it holds something else.
    """
    try:
        # Only the zip format of torch >= 1.6 can be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: damaged or truncated, or more than tensors in a pickle ({reason})") from error
    tensors = content.get(key) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"{path}: a dictionary of tensors under '{key}' is needed")
    codes = set(FLOATS.values())
    entries = {
        str(name): Entry(tuple(tensor.shape), tensor.dtype if tensor.dtype in codes else str(tensor.dtype))
        for name, tensor in tensors.items()
    }
    return Weights(path, entries, tensors.__getitem__)


def open_component(folder: Path) -> Weights:
    """Weights of one network of a model folder, in one file or in shards."""
    index = folder / f"{STEM}.safetensors.index.json"
    return open_safetensors(index if index.is_file() else folder / f"{STEM}.safetensors")


# --- Loading ----------------------------------------------------------------------------------------------------------


def build(cls: type, config: Mapping, origin: Path) -> nn.Module:
    """A network without weights, on the meta device.

    Raises:
        InputError: the configuration does not make one.
    """
    try:
        with torch.device("meta"):
            return cls.from_config(dict(config)).eval()
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{origin}: no {cls.__name__} can be made of this configuration ({error})") from error


def fill(model: nn.Module, weights: Weights, dtype: torch.dtype | None = None) -> nn.Module:
    """Give a network on the meta device its weights, each read and assigned in turn.

    Args:
        weights: under the network's own names.
        dtype: of the network; None for the stored one.
    """
    dtype = dtype or weights.dtype()
    # A copy, also where nothing is cast: mapped pages would follow the file when it changes.
    state = {name: weights.read(name).to(dtype, copy=True) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model


def load_component(cls: type, folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """A network from its folder in a model folder, every weight accounted for.

    Raises:
        InputError: weights are missing, left over or of another shape, or the configuration does not make a network.
    """
    weights = open_component(folder)
    model = build(cls, read_json(folder / "config.json"), folder)
    refuse({folder: differences(weights, shapes(model))})
    return fill(model, weights, dtype)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def differences(weights: Weights, wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps weights from being those of a network: one sentence a kind, each listing names."""
    found = weights.entries
    both = [name for name in wanted if name in found]
    kinds = {
        "missing weights": [name for name in wanted if name not in found],
        "unexpected weights": [name for name in found if name not in wanted],
        "wrongly shaped weights": [
            f"{name} {found[name].shape} instead of {wanted[name]}"
            for name in both
            if found[name].shape != wanted[name]
        ],
        "weights of no floating-point type": [
            f"{name} {found[name].dtype}" for name in both if isinstance(found[name].dtype, str)
        ],
    }
    return [f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds.items() if names]


def listed(names: list[str], limit: int = LISTED) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def refuse(problems: Mapping[Path, list[str]]) -> None:
    """One error for everything that is wrong with several files' weights."""
    if any(problems.values()):
        parts = [f"{origin}: {'; '.join(found)}" for origin, found in problems.items() if found]
        raise InputError("; ".join(parts))


# --- Writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def written_whole(out: str | Path, marks: tuple[str, ...], force: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes ``out`` once all of it is on disk; after a failure nothing is left.

    Args:
        out: where the folder shall be.
        marks: files, one of which a folder must hold for ``force`` to replace it: never somebody's home.
        force: replace what is there.

    Raises:
        InputError: it exists, or cannot be written.
    """
    out = Path(os.path.abspath(out))
    if out.exists():
        if not force:
            raise InputError(f"output exists: {out}; give another --out or --force")
        if not out.is_dir() or (any(out.iterdir()) and not any((out / mark).exists() for mark in marks)):
            raise InputError(f"output {out} is no such folder as is written here, and is not replaced; give another")
    aside, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for path in aside.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        aside.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); nothing is left of it") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists():
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(out)


def write_component(folder: Path, weights: Weights, max_shard_size: int | str) -> None:
    """Weights of one network into its folder of a model folder, in shards with an index where they are many."""
    parts = split(weights.entries, parse_size(max_shard_size))
    if len(parts) == 1:
        return write_safetensors(folder / f"{STEM}.safetensors", weights)
    weight_map = {}
    for number, names in enumerate(parts, 1):
        file = f"{STEM}-{number:05d}-of-{len(parts):05d}.safetensors"
        entries = {name: weights.entries[name] for name in names}
        write_safetensors(folder / file, Weights(weights.origin, entries, weights.read))
        weight_map |= dict.fromkeys(names, file)
    total = sum(entry.num_bytes for entry in weights.entries.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return None


def split(entries: Mapping[str, Entry], limit: int) -> list[list[str]]:
    """Names of each shard, in order; a shard has at most ``limit`` bytes, or one tensor that is larger."""
    parts: list[list[str]] = [[]]
    room = limit
    for name, entry in entries.items():
        if parts[-1] and entry.num_bytes > room:
            parts.append([])
            room = limit
        parts[-1].append(name)
        room -= entry.num_bytes
    return parts


def parse_size(size: int | str) -> int:
    """Bytes of ``2GB``, ``500MB``, ``64KB`` (powers of ten) or of a plain number."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)B?\s*", str(size), flags=re.IGNORECASE)
    bytes_ = found and int(float(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[found[2].upper()])
    if not bytes_:
        raise InputError(f"shard size '{size}' is no size; write it as 2GB or 500MB")
    return bytes_


def write_safetensors(path: Path, weights: Weights) -> None:
    """Write tensors as they are read; the header comes first, since its offsets follow from the shapes alone."""
    # Wide types first, as safetensors' own writer has it: then every tensor is aligned.
    names = sorted(weights.entries, key=lambda name: (-weights.entries[name].dtype.itemsize, name))
    codes = {dtype: code for code, dtype in FLOATS.items()}
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        entry = weights.entries[name]
        end = start + entry.num_bytes
        header[name] = {"dtype": codes[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            write_tensor(file, weights.read(name), weights.entries[name])


def write_tensor(file: BinaryIO, tensor: Tensor, entry: Entry) -> None:
    assert tuple(tensor.shape) == entry.shape and tensor.dtype == entry.dtype
    file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
