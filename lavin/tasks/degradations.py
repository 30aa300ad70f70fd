"""Degradations: a photo seen through frosted glass, in motion, or in rain.

Pictures are uint8 (height, width, 3) in and out; pixels beyond the border mirror those inside, without repeating the
outermost. The filters keep the meaning and the defaults of Albumentations' ``GlassBlur`` (mode "fast"), ``MotionBlur``
and ``RandomRain``; everything random comes in as an argument, so that equal arguments give equal pictures.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

RAIN_COLOUR = 200
RAIN_BOX = 7
"""Side of the box that blurs the streaks, in pixels."""
RAIN_BRIGHTNESS = 0.7


def to_uint8(levels: np.ndarray) -> np.ndarray:
    """Whole levels 0 ... 255 nearest to any levels."""
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def gaussian_blur(levels: np.ndarray, sigma_px: float) -> np.ndarray:
    """Smooth (height, width, 3) by a Gaussian that ends at 3 sigma."""
    return ndimage.gaussian_filter(levels, (sigma_px, sigma_px, 0), mode="mirror", truncate=3.0)


# --- Glass ------------------------------------------------------------------------------------------------------------


def draw_offsets(rng: np.random.Generator, size: tuple[int, int], max_delta: int, iterations: int) -> np.ndarray:
    """Where each pixel's partner lies: int (iterations, rows, columns, 2) of (dy, dx), each in [-delta, delta).

    Rows and columns are those of the pixels that have a partner, ``delta + 1 ... size - delta``.
    """
    height, width = (max(0, length - 2 * max_delta) for length in size)
    return rng.integers(-max_delta, max_delta, (iterations, height, width, 2))


def glass_blur(picture: np.ndarray, sigma_px: float, max_delta: int, offsets: np.ndarray) -> np.ndarray:
    """Blur, swap pixels with partners near them, blur again.

    All swaps of an iteration happen at once: every pixel takes its partner's colour, then every partner takes its
    pixel's; a partner of several gets the colour of the last of them in raster order.

    Args:
        sigma_px: standard deviation of both Gaussians.
        max_delta: farthest offset; pixels nearer than this to the border have no partner.
        offsets: as ``draw_offsets`` makes them.
    """
    shuffled = gaussian_blur(picture.astype(np.float32), sigma_px)
    rows = np.arange(max_delta + 1, picture.shape[0] - max_delta + 1)[:, None]
    columns = np.arange(max_delta + 1, picture.shape[1] - max_delta + 1)
    for dy, dx in offsets.transpose(0, 3, 1, 2):
        there = rows + dy, columns + dx
        shuffled[rows, columns], shuffled[there] = shuffled[there], shuffled[rows, columns]
    return to_uint8(gaussian_blur(shuffled, sigma_px))


# --- Motion -----------------------------------------------------------------------------------------------------------


def motion_kernel(
    side: int, angle_deg: float, bias: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """A line one pixel wide in a square kernel that sums to 1: float64 (side, side).

    With r = floor(side / 2), the line has the points r + t (cos, sin)(angle) + r / 2 * shift for t from
    -r * min(1, 1 - bias) to r * min(1, 1 + bias), each moved to the nearest pixel of the kernel.

    Args:
        side: odd.
        angle_deg: from x right towards y down.
        bias: -1 ... 1: only backwards at -1, as far both ways at 0, only forwards at 1.
        shift: (x, y), each -1 ... 1.
    """
    reach = side // 2
    t = reach * np.linspace(-min(1, 1 - bias), min(1, 1 + bias), 2 * side)
    angle = np.deg2rad(angle_deg)
    x, y = (
        np.rint(reach + direction * t + reach / 2 * moved).clip(0, side - 1).astype(int)
        for direction, moved in ((np.cos(angle), shift[0]), (np.sin(angle), shift[1]))
    )
    kernel = np.zeros((side, side))
    kernel[y, x] = 1
    return kernel / kernel.sum()


def motion_blur(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each pixel becomes the mean of those that the kernel's line covers, the kernel's middle being at the pixel."""
    height, width, _ = picture.shape
    reach = len(kernel) // 2
    around = np.pad(picture.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    blurred = np.zeros(picture.shape, np.float32)
    for y, x in zip(*kernel.nonzero(), strict=True):  # a line: few of the kernel's pixels count
        blurred += np.float32(kernel[y, x]) * around[y : y + height, x : x + width]
    return to_uint8(blurred)


# --- Rain -------------------------------------------------------------------------------------------------------------


def draw_drops(rng: np.random.Generator, size: tuple[int, int], count: int, slant_px: int, length_px: int):
    """Upper ends (x, y) of streaks that lie inside the picture, int (count, 2)."""
    height, width = size
    x = rng.integers(min(max(0, -slant_px), width - 1), max(1, width - max(0, slant_px)), count)
    return np.stack([x, rng.integers(0, max(1, height - length_px), count)], 1)


def rain_streaks(size: tuple[int, int], drops: np.ndarray, slant_px: int, length_px: int) -> np.ndarray:
    """Which pixels the streaks cover, bool (height, width): lines one pixel wide from (x, y) to (x + slant, y +
    length), a pixel per row, or per column where slant is the longer of the two."""
    height, width = size
    steps = max(abs(slant_px), length_px, 1)
    along = np.arange(steps + 1) / steps
    x = np.floor(drops[:, :1] + slant_px * along + 0.5).astype(int)
    y = np.floor(drops[:, 1:] + length_px * along + 0.5).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    streaks = np.zeros(size, bool)
    streaks[y[inside], x[inside]] = True
    return streaks


def add_rain(picture: np.ndarray, drops: np.ndarray, slant_px: int, length_px: int) -> np.ndarray:
    """Streaks of level 200 on black, blurred by a 7 x 7 box, added with saturation; then all times 0.7.

    Args:
        drops: upper ends of the streaks, int (n, 2) of (x, y).
        slant_px: how far a streak's lower end lies to the right of its upper end.
        length_px: how far below.
    """
    streaks = rain_streaks(picture.shape[:2], drops, slant_px, length_px).astype(np.float32)
    veil = ndimage.uniform_filter(RAIN_COLOUR * streaks, RAIN_BOX, mode="mirror")
    return to_uint8((picture + veil[..., None]).clip(max=255) * RAIN_BRIGHTNESS)
