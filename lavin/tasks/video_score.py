"""Score of frame prediction."""

from __future__ import annotations

from torch import Tensor

from lavin.metrics.restoration import MSE


class NewFramesMSE(MSE):
    """Mean over clips of the mean squared error on the scale [0, 1] of all frames but the first, which was shown."""

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return super().score(prediction[:, 1:], truth[:, 1:])
