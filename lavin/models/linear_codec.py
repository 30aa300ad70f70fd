"""The linear codec under the ST-VAE's shortcut: PCA of patches, the best that a linear encoder and decoder can do."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

SMALLEST_STD = 1e-3  # a direction in which the sample never moves would divide by zero


class LinearCodec(nn.Module):
    """PCA of 1x8x8 patches in a clip's first frame and of 4x8x8 patches in the others, half-whitened.

    A component of standard deviation s becomes a latent channel of standard deviation sqrt(s): between the pixels' own
    scale, where the first component drowns the rest, and white, where noise costs as much in the last as in the first.
    The buffers are zero until ``fit``; they are saved with the model.
    """

    def __init__(self, latent_channels: int, patch: int = 8, patch_frames: int = 4):
        super().__init__()
        self.patch, self.patch_frames = patch, patch_frames
        for name, frames in (("image", 1), ("clip", patch_frames)):
            size = 3 * frames * patch**2
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_basis", torch.zeros(latent_channels, size))
            self.register_buffer(f"{name}_std", torch.ones(latent_channels))

    def encode(self, clip: Tensor) -> Tensor:
        """(batch, 3, 1 + 4k, height, width) -> (batch, channels, 1 + k, height / 8, width / 8)."""
        first = (self.patches(clip[:, :, :1], 1) - self.image_mean) @ self.image_basis.T / self.image_std.sqrt()
        later = (self.patches(clip[:, :, 1:], self.patch_frames) - self.clip_mean) @ self.clip_basis.T
        later = later / self.patch_frames**0.5 / self.clip_std.sqrt()
        return rearrange(torch.cat([first, later], dim=1), "b f h w c -> b c f h w")

    def decode(self, latent: Tensor) -> Tensor:
        """The inverse of ``encode`` on the span of the components."""
        coordinates = rearrange(latent, "b c f h w -> b f h w c")
        first = coordinates[:, :1] * self.image_std.sqrt() @ self.image_basis + self.image_mean
        later = coordinates[:, 1:] * self.clip_std.sqrt() * self.patch_frames**0.5 @ self.clip_basis + self.clip_mean
        return torch.cat([self.unpatch(first, 1), self.unpatch(later, self.patch_frames)], dim=2)

    def patches(self, clip: Tensor, frames: int) -> Tensor:
        """Cut into patches: (batch, frames, height, width, 3 * patch_frames * patch * patch)."""
        sizes = {"t": frames, "p": self.patch, "q": self.patch}
        return rearrange(clip, "b c (f t) (h p) (w q) -> b f h w (c t p q)", **sizes)

    def unpatch(self, patches: Tensor, frames: int) -> Tensor:
        sizes = {"c": 3, "t": frames, "p": self.patch, "q": self.patch}
        return rearrange(patches, "b f h w (c t p q) -> b c (f t) (h p) (w q)", **sizes)

    @torch.no_grad()
    def fit(self, clips: Iterable[Tensor]) -> None:
        """Measure both bases on sample clips (batch, 3, 1 + 4k, height, width); every frame counts as an image.

        Without a clip of several frames, later frames are taken to stand still: their patch is the mean of its frames.
        """
        image, later = PatchStatistics(self.image_mean), PatchStatistics(self.clip_mean)
        for sample in clips:
            image.add(self.patches(sample, 1))
            later.add(self.patches(sample[:, :, 1:], self.patch_frames))
        if image.count == 0:
            raise ValueError("the linear codec was given no clips to fit; pass at least a few hundred 8x8 patches")
        self._store("image", *image.principal_components(len(self.image_std)))
        if later.count:
            self._store_later(later)
        else:
            self._store("clip", self._standing(self.image_mean), self._standing_basis, self.image_std)

    @torch.no_grad()
    def fit_later_frames(self, clips: Iterable[Tensor], standing: int = 0) -> None:
        """Measure the basis of later frames alone; pictures and first frames are coded as before.

        Args:
            clips: (batch, 3, 1 + 4k, height, width), k at least 1.
            standing: leading channels that stay the pictures' of frames that stand still, so that what was learned on
                pictures goes on to fit; the others are measured on what these leave.
        """
        later = PatchStatistics(self.clip_mean)
        for sample in clips:
            later.add(self.patches(sample[:, :, 1:], self.patch_frames))
        if later.count == 0:
            raise ValueError("the linear codec of later frames was given none to fit; pass clips of 5 frames or more")
        self._store_later(later, standing)

    def _store_later(self, statistics: PatchStatistics, standing: int = 0) -> None:
        kept = self._standing_basis[:standing].to(statistics.sum)
        mean, basis, std = statistics.principal_components(len(self.clip_std) - standing, without=kept)
        mean = mean + (self._standing(self.image_mean).to(mean) - mean) @ kept.T @ kept
        against = (basis * self._standing_basis[standing:]).sum(1, keepdim=True) < 0
        basis = basis * torch.where(against, -1.0, 1.0)  # a channel means one thing in all frames
        std = torch.cat([self.image_std[:standing].to(std), std / self.patch_frames**0.5])  # in units of one frame
        self._store("clip", mean, torch.cat([kept, basis]), std)

    @property
    def _standing_basis(self) -> Tensor:
        """The images' basis for frames that stand still."""
        return self._standing(self.image_basis) / self.patch_frames**0.5

    def _standing(self, patches: Tensor) -> Tensor:
        return repeat(patches, "... (c p) -> ... (c t p)", c=3, t=self.patch_frames)

    def _store(self, name: str, mean: Tensor, basis: Tensor, std: Tensor) -> None:
        for part, value in (("mean", mean), ("basis", basis), ("std", std.clamp_min(SMALLEST_STD))):
            getattr(self, f"{name}_{part}").copy_(value)


class PatchStatistics:
    """Running mean and covariance of patches, in float64."""

    def __init__(self, like: Tensor):
        self.count = 0
        self.sum = torch.zeros(len(like), dtype=torch.float64, device=like.device)
        self.outer = torch.zeros(len(like), len(like), dtype=torch.float64, device=like.device)

    def add(self, patches: Tensor) -> None:
        rows = patches.flatten(0, -2).to(self.sum)
        self.count += len(rows)
        self.sum += rows.sum(0)
        self.outer += rows.T @ rows

    def principal_components(self, count: int, without: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, the ``count`` leading unit directions as rows, and the standard deviation along each.

        Args:
            without: orthonormal rows; only directions at right angles to them are looked for.
        """
        mean = self.sum / self.count
        covariance = self.outer / self.count - mean.outer(mean)
        if without is not None:
            covariance = covariance - without.T @ (without @ covariance)
            covariance = covariance - (covariance @ without.T) @ without
        variance, directions = torch.linalg.eigh(covariance)
        leading = directions.flip(1)[:, :count].T
        return mean, leading, variance.flip(0)[:count].clamp_min(0).sqrt()
