"""Scores of pictures: clips (3, frames, height, width) in [-1, 1]."""

from __future__ import annotations

from torch import Tensor

from lavin.metrics.base import SampleMean


def mse(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error on the scale [0, 1]."""
    return ((prediction.double() - truth.double()) / 2).square().mean()


def psnr_db(prediction: Tensor, truth: Tensor) -> Tensor:
    """10 * log10(255² / MSE) of the 8-bit pictures, at most 100 dB."""

    def levels(clip: Tensor) -> Tensor:
        return ((clip.double() + 1) * 127.5).round().clamp(0, 255)

    error = (levels(prediction) - levels(truth)).square().mean() / 255**2
    return (-10 * error.log10()).clamp(max=100)


class MSE(SampleMean):
    """Mean over pictures of the mean squared error on the scale [0, 1]."""

    higher_is_better = False

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return mse(prediction, truth.to(prediction.device))


class PSNR(SampleMean):
    """Mean over pictures of the peak signal-to-noise ratio in dB."""

    higher_is_better = True

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return psnr_db(prediction, truth.to(prediction.device))
