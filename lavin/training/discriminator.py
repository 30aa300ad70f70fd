"""Patch discriminators: which parts of a frame, and of a clip's motion, look like a reconstruction."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

SLOPE = 0.2
"""Of the leaky ReLUs (PatchGAN)."""
NORM_GROUPS = 8


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (Isola et al. 2017): strided 4x4 convolutions to one logit a patch, above 0 for real.

    GroupNorm stands where PatchGAN has BatchNorm: a verdict then depends on one clip alone, whatever its company and
    however many processes train.

    Args:
        channels: of the first layer, a multiple of 8.
        layers: that halve space.
        over_time: 3D, kernels of three frames: (batch, 3, frames, height, width); else 2D: (batch, 3, height, width).
    """

    def __init__(self, channels: int, layers: int, over_time: bool):
        conv = nn.Conv3d if over_time else nn.Conv2d

        def convolution(inputs: int, outputs: int, stride: int, bias: bool) -> nn.Module:
            if over_time:
                return conv(inputs, outputs, (3, 4, 4), (1, stride, stride), 1, bias=bias)
            return conv(inputs, outputs, 4, stride, 1, bias=bias)

        parts: list[nn.Module] = [convolution(3, channels, 2, True), nn.LeakyReLU(SLOPE)]
        before = channels
        for layer in range(1, layers + 1):
            after = channels * min(2**layer, 8)
            parts += [
                convolution(before, after, 2 if layer < layers else 1, False),
                nn.GroupNorm(NORM_GROUPS, after),
                nn.LeakyReLU(SLOPE),
            ]
            before = after
        super().__init__(*parts, convolution(before, 1, 1, True))
        for part in self:
            if isinstance(part, conv):
                nn.init.normal_(part.weight, std=0.02)  # as PatchGAN


class Discriminator(nn.Module):
    """A patch discriminator of single frames, and one over time for clips.

    Args:
        channels, layers: of ``PatchDiscriminator``.
        clips: whether there is one over time.
    """

    def __init__(self, channels: int, layers: int, clips: bool):
        super().__init__()
        self.frames = PatchDiscriminator(channels, layers, over_time=False)
        self.motion = PatchDiscriminator(channels, layers, over_time=True) if clips else None

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Logits (batch, frames, rows, columns) of the frames, and for clips of more than one those over time."""
        frames = self.frames(rearrange(clip, "b c f h w -> (b f) c h w"))
        verdicts = [rearrange(frames, "(b f) 1 h w -> b f h w", b=len(clip))]
        if self.motion is not None and clip.shape[2] > 1:
            verdicts.append(self.motion(clip)[:, 0])
        return tuple(verdicts)


def split_verdicts(verdicts: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Those of a batch that is half real, half reconstructed: of the two halves."""
    real, fake = zip(*(logits.chunk(2) for logits in verdicts), strict=True)
    return list(real), list(fake)


def accuracy(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Share of the patches on whose right side the logit is; ties are wrong."""
    right = [(x > 0).float().mean() + (y < 0).float().mean() for x, y in zip(real, fake, strict=True)]
    return torch.stack(right).mean() / 2


def gap(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Mean logit of the real patches less that of the reconstructed ones."""
    return torch.stack([x.mean() - y.mean() for x, y in zip(real, fake, strict=True)]).mean()
