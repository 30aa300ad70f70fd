"""What a model trains on while workers go on drawing: the newest contexts, as latents or as pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lavin.data.scenes import Scenes
from lavin.data.stream import ContextBatch, ContextStream, Share, read_stream
from lavin.models.stvae import STVAE
from lavin.tasks import get_task
from lavin.training.config import PhotosConfig, ScenesConfig, StreamConfig, TasksConfig
from lavin.training.latents import LatentCache

PHOTOS_PER_CONTEXT = 4.0
"""New crops of photos for every context drawn from them: they cost far less than scenes do."""
PHOTO_TASKS = {
    "camvid": ("foreground", "semantic"),
    "bsds500": (),
    "rgbd": ("depth", "normals"),
}
"""Tasks that the labels of each kind of photos serve, beside those that any photo does."""


def shares(
    scenes: ScenesConfig, tasks: TasksConfig, stream: StreamConfig, photos: PhotosConfig, split: str = "train"
) -> list[Share]:
    """Where the contexts come from: scenes, scenes with people, and photos, each with the tasks that it can show."""
    chances = tasks.probabilities()
    with_people = {name: weight for name, weight in chances.items() if get_task(name).people}
    without = {name: weight for name, weight in chances.items() if name not in with_people}
    photo_share = photos.share if photos.folders else 0.0
    scene_share = 1 - photo_share - stream.people_share
    able = chances if scenes.people else without
    found = [Share(scenes.source(split), scene_share, able, stream.scenes_per_context, scenes.train_scenes)]
    if stream.people_share:
        people = Scenes(split, size=scenes.size, frames=scenes.frames, people=True)
        capacity = max(1, int(scenes.train_scenes * stream.people_share))
        found.append(Share(people, stream.people_share, chances, stream.scenes_per_context, capacity))
    for kind, folder in photos.folders.items():
        from lavin.data.photos import open_photos

        source = open_photos(kind, folder, split, scenes.size)
        able = {name: weight for name, weight in without.items() if any_photo(name) or name in PHOTO_TASKS[kind]}
        if able:
            share = photo_share / len(photos.folders)
            found.append(Share(source, share, able, PHOTOS_PER_CONTEXT, 10 * len(source)))
    return found


def any_photo(task: str) -> bool:
    """Whether a task needs no label: its targets are made from the picture itself."""
    return not get_task(task).needs and not get_task(task).people and not get_task(task).clips


class LatentRing(LatentCache):
    """The latents of the newest contexts of a stream, on the ST-VAE's device.

    Args:
        stvae: frozen.
        stream: what to read.
        workers: processes that draw.
        capacity: contexts kept.
        precision: ``bf16`` or ``fp32``, of the encoding.
    """

    def __init__(self, stvae: STVAE, stream: ContextStream, workers: int, capacity: int, precision: str):
        self.stvae, self.precision, self.capacity = stvae, precision, capacity
        self.batches = read_stream(stream, workers, pin_memory=stvae.device.type == "cuda")
        self.tasks = stream.tasks
        self.drawn = 0

    def __len__(self) -> int:
        return min(self.drawn, self.capacity)

    def advance(self, contexts: int) -> None:
        """Take so many new contexts from the workers; they replace the oldest."""
        taken = 0
        while taken < contexts:
            batch = next(self.batches)
            self.put(batch)
            taken += len(batch.task_ids)

    def put(self, batch: ContextBatch) -> None:
        inputs, targets = (self.encode(half) for half in (batch.inputs, batch.targets))
        if self.drawn == 0:
            shape = (self.capacity, *inputs.shape[1:])
            self.inputs, self.targets = (torch.empty(shape, dtype=torch.float16, device=inputs.device) for _ in "xy")
            self.task_ids = torch.zeros(self.capacity, dtype=torch.long)
        places = torch.arange(self.drawn, self.drawn + len(inputs)) % self.capacity
        self.task_ids[places] = batch.task_ids
        there = places.to(inputs.device)
        self.inputs[there], self.targets[there] = inputs, targets
        self.drawn += len(inputs)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 (contexts, pairs, 3, frames, height, width) -> float16 latents in the J-DiT's scale."""
        clips = to_clips(pictures.flatten(0, 1), self.stvae.device)
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            latents = self.stvae.to_latent(clips)
        return latents.half().unflatten(0, pictures.shape[:2])


class PictureRing:
    """The newest pictures, or clips, of a stream: inputs and targets alike.

    Args:
        stream: contexts of one example.
        workers: processes that draw.
        capacity: pictures kept.
        device: where they are kept.
    """

    def __init__(self, stream: ContextStream, workers: int, capacity: int, device: torch.device):
        self.batches: Iterator[ContextBatch] = read_stream(stream, workers, pin_memory=device.type == "cuda")
        self.capacity, self.device, self.drawn = capacity, device, 0

    def __len__(self) -> int:
        return min(self.drawn, self.capacity)

    def advance(self, contexts: int) -> None:
        """Take so many new contexts from the workers; their pictures replace the oldest."""
        taken = 0
        while taken < contexts:
            batch = next(self.batches)
            taken += len(batch.task_ids)
            pictures = torch.cat([batch.inputs, batch.targets]).flatten(0, 1).to(self.device, non_blocking=True)
            if self.drawn == 0:
                shape = (self.capacity, *pictures.shape[1:])
                self.pictures = torch.empty(shape, dtype=torch.uint8, device=self.device)
            places = torch.arange(self.drawn, self.drawn + len(pictures), device=self.device) % self.capacity
            self.pictures[places] = pictures
            self.drawn += len(pictures)

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """Clips (count, 3, frames, height, width) in [-1, 1]."""
        chosen = torch.from_numpy(rng.integers(0, len(self), count)).to(self.device)
        return to_clips(self.pictures[chosen], self.device)


def to_clips(pictures: Tensor, device: torch.device) -> Tensor:
    """uint8 -> float32 in [-1, 1] on the device."""
    return pictures.to(device, non_blocking=True).float().div_(127.5).sub_(1)
