"""Other people's networks as predictors, from a folder: SegGPT (transformers) and Marigold (diffusers)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lavin.bundled import read_json
from lavin.data.mixture import Episode
from lavin.encoded import fingerprint
from lavin.errors import InputError
from lavin.evaluation.predictors import Predictor
from lavin.tasks import Task

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KNOWN = "a SegGPT checkpoint of transformers, or a Marigold depth or normals pipeline of diffusers"
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError)
"""What the two libraries raise on folders that are not whole."""


class SegGPT(Predictor):
    """In-context segmentation by painting (Wang et al. 2023); several pairs by its feature ensemble.

    It takes every task of pictures: what the pairs show is painted, whether it was trained on that or not.
    """

    costly = True

    def __init__(self, folder: Path, device: torch.device):
        from transformers import SegGptForImageSegmentation

        self.name = folder.name
        self.model = SegGptForImageSegmentation.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.model.eval().to(device)
        height, width = self.model.config.image_size
        self.size = height // 2, width

    def takes(self, task: Task) -> bool:
        return not task.clips

    def predict(self, episodes: Sequence[Episode], generators: Sequence[Generator]) -> list[Tensor]:
        return [self.paint(episode) for episode in episodes]

    @torch.no_grad()
    def paint(self, episode: Episode) -> Tensor:
        """The target that SegGPT paints beside the query; its own square is resized to the model's and back."""
        pairs = episode.pairs
        found = self.model(
            pixel_values=self.normalise([episode.query.input] * len(pairs), "bicubic"),
            prompt_pixel_values=self.normalise([pair.input for pair in pairs], "bicubic"),
            prompt_masks=self.normalise([pair.target for pair in pairs], "nearest"),
            feature_ensemble=len(pairs) > 1,
            embedding_type="semantic",
        ).pred_masks
        found = found[:, :, found.shape[2] // 2 :].mean(0, keepdim=True)  # above it is the pairs' part of the canvas
        mean, std = (found.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        picture = 2 * (found * std + mean) - 1
        size = episode.target.shape[-2:]
        return F.interpolate(picture, size, mode="bicubic", antialias=True).clamp(-1, 1)[0, :, None].float().cpu()

    def normalise(self, clips: Sequence[Tensor], method: str) -> Tensor:
        """Pictures (3, 1, height, width) in [-1, 1] as the network wants them, (n, 3, height, width)."""
        pictures = torch.stack([clip[:, 0] for clip in clips]).to(self.model.device)
        pictures = F.interpolate(pictures, self.size, mode=method, antialias=method == "bicubic")
        mean, std = (pictures.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return ((pictures.clamp(-1, 1) + 1) / 2 - mean) / std

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "SegGPT", "weights": fingerprint(self.model)}


class Marigold(Predictor):
    """Depth or normals by a fine-tuned image diffusion model (Ke et al. 2024); it sees the query alone.

    Depth comes up to scale and shift, far bright; normals in our axes: x right, y up, z towards the viewer.
    """

    costly = True

    def __init__(self, folder: Path, device: torch.device, kind: str):
        import diffusers

        self.name, self.kind = folder.name, kind
        self.answers_depth = TASK_OF[kind] == "depth"
        self.pipeline = getattr(diffusers, kind).from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.pipeline.to(device).set_progress_bar_config(disable=True)

    def takes(self, task: Task) -> bool:
        return task.name == TASK_OF[self.kind]

    def predict(self, episodes: Sequence[Episode], generators: Sequence[Generator]) -> list[Tensor]:
        pictures = torch.stack([(episode.query.input[:, 0] + 1) / 2 for episode in episodes])
        found = self.pipeline(
            pictures.to(self.pipeline.device), generator=list(generators), output_type="pt", batch_size=len(pictures)
        ).prediction
        found = 2 * found.expand(-1, 3, -1, -1) - 1 if self.answers_depth else found
        return list(found.float().cpu().unsqueeze(2))

    def describe(self) -> dict[str, Any]:
        weights = {part: fingerprint(getattr(self.pipeline, part)) for part in ("unet", "vae")}
        return {"name": self.name, "kind": self.kind, "weights": weights}


TASK_OF = {"MarigoldDepthPipeline": "depth", "MarigoldNormalsPipeline": "normals"}


def open_rival(path: str | Path, device: torch.device | str = "cpu") -> Predictor:
    """The predictor in a folder.

    Raises:
        InputError: no such folder, not a kind that is known, files that are missing or damaged, or a library that is
            not installed.
    """
    folder, device = Path(path).resolve(), torch.device(device)
    if not folder.is_dir():
        raise InputError(f"baseline {path}: no such folder; {KNOWN} is needed")
    if (folder / "model_index.json").is_file():
        kind = read_json(folder / "model_index.json").get("_class_name")
    else:
        kind = read_json(folder / "config.json").get("model_type") if (folder / "config.json").is_file() else None
    if kind not in (*TASK_OF, "seggpt"):
        raise InputError(f"baseline {path}: {f'is a {kind}' if kind else 'holds no model'}; {KNOWN} is needed")
    try:
        return SegGPT(folder, device) if kind == "seggpt" else Marigold(folder, device, kind)
    except ImportError as error:
        raise InputError(f"baseline {path}: needs transformers: pip install 'lavin[encoders]' ({error})") from error
    except UNREADABLE as error:
        raise InputError(f"baseline {path}: cannot be loaded ({error})") from error


def open_rivals(paths: Sequence[str | Path], device: torch.device | str = "cpu") -> list[Predictor]:
    """The predictors in some folders, whose names must differ."""
    rivals = [open_rival(path, device) for path in paths]
    names = [rival.name for rival in rivals]
    taken = [name for name in names if names.count(name) > 1]
    if taken:
        raise InputError(f"two baselines are called '{taken[0]}'; their folders' names stand in the table")
    return rivals
