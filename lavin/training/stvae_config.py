"""What the ST-VAE's training minimises: the weight of every term, and the discriminator."""

from __future__ import annotations

from dataclasses import dataclass, field

from lavin.errors import InputError
from lavin.suggest import unknown

SMALLEST_PATCH = 32
"""Side of the smallest picture that survives the pooling of LPIPS' backbones and of the discriminator."""


@dataclass
class DiscriminatorConfig:
    """The patch discriminators: of single frames, and over time where clips are trained on."""

    weight: float = 0.0
    """Of the adversarial loss, beside its adaptive weight (latent diffusion: 0.5); 0 for no discriminator."""
    start: int = 0
    """Step from which it learns and is heard: before it the reconstruction is not worth judging (latent diffusion:
    50,000)."""
    channels: int = 64
    """Of its first layer; doubled in each later one, up to eightfold (PatchGAN: 64)."""
    layers: int = 3
    """Layers that halve space; 3 judge patches of 70x70 pixels (PatchGAN)."""
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.9)
    """(latent diffusion)"""
    max_grad_norm: float = 1.0
    r1_weight: float = 0.0
    """Of half the squared gradient on real clips (R1); 0 for none, 10 is a usual value."""
    r1_every: int = 16
    """Steps between R1 penalties, each weighted by as much (StyleGAN2: 16)."""
    watch: int = 200
    """Steps over which a collapse is looked for."""

    def __post_init__(self):
        for name in ("channels", "layers", "learning_rate", "max_grad_norm", "r1_every", "watch"):
            refuse(getattr(self, name) <= 0, f"losses.discriminator.{name}", getattr(self, name), "above 0")
        refuse(self.channels % 8, "losses.discriminator.channels", self.channels, "a multiple of 8")
        for name in ("weight", "start", "r1_weight"):
            refuse(getattr(self, name) < 0, f"losses.discriminator.{name}", getattr(self, name), "0 or above")


@dataclass
class LossesConfig:
    """The ST-VAE's loss: every term with its weight; 0 turns one off."""

    mse_weight: float = 1.0
    """Mean squared error, values in [-1, 1]."""
    l1_weight: float = 0.0
    """Mean absolute error."""
    kl_weight: float = 1e-6
    """KL divergence to the standard normal, per latent element."""
    perceptual_weight: float = 0.0
    """LPIPS, frame by frame; its backbone must be on the machine."""
    perceptual_backbone: str = "vgg"
    """``vgg`` (the usual one for training), ``alex`` or ``squeeze``."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self):
        from lavin.metrics.perceptual import BACKBONES

        for name in ("mse_weight", "l1_weight", "kl_weight", "perceptual_weight"):
            refuse(getattr(self, name) < 0, f"losses.{name}", getattr(self, name), "0 or above")
        if not self.mse_weight and not self.l1_weight:
            raise InputError("losses.mse_weight and losses.l1_weight are both 0; one must be above it")
        if self.perceptual_backbone not in BACKBONES:
            raise InputError(f"losses.perceptual_backbone: {unknown('backbone', self.perceptual_backbone, BACKBONES)}")

    @property
    def smallest(self) -> int:
        """Side of the smallest picture that all terms can judge."""
        return SMALLEST_PATCH if self.perceptual_weight or self.discriminator.weight else 8


def refuse(wrong: bool | int, name: str, value: float, right: str) -> None:
    """Raise if a value is wrong, by name."""
    if wrong:
        raise InputError(f"{name} is {value}; it must be {right}")
