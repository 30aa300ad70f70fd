"""ST-VAE, the spatial-temporal variational autoencoder: clips to latents, 8x smaller in space, 4x in time, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from lavin.models.linear_codec import LinearCodec
from lavin.models.stvae_layers import ClipGroupNorm, Decoder, Encoder, LatentGroupNorm
from lavin.models.tiling import run_in_chunks, run_in_tiles

SPACE_FACTOR = 8
TIME_FACTOR = 4
TILE, TILE_OVERLAP = 256, 0.25  # pixels; share of the tile
START_LOGVAR = -6.0  # with the linear shortcut: noise of 0.05, so that training begins where the linear codec ends


@dataclass
class Reconstruction(DecoderOutput):
    """A decoded clip, and the latent's distribution that it was decoded from."""

    posterior: DiagonalGaussianDistribution | None = None


class STVAE(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Variational autoencoder for images and clips. An image is a clip of one frame and takes a purely 2D path.

    Where memory is short: ``enable_tiling`` for large pictures, ``enable_chunking`` for long clips, and
    ``enable_slicing`` for large batches.

    Args:
        latent_channels: channels of the latent.
        block_out_channels: channels of the encoder's four stages; the decoder's are these reversed.
        layers_per_block: residual blocks of an encoder stage; a decoder stage has one more.
        norm_num_groups: groups of every GroupNorm.
        norm_scope: what a norm's statistics run over. "frame": each frame alone, which makes the model causal in time.
            "clip": all frames, as in the release, where later frames change earlier latents.
        linear_shortcut: add a linear codec (PCA of patches) to encoder and decoder, whose last layers start at zero.
            Call ``fit_linear_shortcut`` before training.
        shift: mean of the latent, one number or one per channel; the J-DiT sees (latent - shift) * scale.
        scale: one over the standard deviation of the latent, likewise.

    Example:
        >>> vae = STVAE(block_out_channels=(16, 32, 64, 128), layers_per_block=1, norm_num_groups=8)
        >>> latent = vae.to_latent(torch.rand(1, 3, 5, 64, 64) * 2 - 1)
        >>> latent.shape, vae.from_latent(latent).shape
        (torch.Size([1, 16, 2, 8, 8]), torch.Size([1, 3, 5, 64, 64]))
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["ResidualBlock"]

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: Sequence[int] = (128, 256, 256, 512),
        layers_per_block: int = 3,
        norm_num_groups: int = 32,
        norm_scope: str = "frame",
        linear_shortcut: bool = False,
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ):
        super().__init__()
        _check_config(latent_channels, block_out_channels, norm_num_groups, norm_scope, shift, scale)
        channels = tuple(block_out_channels)
        encoder_norm = partial(ClipGroupNorm, norm_num_groups, scope=norm_scope)
        decoder_norm = partial(LatentGroupNorm, norm_num_groups, scope=norm_scope, latent_channels=latent_channels)
        self.encoder = Encoder(channels, layers_per_block, latent_channels, encoder_norm)
        self.decoder = Decoder(channels, layers_per_block + 1, latent_channels, decoder_norm)
        self.shortcut = LinearCodec(latent_channels, SPACE_FACTOR, TIME_FACTOR) if linear_shortcut else None
        if linear_shortcut:
            for last in (self.encoder.conv_out, self.decoder.conv_out):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            nn.init.constant_(self.encoder.conv_out.bias[latent_channels:], START_LOGVAR)
        self.use_slicing = self.use_tiling = False
        self.tile_sample_min_height = self.tile_sample_min_width = TILE
        self.tile_overlap_factor_height = self.tile_overlap_factor_width = TILE_OVERLAP
        self.chunk_frames: int | None = None

    def enable_tiling(
        self,
        tile_sample_min_height: int | None = None,
        tile_sample_min_width: int | None = None,
        tile_overlap_factor_height: float | None = None,
        tile_overlap_factor_width: float | None = None,
    ) -> None:
        """Encode and decode pictures larger than a tile in overlapping tiles, blended linearly.

        An approximation: a norm's statistics are then a tile's. ``disable_tiling`` goes back.

        Args:
            tile_sample_min_height, tile_sample_min_width: size of a tile in pixels, multiples of 8 (256).
            tile_overlap_factor_height, tile_overlap_factor_width: share of a tile that the next one covers too, at
                least 0 and below 1 (0.25), rounded to multiples of 8 pixels.

        Raises:
            ValueError: a size or share outside its range; what was set before stays.
        """
        height = self.tile_sample_min_height if tile_sample_min_height is None else tile_sample_min_height
        width = self.tile_sample_min_width if tile_sample_min_width is None else tile_sample_min_width
        by_height = (
            self.tile_overlap_factor_height if tile_overlap_factor_height is None else tile_overlap_factor_height
        )
        by_width = self.tile_overlap_factor_width if tile_overlap_factor_width is None else tile_overlap_factor_width
        for name, size in (("height", height), ("width", width)):
            if size < SPACE_FACTOR or size % SPACE_FACTOR:
                raise ValueError(f"tile_sample_min_{name} is {size}; it must be a multiple of {SPACE_FACTOR}")
        for name, share in (("height", by_height), ("width", by_width)):
            if not 0 <= share < 1:
                raise ValueError(f"tile_overlap_factor_{name} is {share}; it must be at least 0 and below 1")
        self.tile_sample_min_height, self.tile_sample_min_width = height, width
        self.tile_overlap_factor_height, self.tile_overlap_factor_width = by_height, by_width
        self.use_tiling = True

    def enable_chunking(self, num_frames: int = 8) -> None:
        """Encode and decode long clips in chunks of time, each continuing the one before.

        With ``norm_scope="frame"`` the result is that of the whole clip. With "clip" it is an approximation, since
        statistics are then a chunk's; in chunks of 8 frames it is what diffusers' ``AutoencoderKLCogVideoX`` does.

        Args:
            num_frames: frames of a chunk, a multiple of 4 (the first chunk also takes what does not divide evenly).

        Raises:
            ValueError: another number of frames.
        """
        if num_frames < TIME_FACTOR or num_frames % TIME_FACTOR:
            raise ValueError(f"num_frames is {num_frames}; it must be a multiple of {TIME_FACTOR}")
        self.chunk_frames = num_frames

    def disable_chunking(self) -> None:
        """Encode and decode clips whole again."""
        self.chunk_frames = None

    def encode(self, clip: Tensor) -> AutoencoderKLOutput:
        """The latent's distribution, raw (not in the J-DiT's scale).

        Args:
            clip: (batch, 3, 1 + 4k, height, width) in [-1, 1], height and width multiples of 8.
        """
        self.check_clip(clip)
        moments = self._piecewise(self._encode, clip, unit=SPACE_FACTOR, scale=Fraction(1, SPACE_FACTOR))
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, latent: Tensor) -> DecoderOutput:
        """The clip (batch, 3, 1 + 4k, height, width) of a raw latent (batch, channels, 1 + k, height/8, width/8)."""
        if latent.ndim != 5 or latent.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"expected a latent (batch, {self.config.latent_channels}, latent_frames, height, width), "
                f"got shape {tuple(latent.shape)}"
            )
        return DecoderOutput(sample=self._piecewise(self._decode, latent, unit=1, scale=Fraction(SPACE_FACTOR)))

    def _encode(self, clip: Tensor) -> Tensor:
        """Mean and log-variance, (batch, 2 * channels, 1 + k, height/8, width/8)."""
        mean, logvar = run_in_chunks(self.encoder, clip.to(self.dtype), self.chunk_frames).to(clip.dtype).chunk(2, 1)
        if self.shortcut is not None:
            with torch.autocast(clip.device.type, enabled=False):  # rounded to bf16, the codec would lose its floor
                mean = mean + self.shortcut.encode(clip)
        return torch.cat([mean, logvar], dim=1)

    def _decode(self, latent: Tensor) -> Tensor:
        size = self.chunk_frames and self.chunk_frames // TIME_FACTOR
        clip = run_in_chunks(self.decoder, latent.to(self.dtype), size).to(latent.dtype)
        if self.shortcut is not None:
            with torch.autocast(latent.device.type, enabled=False):
                clip = clip + self.shortcut.decode(latent)
        return clip

    def _piecewise(self, function: Callable[[Tensor], Tensor], x: Tensor, unit: int, scale: Fraction) -> Tensor:
        """Apply ``_encode`` or ``_decode`` whole, in tiles or sample by sample, as was asked for.

        Args:
            unit: pixels of ``x`` to one of the latent.
            scale: of the result's sides to those of ``x``.
        """
        if self.use_slicing and len(x) > 1:
            return torch.cat([self._piecewise(function, sample, unit, scale) for sample in x.split(1)])
        cells = (self.tile_sample_min_height // SPACE_FACTOR, self.tile_sample_min_width // SPACE_FACTOR)
        tile = tuple(unit * size for size in cells)
        if not self.use_tiling or (x.shape[-2] <= tile[0] and x.shape[-1] <= tile[1]):
            return function(x)
        shares = (self.tile_overlap_factor_height, self.tile_overlap_factor_width)
        overlap = tuple(unit * min(round(size * share), size - 1) for size, share in zip(cells, shares, strict=True))
        return run_in_tiles(function, x, tile, overlap, scale)

    def forward(
        self, clip: Tensor, sample_posterior: bool = False, generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Encode and decode, through the mean or through a sample."""
        posterior = self.encode(clip).latent_dist
        latent = posterior.sample(generator) if sample_posterior else posterior.mode()
        return Reconstruction(sample=self.decode(latent).sample, posterior=posterior)

    def to_latent(self, clip: Tensor) -> Tensor:
        """The latent as the J-DiT sees it: (mean - shift) * scale."""
        mean = self.encode(clip).latent_dist.mode()
        return (mean - self._per_channel(self.config.shift, mean)) * self._per_channel(self.config.scale, mean)

    def from_latent(self, latent: Tensor) -> Tensor:
        """The clip of a latent in the J-DiT's scale."""
        raw = latent / self._per_channel(self.config.scale, latent) + self._per_channel(self.config.shift, latent)
        return self.decode(raw).sample

    def reconstruct(self, clip: Tensor) -> Tensor:
        """Encode and decode a clip of any length and size: padded at the end by its own edge, then cropped."""
        *_, frames, height, width = clip.shape
        padded = pad_size(pad_frames(clip))
        return self(padded).sample[:, :, :frames, :height, :width]

    def fit_linear_shortcut(self, clips: Iterable[Tensor]) -> None:
        """Measure the linear codec on sample clips (batch, 3, 1 + 4k, height, width); images alone are enough."""
        if self.shortcut is None:
            raise ValueError("this ST-VAE has no linear shortcut to fit; build it with linear_shortcut=True")
        self.shortcut.fit(map(self.check_clip, clips))

    @torch.no_grad()
    def measure_latents(self, batches: Iterable[Tensor], per_channel: bool = True) -> None:
        """Measure shift and scale, so that the J-DiT sees zero mean and unit variance, into the config.

        Args:
            batches: clips.
            per_channel: scale every channel to unit variance; otherwise all by one number, so that their mean
                variance is one and those that matter most in the picture stay the largest.
        """
        count, total, squares = 0, 0.0, 0.0
        for clip in batches:
            mean = self.encode(clip).latent_dist.mode().double().transpose(0, 1).flatten(1)
            count, total, squares = count + mean.shape[1], total + mean.sum(1), squares + mean.square().sum(1)
        if count < 2:
            raise ValueError("no latents to measure; pass at least one batch of clips")
        shift = total / count
        std = (squares / count - shift.square()).clamp_min(0).sqrt()
        if std.min() < 1e-6:
            raise ValueError(
                f"latent channel {int(std.argmin())} never changes over the batches; pass more varied clips"
            )
        scale = (1 / std).tolist() if per_channel else (1 / std.square().mean().sqrt()).item()
        self.register_to_config(shift=shift.tolist(), scale=scale)

    def check_clip(self, clip: Tensor) -> Tensor:
        """Return the clip if the ST-VAE can encode it as it is."""
        shape = tuple(clip.shape)
        if clip.ndim != 5 or shape[1] != 3:
            raise ValueError(
                f"expected a clip (batch, 3, frames, height, width), got shape {shape}; an image has frames = 1"
            )
        if not clip.is_floating_point():
            raise ValueError(f"expected a float clip in [-1, 1], got {clip.dtype}; convert with image / 127.5 - 1")
        if shape[2] % TIME_FACTOR != 1:
            raise ValueError(f"expected 1 + 4k frames, got {shape[2]}; pad_frames(clip) repeats the last one to fit")
        if shape[3] % SPACE_FACTOR or shape[4] % SPACE_FACTOR or 0 in shape:
            raise ValueError(
                f"expected height and width in multiples of 8, got {shape[3]}x{shape[4]}; pad_size(clip) pads to fit"
            )
        return clip

    def _per_channel(self, value: float | Sequence[float], like: Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)


def latent_frames(frames: int) -> int:
    """Latent frames of a clip, padded to 1 + 4k: 1 for an image."""
    return 1 + -(-(frames - 1) // TIME_FACTOR)


def pad_frames(clip: Tensor) -> Tensor:
    """Repeat the last frame until there are 1 + 4k. Clip (batch, channels, frames, height, width)."""
    missing = -(clip.shape[2] - 1) % TIME_FACTOR
    return torch.cat([clip, clip[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)


def pad_size(clip: Tensor, multiple: int = SPACE_FACTOR) -> Tensor:
    """Repeat the right column and the bottom row until width and height are multiples of ``multiple``."""
    height, width = clip.shape[-2:]
    return F.pad(clip, (0, -width % multiple, 0, -height % multiple, 0, 0), mode="replicate")


def _check_config(latent_channels, block_out_channels, norm_num_groups, norm_scope, shift, scale) -> None:
    if len(block_out_channels) != 4:
        raise ValueError(f"block_out_channels must name four stages, got {tuple(block_out_channels)}")
    if any(channels % norm_num_groups for channels in block_out_channels):
        raise ValueError(
            f"block_out_channels {tuple(block_out_channels)} must be multiples of {norm_num_groups} groups"
        )
    if norm_scope not in ("frame", "clip"):
        raise ValueError(f"norm_scope must be 'frame' or 'clip', got {norm_scope!r}")
    for name, value in (("shift", shift), ("scale", scale)):
        if isinstance(value, Sequence) and len(value) != latent_channels:
            raise ValueError(
                f"{name} has {len(value)} values for {latent_channels} latent channels; give one number or one each"
            )
