"""Diffusers' ``AutoencoderKLCogVideoX``, the release's ancestor, as something that `train/stvae.py` can train."""

from __future__ import annotations

from collections.abc import Iterable

import diffusers
import torch
from torch import Tensor

from lavin.models.stvae import STVAE, Reconstruction


class AutoencoderKLCogVideoX(diffusers.AutoencoderKLCogVideoX):
    """Diffusers' class under its own name, so that what it saves is read by diffusers; trained as our ST-VAE is.

    Its norms run over a chunk of up to 8 frames of a clip, its images take the 3D path.
    """

    shortcut = None

    def forward(
        self, clip: Tensor, sample_posterior: bool = False, generator: torch.Generator | None = None
    ) -> Reconstruction:
        posterior = self.encode(clip).latent_dist
        latent = posterior.sample(generator) if sample_posterior else posterior.mode()
        return Reconstruction(sample=self.decode(latent).sample, posterior=posterior)

    reconstruct = STVAE.reconstruct

    def measure_latents(self, batches: Iterable[Tensor], per_channel: bool = False) -> None:
        """Shift and scale, one number each, into the config; its class has no others."""
        latents = torch.cat([self.encode(clip).latent_dist.mode().double().flatten() for clip in batches])
        self.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())
