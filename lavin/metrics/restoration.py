"""Scores of pictures: clips (3, frames, height, width) RGB in [-1, 1]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lavin.metrics.base import SampleMean, beside, finite

IMAGENET_STD = (0.229, 0.224, 0.225)
SSIM_WINDOW = 11


def picture_pair(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both clips in float64, side by side.

    Raises:
        ValueError: sizes differ, they are no RGB clips, or the prediction is not finite.
    """
    truth = beside(prediction, truth)
    if prediction.ndim != 4 or len(prediction) != 3:
        raise ValueError(f"clips are {tuple(prediction.shape)}; they must be (3, frames, height, width)")
    return finite(prediction.double(), "the predicted picture"), truth.double()


def levels(clip: Tensor) -> Tensor:
    """8-bit levels of a clip, whole numbers in [0, 255] as float64."""
    return ((clip.double() + 1) * 127.5).round().clamp(0, 255)


def luma(levels: Tensor) -> Tensor:
    """Y of BT.601's studio range, 16 ... 235, of levels (3, ...): (1, ...). Not rounded, as in BasicSR."""
    red, green, blue = levels
    return (16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255).unsqueeze(0)


def mse(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error on the scale [0, 1]."""
    prediction, truth = picture_pair(prediction, truth)
    return ((prediction - truth) / 2).square().mean()


def psnr_db(prediction: Tensor, truth: Tensor, on_luma: bool = False) -> Tensor:
    """10 * log10(255² / MSE) of the 8-bit pictures, at most 100 dB."""
    found, true = map(levels, picture_pair(prediction, truth))
    if on_luma:
        found, true = luma(found), luma(true)
    error = (found - true).square().mean() / 255**2
    return (-10 * error.log10()).clamp(max=100)


def ssim(prediction: Tensor, truth: Tensor, on_luma: bool = False) -> Tensor:
    """Structural similarity of the 8-bit pictures, mean over frames, channels and pixels (Wang et al. 2004).

    11 x 11 Gaussian window with sigma 1.5, C1 = (0.01 * 255)², C2 = (0.03 * 255)²; the 5 pixels at each border, where
    the window does not fit, are dropped.

    Raises:
        ValueError: as ``picture_pair``, or the picture is smaller than the window.
    """
    found, true = map(levels, picture_pair(prediction, truth))
    if min(found.shape[2:]) < SSIM_WINDOW:
        height, width = found.shape[2:]
        raise ValueError(f"SSIM needs pictures of at least {SSIM_WINDOW}x{SSIM_WINDOW}; this one is {width}x{height}")
    if on_luma:
        found, true = luma(found), luma(true)
    frames = [picture.transpose(0, 1) for picture in (found, true)]
    _, everywhere = structural_similarity_index_measure(
        *frames, sigma=1.5, data_range=255.0, k1=0.01, k2=0.03, return_full_image=True
    )
    # torchmetrics' own mean takes in the border, where the picture is continued by reflection; the paper has none.
    border = SSIM_WINDOW // 2
    return everywhere[..., border:-border, border:-border].mean()


class MSE(SampleMean):
    """Mean over pictures of the mean squared error on the scale [0, 1]."""

    higher_is_better = False

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return mse(prediction, truth)


class ImageNetMSE(SampleMean):
    """Mean squared error of pictures in [0, 1] divided by ImageNet's standard deviations, the scale of the colorization
    scores in the visual-prompting literature (Bar et al. 2022). Returning the grey input scores about 0.135 there:
    report that beside it."""

    higher_is_better = False

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        prediction, truth = picture_pair(prediction, truth)
        std = torch.tensor(IMAGENET_STD, dtype=torch.float64, device=prediction.device).view(3, 1, 1, 1)
        return ((prediction - truth) / 2 / std).square().mean()


class PSNR(SampleMean):
    """Mean over pictures of the peak signal-to-noise ratio in dB, at most 100.

    Args:
        on_luma: score BT.601's Y instead of RGB, as the deraining literature does.
    """

    higher_is_better = True

    def __init__(self, on_luma: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.on_luma = on_luma

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return psnr_db(prediction, truth, self.on_luma)


class SSIM(SampleMean):
    """Mean over pictures of the structural similarity, at most 1.

    Args:
        on_luma: as in ``PSNR``.
    """

    higher_is_better = True

    def __init__(self, on_luma: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.on_luma = on_luma

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return ssim(prediction, truth, self.on_luma)
