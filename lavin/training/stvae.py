"""Training of the ST-VAE on pictures of procedural scenes and on painted labels: reconstruction and KL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from lavin.data.mixture import Pool, draw_context
from lavin.errors import InputError
from lavin.models.stvae import STVAE
from lavin.training.config import STVAEConfig, TasksConfig, to_dict
from lavin.training.panels import grid, to_uint8
from lavin.training.trainer import Trainer

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
    """uint8 (batch, 3, height, width) -> clips of one frame in [-1, 1]."""
    return pictures.float().div(127.5).sub(1)[:, :, None]


def batches(pictures: Tensor, size: int) -> Iterator[Tensor]:
    for part in pictures.split(size):
        yield as_clips(part)


@torch.no_grad()
def psnr(reconstruct: Callable[[Tensor], Tensor], pictures: Tensor, batch: int = 32) -> float:
    """Mean PSNR in dB of reconstructed pictures, values in [0, 1].

    Args:
        reconstruct: clip -> clip, both (batch, 3, 1, height, width) in [-1, 1].
        pictures: uint8 (count, 3, height, width).
    """
    values = []
    for clip in batches(pictures, batch):
        error = ((reconstruct(clip).cpu().clamp(-1, 1) - clip) / 2).square().flatten(1).mean(1)
        values.append(-10 * error.clamp_min(1e-10).log10())
    return torch.cat(values).mean().item()


def train(config: STVAEConfig) -> Path:
    """Train an ST-VAE and export it, its latents' shift and scale measured.

    Returns:
        Folder of the exported model: ``STVAE.from_pretrained`` reads it.
    """
    torch.manual_seed(config.run.seed)
    stvae = STVAE(**config.model)
    scenes = config.scenes
    pool = Pool(scenes.source("train"), range(scenes.train_scenes))
    pictures = training_pictures(pool, config.tasks, config.pictures, config.run.seed)
    held_out = Pool(scenes.source("validation"), range(scenes.validation_scenes))
    photos = torch.stack([sample.clip[0].permute(2, 0, 1) for sample in held_out])
    labels = training_pictures(held_out, config.tasks, 2 * len(photos), config.run.seed)[len(photos) :]
    if config.model.get("linear_shortcut"):
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(config.run.seed))
        stvae.fit_linear_shortcut(batches(pictures[order[:4000]], 500))
    trainer = Trainer(stvae, config.run, config.optimizer, to_dict(config))
    device = trainer.accelerator.device
    if trainer.accelerator.num_processes > 1:
        raise InputError("train/stvae.py runs in one process; start it with accelerate launch --num_processes 1")

    def reconstruct(clip: Tensor) -> Tensor:
        return stvae(clip.to(device)).sample

    if stvae.shortcut is not None and trainer.step == 0:
        floor = [f"{psnr(reconstruct, kind):.2f}" for kind in (photos, labels)]
        print("linear codec alone: {} dB on photos, {} dB on labels".format(*floor))

    def compute_loss(model, rng, generator):
        chosen = pictures[rng.integers(0, len(pictures), config.run.batch_size)]
        clip = as_clips(chosen).to(device)
        if rng.random() < 0.5:
            clip = clip.flip(-1)
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
        return values, {"original | decoded": grid([list(shown), list(to_uint8(decoded)[:, :, 0])])}

    trainer.fit(compute_loss, validate)
    folder = Path(config.run.output_dir) / "stvae"
    trainer.ema.copy_to(trainer.weights)
    measured = (clip.to(device) for clip in batches(pictures[:: max(1, len(pictures) // 4000)], 100))
    trainer.bare_model.measure_latents(measured, config.scale_per_channel)
    trainer.bare_model.save_pretrained(folder)
    return folder
