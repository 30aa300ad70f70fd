"""What a model trains on while workers go on drawing: the newest contexts, as latents or as pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lavin.data.stream import ContextBatch, ContextStream, Share, read_stream
from lavin.models.stvae import STVAE
from lavin.pictures import from_uint8
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
    height, width = scenes.sides
    folders = photos.folders if height == width and scenes.frames == 1 else {}  # photos become squares
    photo_share = photos.share if folders else 0.0
    scene_share = 1 - photo_share - stream.people_share
    able = chances if scenes.people else without
    of_scenes = {"per_context": stream.scenes_per_context, "prefix_frames": tasks.prefix_frames or None}
    found = [Share(scenes.source(split), scene_share, able, capacity=scenes.train_scenes, **of_scenes)]
    if stream.people_share:
        people = scenes.source(split, people=True)
        capacity = max(1, int(scenes.train_scenes * stream.people_share))
        found.append(Share(people, stream.people_share, chances, capacity=capacity, **of_scenes))
    for kind, folder in folders.items():
        from lavin.data.photos import open_photos

        source = open_photos(kind, folder, split, height)
        able = {name: weight for name, weight in without.items() if any_photo(name) or name in PHOTO_TASKS[kind]}
        if able:
            share = photo_share / len(folders)
            found.append(Share(source, share, able, PHOTOS_PER_CONTEXT))
    return found


def any_photo(task: str) -> bool:
    """Whether a task needs no label: its targets are made from the picture itself."""
    return not get_task(task).needs and not get_task(task).people and not get_task(task).clips


class Ring:
    """What became of a stream's newest contexts.

    Args:
        batches: of the stream.
        capacity: things kept.
    """

    def __init__(self, batches: Iterator[ContextBatch], capacity: int):
        self.batches, self.capacity, self.drawn = batches, capacity, 0
        self.damaged: set[str] = set()

    def __len__(self) -> int:
        return min(self.drawn, self.capacity)

    def advance(self, contexts: int) -> None:
        """Take so many new contexts from the workers; what is made of them replaces the oldest."""
        taken = 0
        while taken < contexts:
            batch = next(self.batches)
            self.put(batch)
            for reason in set(batch.damaged) - self.damaged:
                print(f"warning: left out a damaged sample: {reason}", flush=True)
            self.damaged.update(batch.damaged)
            taken += len(batch.task_ids)

    def put(self, batch: ContextBatch) -> None:
        raise NotImplementedError

    def places(self, count: int) -> Tensor:
        """Where the next things go."""
        places = torch.arange(self.drawn, self.drawn + count) % self.capacity
        self.drawn += count
        return places


class LatentRing(Ring, LatentCache):
    """The latents of the newest contexts, on the ST-VAE's device.

    Args:
        stvae: frozen.
        stream: what to read.
        workers: processes that draw.
        capacity: contexts kept.
        precision: ``bf16`` or ``fp32``, of the encoding.
    """

    def __init__(self, stvae: STVAE, stream: ContextStream, workers: int, capacity: int, precision: str):
        Ring.__init__(self, read_stream(stream, workers, pin_memory=stvae.device.type == "cuda"), capacity)
        self.stvae, self.precision, self.tasks = stvae, precision, stream.tasks

    def put(self, batch: ContextBatch) -> None:
        inputs, targets = (self.encode(half) for half in (batch.inputs, batch.targets))
        if self.drawn == 0:
            self.inputs, self.targets = (half.new_empty(self.capacity, *half.shape[1:]) for half in (inputs, targets))
            self.task_ids = torch.zeros(self.capacity, dtype=torch.long)
        places = self.places(len(inputs))
        self.task_ids[places] = batch.task_ids
        there = places.to(inputs.device)
        self.inputs[there], self.targets[there] = inputs, targets

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 (contexts, pairs, 3, frames, height, width) -> float16 latents in the J-DiT's scale."""
        clips = from_uint8(pictures.flatten(0, 1).to(self.stvae.device, non_blocking=True))
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            latents = self.stvae.to_latent(clips)
        return latents.half().unflatten(0, pictures.shape[:2])


class PictureRing(Ring):
    """The newest pictures, or clips, inputs and targets alike.

    Args:
        stream: contexts of one example.
        workers: processes that draw.
        capacity: pictures kept.
        device: where they are kept.
    """

    def __init__(self, stream: ContextStream, workers: int, capacity: int, device: torch.device):
        super().__init__(read_stream(stream, workers, pin_memory=device.type == "cuda"), capacity)
        self.device = device

    def put(self, batch: ContextBatch) -> None:
        pictures = torch.cat([batch.inputs, batch.targets]).flatten(0, 1).to(self.device, non_blocking=True)
        if self.drawn == 0:
            shape = (self.capacity, *pictures.shape[1:])
            self.pictures = torch.empty(shape, dtype=torch.uint8, device=self.device)
        self.pictures[self.places(len(pictures)).to(self.device)] = pictures

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """Clips (count, 3, frames, height, width) in [-1, 1]."""
        chosen = torch.from_numpy(rng.integers(0, len(self), count)).to(self.device)
        return from_uint8(self.pictures[chosen])
