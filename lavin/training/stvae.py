"""Training of the ST-VAE on pictures and clips of scenes, photos and painted labels: reconstruction and KL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import DistributedType
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from lavin.data.mixture import Pool, draw_context
from lavin.data.stream import ContextStream
from lavin.errors import InputError
from lavin.models.stvae import STVAE
from lavin.pictures import from_uint8, to_uint8
from lavin.training.config import PhotosConfig, ScenesConfig, STVAEConfig, TasksConfig, to_dict
from lavin.training.latents import load_stvae
from lavin.training.panels import grid
from lavin.training.streaming import PictureRing, shares
from lavin.training.trainer import Trainer, deaf_to_interrupts

CLIP_WORKERS = 0.4
"""Share of the workers that draw clips, which take longer than pictures."""
PHOTO_SHARE = 0.5
"""Photos among the training pictures; the rest are painted labels, so that these survive the ST-VAE."""


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)), averaged over latent elements: (mean² + var - 1 - logvar) / 2."""
    return (mean.square() + logvar.exp() - 1 - logvar).mean() / 2


def training_pictures(pool: Pool, tasks: TasksConfig, count: int, seed: int) -> Tensor:
    """Photos and painted targets of all tasks, each label task equally often.

    Returns:
        uint8 (count, 3, height, width).
    """
    rng = np.random.default_rng((seed, count))
    photos = round(PHOTO_SHARE * count)
    pictures = [pool[int(i)].clip[0].permute(2, 0, 1) for i in rng.integers(0, len(pool), photos)]
    chances = tasks.probabilities()
    for _ in tqdm(range(count - photos), desc="painting", disable=None):
        name = rng.choice(list(chances), p=list(chances.values()))
        episode = draw_context(pool, str(name), 0, rng, held_out=tasks.held_out())
        restores = torch.equal(episode.target, episode.query_sample.rgb())  # then the degraded input is what is new
        pictures.append(to_uint8(episode.query.input if restores else episode.target)[:, 0])
    return torch.stack(pictures)


def as_clips(pictures: Tensor) -> Tensor:
    """uint8 (batch, 3, height, width), or of clips (batch, 3, frames, height, width) -> clips in [-1, 1]."""
    clips = from_uint8(pictures)
    return clips if clips.ndim == 5 else clips[:, :, None]


def start_from(stvae: STVAE, model: str) -> None:
    """Copy the weights and the linear codec of another ST-VAE.

    Raises:
        InputError: no such model, or it has other sizes.
    """
    try:
        stvae.load_state_dict(load_stvae(model).state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"init: the ST-VAE of '{model}' has other sizes than 'model' says ({reason})") from error


def batches(pictures: Tensor, size: int) -> Iterator[Tensor]:
    for part in pictures.split(size):
        yield as_clips(part)


@torch.no_grad()
def psnr(reconstruct: Callable[[Tensor], Tensor], pictures: Tensor, batch: int = 32) -> float:
    """Mean PSNR in dB of reconstructed pictures, values in [0, 1].

    Args:
        reconstruct: clip -> clip, both (batch, 3, 1, height, width) in [-1, 1].
        pictures: uint8 (count, 3, height, width), or clips (count, 3, frames, height, width).
    """
    values = []
    for clip in batches(pictures, batch):
        error = ((reconstruct(clip).cpu().clamp(-1, 1) - clip) / 2).square().flatten(1).mean(1)
        values.append(-10 * error.clamp_min(1e-10).log10())
    return torch.cat(values).mean().item()


class FixedPictures:
    """Pictures made before training: what a step draws from without a stream."""

    def __init__(self, pictures: Tensor, device: torch.device):
        self.pictures, self.device = pictures, device

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """Clips of one frame (count, 3, 1, height, width) in [-1, 1]."""
        return as_clips(self.pictures[rng.integers(0, len(self.pictures), count)]).to(self.device)


class StreamedPictures:
    """Pictures, and now and then clips, that workers go on drawing while the ST-VAE trains."""

    def __init__(self, config: STVAEConfig, device: torch.device, step: int):
        stream, self.clip_share = config.stream, config.clip_share
        self.fresh = stream.fresh
        for_clips = round(stream.workers * CLIP_WORKERS) if self.clip_share else 0
        for_clips = min(max(for_clips, 1), stream.workers - 1) if self.clip_share else 0
        self.pictures = self.ring(config, config.scenes, config.tasks, stream.workers - for_clips, device, step)
        self.clips = None
        if self.clip_share:
            scenes = replace(config.scenes, frames=config.clip_frames)
            tasks = replace(config.tasks, weights={})
            tasks.resolve(scenes)
            self.clips = self.ring(config, scenes, tasks, for_clips, device, step)

    @staticmethod
    def ring(config, scenes: ScenesConfig, tasks: TasksConfig, workers: int, device: torch.device, step: int):
        stream, clips = config.stream, scenes.frames > 1
        photos, people = (PhotosConfig(), 0.0) if clips else (config.photos, stream.people_share)
        if clips:
            scenes = replace(scenes, train_scenes=config.clips)
        sources = shares(scenes, tasks, replace(stream, people_share=people), photos)
        names = list(tasks.probabilities())
        first = step * config.run.accumulation * stream.fresh // stream.batch
        source = ContextStream(sources, names, 1, tasks.held_out(), config.run.seed, stream.batch, first)
        with deaf_to_interrupts():
            ring = PictureRing(source, workers, config.clips if clips else config.pictures, device)
        ring.advance(stream.batch)
        return ring

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """Clips (count, 3, 1, height, width), or fewer and longer ones, in [-1, 1]."""
        if self.clips is not None and rng.random() < self.clip_share:
            frames = self.clips.pictures.shape[2]
            self.clips.advance(max(1, self.fresh // frames))
            return self.clips.draw(rng, max(1, count // frames))
        self.pictures.advance(self.fresh)
        return self.pictures.draw(rng, count)


def train(config: STVAEConfig) -> Path:
    """Train an ST-VAE and export it, its latents' shift and scale measured.

    Returns:
        Folder of the exported model: ``STVAE.from_pretrained`` reads it.
    """
    torch.manual_seed(config.run.seed)
    stvae = STVAE(**config.model)
    if config.init:
        start_from(stvae, config.init)
    scenes = config.scenes
    held_out = Pool(scenes.source("validation"), range(scenes.validation_scenes))
    photos = torch.stack([sample.clip[0].permute(2, 0, 1) for sample in held_out])
    tasks = config.tasks.on_scenes(scenes)
    labels = training_pictures(held_out, tasks, 2 * len(photos), config.run.seed)[len(photos) :]
    trainer = Trainer(stvae, config.run, config.optimizer, to_dict(config))
    device = trainer.accelerator.device
    if trainer.accelerator.num_processes > 1:
        raise InputError("train/stvae.py runs in one process; start it with accelerate launch --num_processes 1")
    if trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise InputError("train/stvae.py runs without DeepSpeed; use configs/accelerate/single_gpu.yaml or cpu.yaml")
    if config.stream.workers:
        source = StreamedPictures(config, device, trainer.step)
    else:
        pool = Pool(scenes.source("train"), range(scenes.train_scenes))
        source = FixedPictures(training_pictures(pool, config.tasks, config.pictures, config.run.seed), device)
    if stvae.shortcut is not None and not config.init and trainer.step == 0:
        rng = np.random.default_rng(config.run.seed)
        stvae.fit_linear_shortcut(source.draw(rng, 500) for _ in range(8))

    clips = None
    if config.clip_share:
        moving = replace(scenes, frames=config.clip_frames).source("validation").samples(range(32))
        clips = torch.stack([sample.clip.permute(3, 0, 1, 2) for sample in moving])

    def reconstruct(clip: Tensor) -> Tensor:
        return stvae(clip.to(device)).sample

    if stvae.shortcut is not None and not config.init and trainer.step == 0:
        floor = [f"{psnr(reconstruct, kind):.2f}" for kind in (photos, labels)]
        print("linear codec alone: {} dB on photos, {} dB on labels".format(*floor))

    def compute_loss(model, rng, generator):
        clip = source.draw(rng, config.run.batch_size)
        if rng.random() < 0.5:
            clip = clip.flip(-1)
        trainer.remember(clip=clip)
        with trainer.accelerator.autocast():
            posterior = stvae.encode(clip).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=generator, device=device)
            decoded = stvae.decode(mean + (logvar / 2).exp() * noise).sample.float()
        error = F.mse_loss(decoded, clip)
        kl = kl_divergence(mean, logvar)
        loss = error + config.kl_weight * kl
        if config.l1_weight:
            loss = loss + config.l1_weight * F.l1_loss(decoded, clip)
        return loss, {"mse": error.detach(), "kl": kl.detach()}

    def validate(step):
        with trainer.accelerator.autocast():
            shown = torch.cat([photos[:6], labels[:6]])
            decoded = reconstruct(as_clips(shown)).cpu()
            values = {"psnr_photos": psnr(reconstruct, photos), "psnr_labels": psnr(reconstruct, labels)}
            if clips is not None:
                values["psnr_clips"] = psnr(reconstruct, clips)
        return values, {"original | decoded": grid([list(shown), list(to_uint8(decoded)[:, :, 0])])}

    def export(to):
        averaged = trainer.averaged_model().to(device)
        rng = np.random.default_rng(config.run.seed)
        averaged.measure_latents((source.draw(rng, 100) for _ in range(40)), config.scale_per_channel)
        averaged.save_pretrained(to)

    trainer.fit(compute_loss, validate, export)
    folder = Path(config.run.output_dir) / "stvae"
    export(folder)
    trainer.end()
    return folder
