"""What the ST-VAE trains on: photos, painted labels and clips of both, whole or in random parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lavin.data.mixture import DEFINITIONS_TRIED, Episode, Pool, draw_context
from lavin.data.stream import ContextStream
from lavin.pictures import from_uint8, to_uint8
from lavin.tasks import HeldOut
from lavin.training.config import PhotosConfig, ScenesConfig, STVAEConfig, TasksConfig
from lavin.training.streaming import PictureRing, shares
from lavin.training.trainer import deaf_to_interrupts

CLIP_WORKERS = 0.4
"""Share of the workers that draw clips, which take longer than pictures."""


def training_pictures(pool: Pool, tasks: TasksConfig, count: int, seed: int, label_share: float = 0.5) -> Tensor:
    """Photos and painted targets of all tasks, each label task equally often; of a pool of clips, clips.

    Returns:
        uint8 (count, 3, height, width), of clips (count, 3, frames, height, width).
    """
    rng = np.random.default_rng((seed, count))
    photos = round((1 - label_share) * count)
    pictures = [to_uint8(pool[int(i)].rgb()) for i in rng.integers(0, len(pool), photos)]
    chances = tasks.probabilities()
    for _ in tqdm(range(count - photos), desc="painting", disable=None):
        name = rng.choice(list(chances), p=list(chances.values()))
        pictures.append(painted(pool, str(name), rng, tasks.held_out()))
    stacked = torch.stack(pictures)
    return stacked[:, :, 0] if stacked.shape[2] == 1 else stacked


def painted(pool: Pool, task: str, rng: np.random.Generator, held_out: HeldOut) -> Tensor:
    """A target of a task, or the degraded input where the target is the photo; uint8 (3, frames, height, width)."""
    for _ in range(DEFINITIONS_TRIED):
        episode = draw_context(pool, task, 0, rng, held_out=held_out)
        clip = what_is_new(episode)
        if clip.shape[1] == pool[0].size[0]:  # optical flow with a stride shows fewer frames
            return to_uint8(clip)
    raise ValueError(f"task '{task}': no definition shows all {pool[0].size[0]} frames of the clips")


def what_is_new(episode: Episode) -> Tensor:
    """What of a task's example is no photo."""
    restores = torch.equal(episode.target, episode.query_sample.rgb())
    return episode.query.input if restores else episode.target


def as_clips(pictures: Tensor) -> Tensor:
    """uint8 (batch, 3, height, width), or of clips (batch, 3, frames, height, width) -> clips in [-1, 1]."""
    clips = from_uint8(pictures)
    return clips if clips.ndim == 5 else clips[:, :, None]


# --- Parts of pictures ------------------------------------------------------------------------------------------------


def draw_size(rng: np.random.Generator, sizes: list[int], whole: int) -> tuple[int, int]:
    """(height, width) of the parts that a forward pass trains on."""
    return tuple(int(rng.choice(sizes)) for _ in "hw") if sizes else (whole, whole)


def as_many_pixels(count: int, whole: int, size: tuple[int, int]) -> int:
    """How many parts of that size have no more pixels than ``count`` whole pictures."""
    return max(1, count * whole**2 // (size[0] * size[1]))


def random_parts(clips: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """A random part of each clip, the same in all its frames: (batch, 3, frames, *size)."""
    height, width = size
    if clips.shape[-2:] == size:
        return clips
    tops = rng.integers(0, clips.shape[-2] - height + 1, len(clips))
    lefts = rng.integers(0, clips.shape[-1] - width + 1, len(clips))
    parts = [
        clip[..., top : top + height, left : left + width]
        for clip, top, left in zip(clips, tops.tolist(), lefts.tolist(), strict=True)
    ]
    return torch.stack(parts)


# --- Where they come from ---------------------------------------------------------------------------------------------


def clip_settings(config: STVAEConfig) -> tuple[ScenesConfig, TasksConfig]:
    """Scenes that move, and the tasks of clips."""
    scenes = replace(config.scenes, frames=config.clip_frames)
    tasks = replace(config.tasks, weights={})
    tasks.resolve(scenes)
    return scenes, tasks


class FixedPictures:
    """Pictures, and clips if asked for, made before training: what a step draws from without a stream."""

    def __init__(self, config: STVAEConfig, device: torch.device):
        self.device, self.clip_share, self.clips = device, config.clip_share, None
        scenes, seed, share = config.scenes, config.run.seed, config.label_share
        pool = Pool(scenes.source("train"), range(scenes.train_scenes))
        self.pictures = training_pictures(pool, config.tasks, config.pictures, seed, share)
        if self.clip_share:
            moving, tasks = clip_settings(config)
            pool = Pool(moving.source("train"), range(max(1, config.clips // 2)), batch=8)
            self.clips = training_pictures(pool, tasks, config.clips, seed, share)

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """Clips (count, 3, 1, height, width), or fewer and longer ones, in [-1, 1]."""
        source = self.pictures
        if self.clips is not None and rng.random() < self.clip_share:
            source, count = self.clips, clips_for(count, self.clips.shape[2])
        return as_clips(source[rng.integers(0, len(source), count)]).to(self.device)


def clips_for(pictures: int, frames: int) -> int:
    """Clips that have as many frames as a batch of pictures."""
    return max(1, pictures // frames)


class StreamedPictures:
    """Pictures, and now and then clips, that workers go on drawing while the ST-VAE trains.

    Args:
        step: that training goes on from.
        rank, ranks: this process among those that train.
    """

    def __init__(self, config: STVAEConfig, device: torch.device, step: int, rank: int = 0, ranks: int = 1):
        stream, self.clip_share = config.stream, config.clip_share
        self.fresh = stream.fresh
        self.place = device, step, rank, ranks
        for_clips = round(stream.workers * CLIP_WORKERS) if self.clip_share else 0
        for_clips = min(max(for_clips, 1), stream.workers - 1) if self.clip_share else 0
        self.pictures = self.ring(config, config.scenes, config.tasks, stream.workers - for_clips)
        self.clips = self.ring(config, *clip_settings(config), for_clips) if self.clip_share else None

    def ring(self, config: STVAEConfig, scenes: ScenesConfig, tasks: TasksConfig, workers: int) -> PictureRing:
        device, step, rank, ranks = self.place
        stream, clips = config.stream, scenes.frames > 1
        photos, people = (PhotosConfig(), 0.0) if clips else (config.photos, stream.people_share)
        if clips:
            scenes = replace(scenes, train_scenes=config.clips)
        sources = shares(scenes, tasks, replace(stream, people_share=people), photos)
        names = list(tasks.probabilities())
        first = step * config.run.accumulation * stream.fresh // stream.batch
        source = ContextStream(sources, names, 1, tasks.held_out(), config.run.seed, stream.batch, first, rank, ranks)
        with deaf_to_interrupts():
            ring = PictureRing(source, workers, config.clips if clips else config.pictures, device)
        ring.advance(stream.batch)
        return ring

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """Clips (count, 3, 1, height, width), or fewer and longer ones, in [-1, 1]."""
        if self.clips is not None and rng.random() < self.clip_share:
            frames = self.clips.pictures.shape[2]
            self.clips.advance(max(1, self.fresh // frames))
            return self.clips.draw(rng, clips_for(count, frames))
        self.pictures.advance(self.fresh)
        return self.pictures.draw(rng, count)
