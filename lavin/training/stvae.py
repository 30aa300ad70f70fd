"""Training of the ST-VAE on pictures and clips of scenes, photos and painted labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from lavin.data.mixture import Pool
from lavin.errors import InputError
from lavin.models.stvae import STVAE
from lavin.models.stvae_layers import CausalConv3d
from lavin.pictures import to_uint8
from lavin.training.adversary import Adversary
from lavin.training.config import STVAEConfig, to_dict
from lavin.training.engine import DeepSpeedSettings
from lavin.training.latents import load_stvae
from lavin.training.panels import grid
from lavin.training.stvae_data import (
    FixedPictures,
    StreamedPictures,
    as_clips,
    as_many_pixels,
    clip_settings,
    draw_size,
    random_parts,
    training_pictures,
)
from lavin.training.stvae_losses import Perceptual, adaptive_weight, check_backbone, kl_divergence, reconstruction
from lavin.training.trainer import Trainer

KINDS = ("stvae", "cogvideox")
CODEC_BATCHES = 8
"""Batches that the linear codec is measured on."""
CODEC_CLIPS = 96
"""Clips, half of them painted labels, that its later frames alone are measured on."""
STANDING = 0.875
"""Share of the channels of later frames that stay the pictures' when clips are learned alone: with fewer the codec's
blocks are seen, with more less is left for motion."""


def new_model(config: STVAEConfig) -> nn.Module:
    """The model that ``config.model`` describes, its weights fresh or those of ``config.init``.

    Raises:
        InputError: an unknown kind, arguments that it does not take, or ``init`` does not fit.
    """
    settings = dict(config.model)
    kind = settings.pop("kind", "stvae")
    if kind not in KINDS:
        raise InputError(f"model.kind is '{kind}'; it must be one of {', '.join(KINDS)}")
    cls = STVAE
    if kind == "cogvideox":
        from lavin.training.cogvideox_baseline import AutoencoderKLCogVideoX as cls

        if config.clip_share and config.clip_frames % 8 != 1:
            raise InputError(
                f"clip_frames is {config.clip_frames}; model.kind=cogvideox returns clips of 1 + 8k frames only"
            )
    try:
        model = cls(**settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"model: no {cls.__name__} can be made of these arguments ({error})") from error
    if config.init:
        if cls is not STVAE:
            raise InputError("init: model.kind=cogvideox starts from fresh weights; leave it out")
        start_from(model, config.init)
        for conv in model.modules():
            if isinstance(conv, CausalConv3d):
                conv.keep_of_past(config.keep_of_past)
        model.encoder.requires_grad_(not config.freeze_encoder)
        if config.freeze_pictures:
            train_later_frames_alone(model)
    return model


def start_from(stvae: STVAE, model: str) -> None:
    """Copy the weights, the linear codec and the latents' shift and scale of another ST-VAE.

    Raises:
        InputError: no such model, or it has other sizes.
    """
    other = load_stvae(model)
    try:
        stvae.load_state_dict(other.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"init: the ST-VAE of '{model}' has other sizes than 'model' says ({reason})") from error
    stvae.register_to_config(shift=other.config.shift, scale=other.config.scale)


class PicturesKept:
    """After an optimizer's step, put the sums over time of the kernels that learn back to what they were.

    Pictures and first frames see these sums alone (``CausalConv3d``), later frames the slices.
    """

    def __init__(self, stvae: STVAE):
        self.weights = [weight for weight in stvae.parameters() if weight.requires_grad]
        self.sums = [weight.detach().sum(2, keepdim=True) for weight in self.weights]

    @torch.no_grad()
    def __call__(self, *_) -> None:
        for weight, total in zip(self.weights, self.sums, strict=True):
            weight += (total.to(weight.device) - weight.sum(2, keepdim=True)) / weight.shape[2]


def train_later_frames_alone(stvae: STVAE) -> None:
    """Only kernels over several frames want gradients; ``PicturesKept`` keeps their sums."""
    stvae.requires_grad_(False)
    for layer in stvae.modules():
        if isinstance(layer, CausalConv3d) and layer.kernel_size[0] > 1:
            layer.weight.requires_grad_(True)


def last_layer(model: nn.Module) -> Tensor:
    """Weights of the decoder's last convolution, where gradients of losses are compared."""
    conv = model.decoder.conv_out
    return getattr(conv, "conv", conv).weight  # diffusers' causal convolution wraps torch's


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


class Objective:
    """The ST-VAE's loss, in the notation of ``stvae_losses``.

    Args:
        config: of the run.
        adversary: None without a discriminator.
        device: where the perceptual backbone goes.

    Raises:
        InputError: the perceptual backbone is not on this machine.
    """

    def __init__(self, config: STVAEConfig, adversary: Adversary | None, device: torch.device):
        self.weights, self.adversary = config.losses, adversary
        backbone = self.weights.perceptual_backbone
        self.perceptual = Perceptual(backbone).to(device) if self.weights.perceptual_weight else None

    def __call__(self, decoded: Tensor, clip: Tensor, posterior, last: Tensor, step: int) -> tuple[Tensor, dict]:
        """Loss, and its terms to log.

        Args:
            decoded, clip: (batch, 3, frames, height, width) float32.
            posterior: the latent's distribution.
            last: weights of the decoder's last layer.
            step: of the run.
        """
        weights = self.weights
        loss = reconstruction(decoded, clip, weights.mse_weight, weights.l1_weight)
        terms = {"mse": (decoded.detach() - clip).square().mean()}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(decoded, clip)
            loss = loss + weights.perceptual_weight * terms["perceptual"]
        if self.adversary is not None and self.adversary.plays(step):
            terms["adversarial"] = self.adversary.loss_for(decoded)
            terms["adaptive_weight"] = adaptive_weight(loss, terms["adversarial"], last)
            loss = loss + weights.discriminator.weight * terms["adaptive_weight"] * terms["adversarial"]
        terms["kl"] = kl_divergence(posterior.mean.float(), posterior.logvar.float())
        loss = loss + weights.kl_weight * terms["kl"]
        return loss, {name: term.detach() for name, term in terms.items()}


def codec_clips(config: STVAEConfig) -> Iterator[Tensor]:
    """Training clips in [-1, 1]: a stream's are too few when training begins."""
    scenes, tasks = clip_settings(config)
    count = min(CODEC_CLIPS, config.clips)
    pool = Pool(scenes.source("train"), range(max(1, count // 2)), batch=8)
    return batches(training_pictures(pool, tasks, count, config.run.seed), 8)


def share_codec(stvae: STVAE) -> None:
    """Give all ranks the first one's linear codec: each has drawn its own clips."""
    for name, buffer in broadcast(dict(stvae.shortcut.named_buffers())).items():
        stvae.shortcut.get_buffer(name).copy_(buffer)


def train(config: STVAEConfig) -> Path:
    """Train an ST-VAE and export it, its latents' shift and scale measured.

    Returns:
        Folder of the exported model: ``STVAE.from_pretrained`` reads it.
    """
    if DeepSpeedSettings.asked_for():
        raise InputError("train/stvae.py runs without DeepSpeed; use configs/accelerate/single_gpu.yaml or cpu.yaml")
    torch.manual_seed(config.run.seed)
    stvae = new_model(config)
    pictures_kept = PicturesKept(stvae) if config.freeze_pictures else None  # as in init: a checkpoint's are rounded
    game = config.losses.discriminator
    adversary = Adversary(game, config.clip_share > 0, config.run.accumulation) if game.weight else None
    if config.losses.perceptual_weight:
        check_backbone(config.losses.perceptual_backbone)  # before anything is drawn
    scenes = config.scenes
    held_out = Pool(scenes.source("validation"), range(scenes.validation_scenes))
    photos = torch.stack([sample.clip[0].permute(2, 0, 1) for sample in held_out])
    tasks = config.tasks.on_scenes(scenes)
    labels = training_pictures(held_out, tasks, 2 * len(photos), config.run.seed)[len(photos) :]
    trainer = Trainer(stvae, config.run, config.optimizer, to_dict(config), bool(config.crop_sizes), adversary)
    accelerator, device = trainer.accelerator, trainer.accelerator.device
    objective = Objective(config, adversary, device)
    if config.stream.workers:
        place = accelerator.process_index, accelerator.num_processes
        source = StreamedPictures(config, device, trainer.step, *place)
    else:
        source = FixedPictures(config, device)

    clips = None
    if config.clip_share:
        moving = replace(scenes, frames=config.clip_frames).source("validation").samples(range(32))
        clips = torch.stack([sample.clip.permute(3, 0, 1, 2) for sample in moving])

    def reconstruct(clip: Tensor) -> Tensor:
        return stvae(clip.to(device)).sample

    if config.freeze_pictures:
        trainer.engine.adamw.register_step_post_hook(pictures_kept)
        if stvae.shortcut is not None and trainer.step == 0:
            standing = int(STANDING * stvae.config.latent_channels)
            stvae.shortcut.fit_later_frames((clip.to(device) for clip in codec_clips(config)), standing)
            share_codec(stvae)
    elif stvae.shortcut is not None and not config.init and trainer.step == 0:
        rng = np.random.default_rng(config.run.seed)
        stvae.fit_linear_shortcut(source.draw(rng, 500) for _ in range(CODEC_BATCHES))
        share_codec(stvae)
        floor = [f"{psnr(reconstruct, kind):.2f}" for kind in (photos, labels)]
        accelerator.print("linear codec alone: {} dB on photos, {} dB on labels".format(*floor))

    def draw(rng: np.random.Generator) -> Tensor:
        size = draw_size(rng, config.crop_sizes, scenes.size)
        clip = random_parts(source.draw(rng, as_many_pixels(config.run.batch_size, scenes.size, size)), size, rng)
        return clip.flip(-1) if rng.random() < 0.5 else clip

    def compute_loss(model, rng, generator):
        with trainer.monitor.clock.doing("data"):
            clip = draw(rng)
        trainer.remember(clip=clip)
        trainer.monitor.note_batch(len(clip))
        with accelerator.autocast():
            output = model(clip, sample_posterior=True, generator=generator)
        decoded = output.sample.float()
        found = objective(decoded, clip, output.posterior, last_layer(stvae), trainer.step)
        if adversary is not None and adversary.plays(trainer.step):
            adversary.learn(clip, decoded, trainer.step)
        return found

    def validate(step):
        with accelerator.autocast():
            shown = torch.cat([photos[:6], labels[:6]])
            decoded = reconstruct(as_clips(shown)).cpu()
            values = {"psnr_photos": psnr(reconstruct, photos), "psnr_labels": psnr(reconstruct, labels)}
            if clips is not None:
                values["psnr_clips"] = psnr(reconstruct, clips)
        return values, {"original | decoded": grid([list(shown), list(to_uint8(decoded)[:, :, 0])])}

    def export(to):
        averaged = trainer.averaged_model()
        if averaged is None:
            return
        if not config.freeze_encoder and not config.freeze_pictures:
            rng = np.random.default_rng(config.run.seed)
            count = min(100, 4 * config.run.batch_size)
            averaged.to(device).measure_latents((source.draw(rng, count) for _ in range(40)), config.scale_per_channel)
        averaged.save_pretrained(to)

    trainer.fit(compute_loss, validate, export)
    folder = Path(config.run.output_dir) / "stvae"
    export(folder)
    trainer.end()
    return folder
