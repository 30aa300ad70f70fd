"""View: a rectangle of a picture and the labels below it, at the size at which a model sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LEAST_SHARE = 0.5
"""Least height and width of a crop, in those of its picture."""
WIDEST = 4 / 3
"""Width to height of a crop, and the inverse, where the picture allows it: squashing distorts no more than this."""


@dataclass(frozen=True)
class View:
    """A rectangle of a picture, perhaps mirrored, that becomes a picture of another size."""

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    """(height, width) of what it becomes."""
    flip: bool = False

    @classmethod
    def whole(cls, height: int, width: int) -> View:
        """A picture as it is."""
        return cls(0, 0, height, width, (height, width))

    def resample(self, values: np.ndarray, method: Image.Resampling) -> Tensor:
        """Antialiased: levels (height, width, 3), or one float32 per pixel."""
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        return self._oriented(np.asarray(Image.fromarray(values).resize(self.size[::-1], method, box)))

    def nearest(self, values: np.ndarray) -> Tensor:
        """The value under the centre of each pixel."""
        sides = zip(self.size, (self.height, self.width))
        rows, columns = (((np.arange(after) + 0.5) / after * before).astype(int) for after, before in sides)
        return self._oriented(values[self.top + rows][:, self.left + columns])

    def _oriented(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy((values[:, ::-1] if self.flip else values).copy())

    def intrinsics(self, K: np.ndarray) -> Tensor:
        """Pinhole intrinsics of the view, from the picture's; (0, 0) is the top left corner of the first pixel."""
        y, x = self.size[0] / self.height, self.size[1] / self.width
        K = np.array([[x, 0, -x * self.left], [0, y, -y * self.top], [0, 0, 1]]) @ K
        if self.flip:
            K[0, 2] = self.size[1] - K[0, 2]
        return torch.from_numpy(K).float()


def draw_view(rng: np.random.Generator, height: int, width: int, size: int) -> View:
    """A crop of half to all of each side and within ``WIDEST`` where the picture allows that, mirrored or not, that
    becomes a square of ``size`` pixels."""

    def draw(side: int, low: float, high: float) -> int:
        low, high = min(max(LEAST_SHARE * side, low), side), max(LEAST_SHARE * side, min(high, side))
        return round(rng.uniform(min(low, high), high))

    rows = draw(height, LEAST_SHARE * width / WIDEST, width * WIDEST)
    columns = draw(width, rows / WIDEST, rows * WIDEST)
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    return View(top, left, rows, columns, (size, size), flip=bool(rng.random() < 0.5))
