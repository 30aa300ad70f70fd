"""Layers of the ST-VAE: causal convolution, normalisation, residual blocks, resampling, encoder and decoder.

Inside the network a clip's frames lie in the batch, ``(batch * frames, channels, height, width)``, and every layer is
told their ``Frames``: all but the causal convolution and the clip-wide norm then see plain images. With one frame
nothing is ever permuted, and images cost what they cost a 2D network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]  # channel count -> norm, called with (x, frames, latent)


@dataclass(frozen=True)
class Frames:
    """The frames that lie in the batch; for a clip that comes in chunks, also what is left of the chunks before.

    Args:
        count: how many of each clip.
        lone: 1 if the clip's first frame is among them, which is never averaged with another or doubled, else 0.
        history: each causal convolution's last input frames of the chunk before; None for a clip that comes whole.
    """

    count: int
    lone: int = 1
    history: dict[nn.Module, Tensor] | None = None

    def halved(self) -> Frames:
        return replace(self, count=self.lone + (self.count - self.lone) // 2)

    def doubled(self) -> Frames:
        return replace(self, count=self.lone + (self.count - self.lone) * 2)


def fold(clip: Tensor) -> Tensor:
    """Frames into the batch: (batch, channels, frames, height, width) -> (batch * frames, channels, height, width)."""
    return rearrange(clip, "b c f h w -> (b f) c h w")


def unfold(images: Tensor, num_frames: int) -> Tensor:
    """Frames out of the batch, the inverse of ``fold``."""
    return rearrange(images, "(b f) c h w -> b c f h w", f=num_frames)


class CausalConv3d(nn.Conv3d):
    """3D convolution that looks back only: the first frame is repeated before the clip; in space zeros pad evenly.

    Fresh kernels see the frame itself alone, as 2D ones do, and learn to look back: weights on all frames alike would
    average them, layer after layer.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__(in_channels, out_channels, kernel_size, padding=(0, kernel_size // 2, kernel_size // 2))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.keep_of_past(0.0)  # what is left varies as much as a fresh 2D kernel of this size

    @torch.no_grad()
    def keep_of_past(self, share: float) -> None:
        """Keep this share of the weights on earlier frames, and give the rest to the frame itself.

        With 0 it is what video models call causal inflation. Pictures see the kernel's sum over time, which stays.
        """
        past = self.weight[:, :, :-1]
        self.weight[:, :, -1] += (1 - share) * past.sum(2)
        past *= share

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        if self.kernel_size[0] == 1 or (frames.count == 1 and frames.history is None):
            # Before the first frame lie only its copies, so the kernel's slices in time add up to one 2D kernel.
            return F.conv2d(x, sum(self.weight.unbind(2)), self.bias, padding=self.padding[1:])
        return fold(self.over_time(unfold(x, frames.count), frames.history))

    def over_time(self, clip: Tensor, history: dict[nn.Module, Tensor] | None = None) -> Tensor:
        """The convolution itself, on (batch, channels, frames, height, width)."""
        before = self.kernel_size[0] - 1
        past = history.get(self) if history is not None else None
        clip = torch.cat([clip[:, :, :1].expand(-1, -1, before, -1, -1) if past is None else past, clip], dim=2)
        if history is not None:
            history[self] = clip[:, :, -before:].clone()
        return super().forward(clip)


class ClipGroupNorm(nn.GroupNorm):
    """GroupNorm with statistics of one frame (``scope="frame"``) or of the whole clip (``scope="clip"``, the release).

    PyTorch accumulates the mean and the variance in float32 whatever the input's type.
    """

    def __init__(self, num_groups: int, channels: int, scope: str):
        super().__init__(num_groups, channels, eps=1e-6)
        self.scope = scope

    def forward(self, x: Tensor, frames: Frames, latent: Tensor | None = None) -> Tensor:
        if self.scope == "frame" or frames.count == 1:
            return super().forward(x)
        return fold(super().forward(unfold(x, frames.count)))


class LatentGroupNorm(nn.Module):
    """The decoder's norm, conditioned on the latent: GroupNorm(x) * scale(z) + shift(z), z resized (nearest) to x.

    A 1x1x1 convolution and a nearest resize commute, so the convolutions run at the latent's own size.
    """

    def __init__(self, num_groups: int, channels: int, scope: str, latent_channels: int):
        super().__init__()
        self.norm = ClipGroupNorm(num_groups, channels, scope)
        self.scale = CausalConv3d(latent_channels, channels, kernel_size=1)
        self.shift = CausalConv3d(latent_channels, channels, kernel_size=1)
        for conv, bias in ((self.scale, 1.0), (self.shift, 0.0)):  # begins as a plain GroupNorm
            nn.init.zeros_(conv.weight)
            nn.init.constant_(conv.bias, bias)

    def forward(self, x: Tensor, frames: Frames, latent: Tensor) -> Tensor:
        """Args: x: (batch * frames, channels, h, w); latent: (batch, latent_channels, latent_frames, h', w')."""
        z = fold(repeat_frames(latent, frames))
        factor = x.shape[-1] // z.shape[-1]
        scale, shift = (upsample_nearest(conv(z, frames), factor) for conv in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(x, frames).to(scale.dtype), scale)


def repeat_frames(clip: Tensor, frames: Frames) -> Tensor:
    """Nearest resize in time to ``frames.count``: the first frame stands alone, the others share the rest evenly."""
    if clip.shape[2] == frames.count:
        return clip
    factor = (frames.count - frames.lone) // (clip.shape[2] - frames.lone)
    return torch.cat([clip[:, :, : frames.lone], clip[:, :, frames.lone :].repeat_interleave(factor, dim=2)], dim=2)


def upsample_nearest(x: Tensor, factor: int) -> Tensor:
    """Each pixel becomes a factor x factor block. On a CPU four times as fast as ``F.interpolate``, and exact."""
    if factor == 1:
        return x
    x = x[..., None].expand(*x.shape, factor).flatten(-2)  # columns while the image is small, then whole rows
    return x[..., None, :].expand(*x.shape[:-1], factor, x.shape[-1]).flatten(-3, -2)


class ResidualBlock(nn.Module):
    """norm -> SiLU -> conv, twice, plus the input (through a 1x1x1 convolution where the channel count changes)."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormFactory):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.skip = CausalConv3d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, frames: Frames, latent: Tensor | None = None) -> Tensor:
        update = self.conv1(F.silu(self.norm1(x, frames, latent)), frames)
        update = self.conv2(F.silu(self.norm2(update, frames, latent)), frames)
        return (x if self.skip is None else self.skip(x, frames)) + update


class Downsample(nn.Module):
    """Halve space by a strided convolution per frame; before it, if asked, halve time by averaging pairs of frames."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.time = time

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        if self.time and frames.count > frames.lone:
            clip, lone = unfold(x, frames.count), frames.lone
            pairs = (clip[:, :, lone::2] + clip[:, :, lone + 1 :: 2]) / 2  # the first frame passes alone
            x = fold(torch.cat([clip[:, :, :lone], pairs], dim=2))
            frames = frames.halved()
        return self.conv(F.pad(x, (0, 1, 0, 1))), frames


# What two taps of the small image see of a 3-tap kernel on the doubled one: (output phase, tap, tap of the kernel).
# The even output pixel 2i reads doubled pixels 2i - 1, 2i, 2i + 1: copies of i - 1, i, i. The odd one: of i, i, i + 1.
NEAREST_TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


def upsample_and_convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Double space (nearest), then convolve 3x3 with zero padding: 4 / 9 of the arithmetic and no doubled input.

    Each of the four output phases is a 2x2 convolution of the small image, whose taps sum those of the 3x3 kernel.
    """
    height, width = x.shape[-2:]
    taps = torch.tensor(NEAREST_TAPS, dtype=weight.dtype, device=weight.device)
    kernels = torch.einsum("oiab,pya,qxb->pqoiyx", weight, taps, taps)
    phases = F.conv2d(x, kernels.flatten(0, 2), bias.repeat(4), padding=1)  # (batch, 4 * out, height + 1, width + 1)
    phases = phases.unflatten(1, (2, 2, -1))
    rows = [torch.stack([phases[:, p, q, :, p : p + height, q : q + width] for q in (0, 1)], dim=-1) for p in (0, 1)]
    return torch.stack(rows, dim=3).flatten(4, 5).flatten(2, 3)


class Upsample(nn.Module):
    """Double space (nearest), and time if asked, all but the first frame; then a convolution per frame."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = time

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        if self.time and frames.count > frames.lone:
            x = fold(repeat_frames(unfold(x, frames.count), frames.doubled()))
            frames = frames.doubled()
        return upsample_and_convolve(x, self.conv.weight, self.conv.bias), frames


class Stage(nn.Module):
    """Residual blocks at one resolution, then the change to the next resolution, if there is one."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, norm: NormFactory, resample: nn.Module | None = None
    ):
        super().__init__()
        channels = [in_channels] + [out_channels] * num_blocks
        self.blocks = nn.ModuleList([ResidualBlock(*pair, norm) for pair in pairwise(channels)])
        self.resample = resample
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, frames: Frames, latent: Tensor | None = None) -> tuple[Tensor, Frames]:
        # Computed a second time, a block would find its own frames in the history.
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled() and frames.history is None
        for block in self.blocks:
            if checkpointing:
                x = self._gradient_checkpointing_func(block, x, frames, latent)
            else:
                x = block(x, frames, latent)
        return (x, frames) if self.resample is None else self.resample(x, frames)


class Encoder(nn.Module):
    """Clip to the latent's mean and log-variance: conv_in, stages, middle, norm, SiLU, conv_out."""

    def __init__(self, channels: tuple[int, ...], blocks_per_stage: int, latent_channels: int, norm: NormFactory):
        super().__init__()
        self.conv_in = CausalConv3d(3, channels[0])
        resamples = [Downsample(channels[0], True), Downsample(channels[1], True), Downsample(channels[2], False), None]
        self.stages = nn.ModuleList(
            [
                Stage(before, after, blocks_per_stage, norm, resample)
                for before, after, resample in zip((channels[0], *channels), channels, resamples)
            ]
        )
        self.middle = Stage(channels[-1], channels[-1], 2, norm)
        self.norm_out = norm(channels[-1])
        self.conv_out = CausalConv3d(channels[-1], 2 * latent_channels)

    def forward(self, clip: Tensor, frames: Frames | None = None) -> Tensor:
        frames = frames or Frames(clip.shape[2])
        x = self.conv_in(fold(clip), frames)
        for stage in [*self.stages, self.middle]:
            x, frames = stage(x, frames)
        x = self.conv_out(F.silu(self.norm_out(x, frames)), frames)
        return unfold(x, frames.count)


class Decoder(nn.Module):
    """Latent to clip: conv_in, middle, stages (channels reversed, one block more each), norm, SiLU, conv_out."""

    def __init__(self, channels: tuple[int, ...], blocks_per_stage: int, latent_channels: int, norm: NormFactory):
        super().__init__()
        channels = channels[::-1]
        self.conv_in = CausalConv3d(latent_channels, channels[0])
        self.middle = Stage(channels[0], channels[0], 2, norm)
        # Time doubles in the first two stages: the decoder's own order, not the mirror of the encoder's.
        resamples = [Upsample(channels[0], True), Upsample(channels[1], True), Upsample(channels[2], False), None]
        self.stages = nn.ModuleList(
            [
                Stage(before, after, blocks_per_stage, norm, resample)
                for before, after, resample in zip((channels[0], *channels), channels, resamples)
            ]
        )
        self.norm_out = norm(channels[-1])
        self.conv_out = CausalConv3d(channels[-1], 3)

    def forward(self, latent: Tensor, frames: Frames | None = None) -> Tensor:
        frames = frames or Frames(latent.shape[2])
        x = self.conv_in(fold(latent), frames)
        for stage in [self.middle, *self.stages]:
            x, frames = stage(x, frames, latent)
        x = self.conv_out(F.silu(self.norm_out(x, frames, latent)), frames)
        return unfold(x, frames.count)
