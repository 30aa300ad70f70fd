"""What the ST-VAE is trained to: reconstruction, perception, a discriminator's verdict, and latents near the normal.

    L = mse · ‖x̂ - x‖² + l1 · |x̂ - x| + perceptual · LPIPS(x̂, x) + kl · KL + adversarial · λ · L_G

λ, the adaptive weight, makes the adversarial gradient as large as that of the rest where the two are compared: in the
decoder's last layer (Esser et al. 2021, equation 7). Clips are (batch, 3, frames, height, width) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lavin.errors import InputError

MOST_ADAPTIVE = 1e4
"""Bound of the adaptive weight (latent diffusion)."""
ADAPTIVE_EPSILON = 1e-4
"""Added to the norm that the adaptive weight divides by (latent diffusion)."""


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)), averaged over latent elements: (mean² + var - 1 - logvar) / 2."""
    return (mean.square() + logvar.exp() - 1 - logvar).mean() / 2


def reconstruction(decoded: Tensor, clip: Tensor, mse_weight: float, l1_weight: float) -> Tensor:
    """mse · mean (x̂ - x)² + l1 · mean |x̂ - x|."""
    error = mse_weight * F.mse_loss(decoded, clip)
    return error + l1_weight * F.l1_loss(decoded, clip) if l1_weight else error


def check_backbone(backbone: str) -> None:
    """Refuse a perceptual backbone whose weights are not on this machine.

    Raises:
        InputError: it names the option that turns the term off.
    """
    from lavin.metrics.perceptual import Unavailable, lpips_weights

    try:
        lpips_weights(backbone)
    except Unavailable as error:
        raise InputError(f"{error}, or turn the term off with losses.perceptual_weight=0") from error


class Perceptual(nn.Module):
    """LPIPS, version 0.1 (Zhang et al. 2018), torchmetrics' own: mean over the frames of all clips.

    Args:
        backbone: ``vgg``, ``alex`` or ``squeeze``.

    Raises:
        InputError: the backbone's weights are not on this machine.
    """

    def __init__(self, backbone: str):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        super().__init__()
        check_backbone(backbone)
        self.network = LearnedPerceptualImagePatchSimilarity(net_type=backbone).net.requires_grad_(False)

    def forward(self, decoded: Tensor, clip: Tensor) -> Tensor:
        frames = (rearrange(each, "b c f h w -> (b f) c h w") for each in (decoded, clip))
        return self.network(*frames).mean()


# --- The adversary's game ---------------------------------------------------------------------------------------------


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """(mean max(0, 1 - D(x)) + mean max(0, 1 + D(x̂))) / 2, averaged over the discriminators (Lim and Ye 2017).

    Args:
        real, fake: the logits of each discriminator, any shape.
    """
    losses = [(F.relu(1 - x).mean() + F.relu(1 + y).mean()) / 2 for x, y in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    """L_G = -mean D(x̂), averaged over the discriminators."""
    return -torch.stack([logits.mean() for logits in fake]).mean()


def adaptive_weight(rest: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """λ = ‖∂ rest / ∂W‖ / (‖∂ adversarial / ∂W‖ + 1e-4), at most 1e4, a constant to the backward pass.

    Args:
        rest, adversarial: losses, both functions of ``last_layer``.
        last_layer: W, the weights of the decoder's last layer.
    """
    ours, theirs = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (rest, adversarial))
    return (ours / (theirs + ADAPTIVE_EPSILON)).clamp(0, MOST_ADAPTIVE).detach()


def r1_penalty(discriminator: Callable[[Tensor], Sequence[Tensor]], real: Tensor) -> Tensor:
    """mean over clips of ‖∂ Σ D(x) / ∂x‖² / 2 on real clips x (Mescheder et al. 2018, equation 9 with γ = 1).

    Each discriminator's logit is the mean of its patches', so that larger pictures are not punished more.
    """
    real = real.detach().requires_grad_()
    verdict = sum(logits.flatten(1).mean(1).sum() for logits in discriminator(real))
    (gradient,) = torch.autograd.grad(verdict, real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2
