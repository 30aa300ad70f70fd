"""What answers an episode without a model: the context's own targets, and the classical method of a restoration."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from lavin.data.mixture import Episode
from lavin.errors import InputError
from lavin.evaluation.episodes import Baseline


def copy_nearest(episode: Episode) -> Tensor:
    """The target of the pair whose input is most like the query's, by mean squared RGB difference."""
    return min(episode.pairs, key=lambda pair: (pair.input - episode.query.input).square().mean().item()).target


def mean_target(episode: Episode) -> Tensor:
    """The pixelwise mean of the pairs' targets."""
    return torch.stack([pair.target for pair in episode.pairs]).mean(0)


BASELINES: dict[str, Baseline] = {"copy_nearest": copy_nearest, "mean_target": mean_target}


# --- Classical restoration of pictures --------------------------------------------------------------------------------


def grey_copy(episode: Episode) -> Tensor:
    """Colorization: the grey photo as it is, the smallest error that is sure of no colour."""
    return episode.query.input


def biharmonic(episode: Episode) -> Tensor:
    """Inpainting: the smoothest continuation into the hole; the method is told where that is, and the model is not."""
    restoration = skimage_restoration()
    damaged, hole = as_picture(episode.query.input), hole_of(episode)
    return (
        as_clip(restoration.inpaint_biharmonic(damaged, hole, channel_axis=-1)) if hole.any() else episode.query.input
    )


def nl_means(episode: Episode) -> Tensor:
    """Denoising: means over similar patches (Buades et al. 2005), told how strong the noise is."""
    restoration = skimage_restoration()
    sigma = episode.definition.sigma / 255
    # the width h that scores best on BSDS500's photos; the baseline may have been tuned where the model was not
    options = {"patch_size": 5, "patch_distance": 6, "h": 0.8 * sigma, "sigma": sigma, "fast_mode": False}
    return as_clip(restoration.denoise_nl_means(as_picture(episode.query.input), channel_axis=-1, **options))


CLASSICAL: dict[str, Baseline] = {"colorization": grey_copy, "inpainting": biharmonic, "denoising": nl_means}
"""Task -> what there was before networks."""


def canny(episode: Episode) -> Tensor:
    """Boundaries: Canny's lines, which is what the task draws."""
    return episode.target


# --- What needs no eyes -----------------------------------------------------------------------------------------------


def input_copy(episode: Episode) -> Tensor:
    """Restoration: the damaged picture as it is."""
    return episode.query.input


def all_foreground(episode: Episode) -> Tensor:
    """White everywhere: every pixel belongs to it, or the box is the picture."""
    return torch.ones_like(episode.target)


def flat(episode: Episode) -> Tensor:
    """Depth: the same everywhere; aligned, it is the best constant disparity."""
    return torch.zeros_like(episode.target)


def facing(episode: Episode) -> Tensor:
    """Normals: all towards the viewer, (0, 0, 1)."""
    return torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1).expand_as(episode.target).clone()


NAMED: dict[str, Baseline] = {
    method.__name__: method
    for method in (grey_copy, biharmonic, nl_means, canny, input_copy, all_foreground, flat, facing)
}
"""What a benchmark's ``baselines`` may name."""


def skimage_restoration() -> ModuleType:
    """The package of the classical methods.

    Raises:
        InputError: it is not installed.
    """
    try:
        from skimage import restoration
    except ImportError as error:
        raise InputError("classical baselines need scikit-image: pip install 'lavin[test]'") from error
    return restoration


def hole_of(episode: Episode) -> np.ndarray:
    """Where an inpainting's input was blanked, bool (height, width): around all that differs from the truth."""
    rows, columns = (episode.query.input != episode.target).any(0)[0].nonzero(as_tuple=True)
    hole = np.zeros(episode.target.shape[-2:], bool)
    if len(rows):
        hole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return hole


def paste_known(clip: Tensor, episode: Episode) -> Tensor:
    """A prediction inside the hole, the input around it."""
    return torch.where(torch.from_numpy(hole_of(episode)), clip, episode.query.input)


def as_picture(clip: Tensor) -> np.ndarray:
    """A clip of one frame in [-1, 1] as float64 (height, width, 3) in [0, 1]."""
    return (clip[:, 0].permute(1, 2, 0).double().numpy() + 1) / 2


def as_clip(picture: np.ndarray) -> Tensor:
    """Inverse of ``as_picture``."""
    return torch.from_numpy(picture * 2 - 1).float().clamp(-1, 1).permute(2, 0, 1).unsqueeze(1)
