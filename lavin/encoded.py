"""EncodedContext: the pairs of a context as a model keeps them, encoded once for any number of queries."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lavin.errors import InputError
from lavin.io import write_bytes
from lavin.models.jdit import ConditionCache

FORMAT = "lavin-context-1"
"""What a file says it is; another layout gets another number."""
SUFFIX = ".ctx"
SAMPLED = 256
"""Elements of each weight that a fingerprint looks at."""
THUMBNAIL = 64
"""Side of the pictures kept to look at, pixels."""


def fingerprint(model: nn.Module) -> str:
    """A short hash of a model's names, shapes and weights, of which it samples: milliseconds at any size.

    It is of the weights in bfloat16, so that a model has one fingerprint in whatever precision it runs.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        stride = max(1, weight.numel() // SAMPLED)
        sample = weight.detach().flatten()[::stride].to(torch.bfloat16).view(torch.int16).cpu()
        digest.update(f"{name} {tuple(weight.shape)} ".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass
class EncodedContext:
    """What ``LavinPipeline.encode_context`` makes of pairs, and a call takes instead of them.

    Args:
        latents: (input, target) of every pair in the J-DiT's scale, each float32 (1, channels, frames, height, width).
        cache: keys and values of all pairs, batch 1, of a ``causal`` model; None for a ``full`` one, whose condition
            depends on the query: it is spared the ST-VAE only.
        models: fingerprints of the ``stvae`` and ``jdit`` that made it.
        sample_size: side in pixels at which it was made.
        thumbnails: the pairs' first frames, uint8 (pairs, 2, 3, 64, 64).
        colours: in which the targets are drawn, see ``lavin.labels.palette``.
        pair_frames: frames of the first pair's input and target.
        task: its name, where it was told.
    """

    latents: list[tuple[Tensor, Tensor]]
    cache: ConditionCache | None
    models: dict[str, str]
    sample_size: int
    thumbnails: Tensor = field(repr=False)
    colours: tuple[tuple[int, int, int], ...] = ()
    pair_frames: tuple[int, int] = (1, 1)
    task: str | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def num_bytes(self) -> int:
        """Of keys, values and latents."""
        return sum(tensor.nbytes for name, tensor in self.tensors().items() if name != "thumbnails")

    def target_frames(self, query_frames: int) -> int:
        """Frames of a query's target: as the pairs show it where the query is as long as their inputs, else its own."""
        shown = self.pair_frames
        return shown[1] if query_frames == shown[0] else query_frames

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their names in the file."""
        found = {"thumbnails": self.thumbnails}
        for number, (pair_input, pair_target) in enumerate(self.latents):
            found |= {f"pairs.{number}.input": pair_input, f"pairs.{number}.target": pair_target}
        if self.cache is not None:
            for number, (keys, values) in enumerate(self.cache.layers):
                found |= {f"layers.{number}.keys": keys, f"layers.{number}.values": values}
        return found

    def to(self, device: torch.device | str, dtype: torch.dtype) -> EncodedContext:
        """The same on another device; keys and values in another precision."""
        latents = [(x.to(device), y.to(device)) for x, y in self.latents]
        cache = self.cache and ConditionCache(
            [(keys.to(device, dtype), values.to(device, dtype)) for keys, values in self.cache.layers],
            self.cache.frames,
        )
        return replace(self, latents=latents, cache=cache)

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises:
            InputError: the file exists and ``force`` is not given, or it cannot be written.
        """
        header = {name: getattr(self, name) for name in ("models", "sample_size", "colours", "pair_frames", "task")}
        header |= {"pairs": len(self), "layers": len(self.cache.layers) if self.cache is not None else None}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
        return write_bytes(path, save(tensors, {"format": FORMAT, "header": json.dumps(header)}), force)

    @classmethod
    def load(cls, path: str | Path) -> EncodedContext:
        """Read what ``save`` wrote.

        Raises:
            InputError: no such file, cut short, or no context.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"context {path}: no such file; 'lavin context save' makes one")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InputError(f"context {path} is no context file of this version of lavin ({FORMAT})")
                header: dict[str, Any] = json.loads(metadata["header"])
                read = file.get_tensor
                latents = [
                    (read(f"pairs.{number}.input"), read(f"pairs.{number}.target")) for number in range(header["pairs"])
                ]
                cache = None
                if header["layers"] is not None:
                    layers = [(read(f"layers.{n}.keys"), read(f"layers.{n}.values")) for n in range(header["layers"])]
                    cache = ConditionCache(layers, sum(half.shape[2] for pair in latents for half in pair))
                thumbnails = read("thumbnails")
                colours, frames = tuple(map(tuple, header["colours"])), tuple(header["pair_frames"])
                models, task = dict(header["models"]), header["task"]
                sample_size = int(header["sample_size"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"context {path} is damaged or no context file ({error}); save it again") from error
        return cls(latents, cache, models, sample_size, thumbnails, colours, frames, task)

    def check_fits(self, models: dict[str, str], sample_size: int) -> None:
        """Refuse another model than the one that made it.

        Raises:
            InputError: naming both.
        """
        for part, own in models.items():
            made = self.models.get(part)
            if made != own:
                raise InputError(
                    f"the context was encoded by {part} {made} and the model's {part} is {own}; "
                    "encode the pairs with this model, or load that one"
                )
        if sample_size != self.sample_size:
            raise InputError(
                f"the context was encoded at {self.sample_size} pixels and the model works at {sample_size}"
            )


def thumbnails(clips: list[tuple[Tensor, Tensor]]) -> Tensor:
    """First frames of (input, target) clips, (3, frames, size, size) in [-1, 1], as small pictures."""
    frames = torch.stack([half[:, 0] for pair in clips for half in pair])
    small = F.interpolate(frames.float(), (THUMBNAIL, THUMBNAIL), mode="bicubic", antialias=True)
    return ((small.clamp(-1, 1) + 1) * 127.5).round().byte().unflatten(0, (-1, 2))
