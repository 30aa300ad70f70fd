"""Contexts whose latents are computed once: what the J-DiT trains on, so that the ST-VAE is out of the way."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from lavin.bundled import bundled_models
from lavin.data.mixture import DEFINITIONS_TRIED, Episode, Pool, draw_context, has_whole_length
from lavin.errors import InputError
from lavin.models.stvae import STVAE
from lavin.models.weights import load_component
from lavin.training.config import TasksConfig

ENCODE_BATCH = 64


def load_stvae(name_or_folder: str) -> STVAE:
    """The frozen ST-VAE: of a bundled model, of a pipeline folder, or on its own.

    Raises:
        InputError: nothing of that name.
    """
    folder = bundled_models().get(name_or_folder, Path(name_or_folder))
    folder = folder / "stvae" if (folder / "stvae").is_dir() else folder
    if not (folder / "config.json").is_file():
        known = ", ".join(bundled_models()) or "none"
        raise InputError(f"stvae: no ST-VAE in '{name_or_folder}'; give a folder or a bundled model ({known})")
    return load_component(STVAE, folder, torch.float32).eval().requires_grad_(False)


@dataclass
class LatentCache:
    """Latents of contexts in the J-DiT's scale, half precision.

    Args:
        inputs, targets: (contexts, pairs, channels, latent_frames, height, width); targets may be longer or shorter.
        task_ids: (contexts,) index into ``tasks``.
        tasks: names.
    """

    inputs: Tensor
    targets: Tensor
    task_ids: Tensor
    tasks: list[str]

    def __len__(self) -> int:
        return len(self.inputs)

    def sequences(self, rng: np.random.Generator, batch_size: int, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw contexts, and of each some pairs in random order.

        Returns:
            Condition x1 y1 ... xn, without the last target: (batch, channels, all frames, height, width);
            all targets y1 ... yn: (batch, channels, n * frames, height, width); task ids (batch,).
        """
        chosen = torch.from_numpy(rng.integers(0, len(self), batch_size))
        order = rng.permuted(np.tile(np.arange(self.inputs.shape[1]), (batch_size, 1)), axis=1)[:, :pairs]
        rows, columns = (part.to(self.inputs.device) for part in (chosen[:, None], torch.from_numpy(order)))
        x, y = (latents[rows, columns].float() for latents in (self.inputs, self.targets))
        clips = torch.cat((x, y), dim=3).transpose(1, 2).flatten(2, 3)  # (batch, channels, all frames, height, width)
        condition = clips[:, :, : clips.shape[2] - y.shape[3]]
        return condition, y.transpose(1, 2).flatten(2, 3), self.task_ids[chosen]


class LatentWriter:
    """Encodes pictures in batches and remembers photos, which many contexts share.

    Args:
        precision: ``fp32``, or ``bf16`` by autocast: three times as fast on CPUs that have it, 0.1 % off.
        dtype: of the latents kept.
    """

    def __init__(self, stvae: STVAE, precision: str = "fp32", dtype: torch.dtype = torch.float16):
        self.stvae, self.precision, self.dtype = stvae, precision, dtype
        self.photos: dict[str, Tensor] = {}

    @torch.no_grad()
    def encode(self, clips: list[Tensor]) -> list[Tensor]:
        """Clips (3, frames, height, width) -> latents in the J-DiT's scale; equally long ones in batches."""
        latents: dict[int, Tensor] = {}
        for frames in dict.fromkeys(clip.shape[1] for clip in clips):
            numbers = [number for number, clip in enumerate(clips) if clip.shape[1] == frames]
            for start in range(0, len(numbers), ENCODE_BATCH):
                chosen = numbers[start : start + ENCODE_BATCH]
                batch = torch.stack([clips[number] for number in chosen]).to(self.stvae.device)
                with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    encoded = self.stvae.to_latent(batch)
                latents.update(zip(chosen, encoded.cpu().to(self.dtype).unbind(), strict=True))
        return [latents[number] for number in range(len(clips))]

    def encode_episodes(self, episodes: list[Episode]) -> tuple[Tensor, Tensor]:
        """Input and target latents of all pairs and the query: two (episodes, pairs + 1, channels, f, h, w)."""
        examples = [example for episode in episodes for example in (*episode.pairs, episode.query)]
        samples = [sample for episode in episodes for sample in (*episode.pair_samples, episode.query_sample)]
        clips: dict[str, Tensor] = {}
        names: list[str] = []
        for number, (example, sample) in enumerate(zip(examples, samples, strict=True)):
            photo = sample.rgb()
            for role, clip in zip(("input", "target"), example, strict=True):
                is_photo = torch.equal(clip, photo)
                names.append(sample.id if is_photo else f"{number} {role}")
                if names[-1] not in self.photos:
                    clips[names[-1]] = clip
        encoded = dict(zip(clips, self.encode(list(clips.values())), strict=True))
        photos = {sample.id for sample in samples}
        self.photos.update({name: latent for name, latent in encoded.items() if name in photos})
        latents = [self.photos[name] if name in self.photos else encoded[name] for name in names]
        halves = (torch.stack(half) for half in (latents[::2], latents[1::2]))
        return tuple(half.unflatten(0, (len(episodes), -1)) for half in halves)


def build_cache(
    stvae: STVAE, pool: Pool, tasks: TasksConfig, contexts: int, pairs: int, seed: int, precision: str = "fp32"
) -> LatentCache:
    """Draw contexts of ``pairs`` examples and encode them with the mean of the ST-VAE's posterior."""
    task_ids = draw_tasks(tasks, contexts, seed)
    writer = LatentWriter(stvae, precision)
    parts = []
    for start in tqdm(range(0, contexts, 32), desc="caching latents", disable=None):
        numbers = range(start, min(start + 32, contexts))
        episodes = [training_context(pool, tasks, int(task_ids[n]), n, pairs, seed) for n in numbers]
        parts.append(writer.encode_episodes(episodes))
    inputs, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    return LatentCache(inputs, targets, torch.from_numpy(task_ids), list(tasks.probabilities()))


def draw_tasks(tasks: TasksConfig, contexts: int, seed: int) -> np.ndarray:
    """The task of every context of a cache, numbered as in ``tasks.probabilities()``."""
    chances = list(tasks.probabilities().values())
    return np.random.default_rng((seed, contexts)).choice(len(chances), contexts, p=chances)


def training_context(pool: Pool, tasks: TasksConfig, task_id: int, number: int, pairs: int, seed: int) -> Episode:
    """Context ``number`` of a cache, with ``pairs`` examples, the query among them; a function of its arguments.

    All clips of a cache are equally long: definitions that show fewer frames (optical flow with a stride) are drawn
    again.

    Raises:
        ValueError: no definition fits the pool.
    """
    rng, name = np.random.default_rng((seed, number)), list(tasks.probabilities())[task_id]
    for _ in range(DEFINITIONS_TRIED):
        prefix_frames = tasks.prefix_frames or None
        episode = draw_context(pool, name, pairs - 1, rng, held_out=tasks.held_out(), prefix_frames=prefix_frames)
        if has_whole_length(episode, prefix_frames or pool[0].size[0]):
            return episode
    raise ValueError(f"task '{name}': no definition shows all {pool[0].size[0]} frames of the clips")


def load_or_build(path: Path, key: dict, build) -> LatentCache:
    """The cache at ``path`` if it was made from the same ``key`` (ST-VAE, scenes, tasks), else a new one put there."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = path.with_name(f"{path.name}-{digest}.safetensors")
    if not path.exists():
        cache = build()
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".partial")
        tensors = {"inputs": cache.inputs, "targets": cache.targets, "task_ids": cache.task_ids}
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, aside, {"tasks": json.dumps(cache.tasks)}
        )
        aside.rename(path)
    return LatentCache(**load_file(path), tasks=list(key["tasks"]))
