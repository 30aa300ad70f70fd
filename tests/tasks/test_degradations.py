"""Filters against slow loops in float64 that follow their descriptions pixel by pixel."""

import math

import numpy as np
import pytest

from lavin.tasks import degradations


def photo(seed=0, size=(24, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)


def mirrored(index: int, length: int) -> int:
    """The pixel inside that lies as far from the border pixel as this one lies outside."""
    if index < 0:
        return -index
    return 2 * (length - 1) - index if index >= length else index


def blurred_slowly(picture: np.ndarray, sigma: float) -> np.ndarray:
    reach = int(3 * sigma + 0.5)
    weights = {
        (dy, dx): math.exp(-(dy**2 + dx**2) / (2 * sigma**2))
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
    }
    height, width, _ = picture.shape
    out = np.zeros(picture.shape)
    for y in range(height):
        for x in range(width):
            for (dy, dx), weight in weights.items():
                out[y, x] += weight * picture[mirrored(y + dy, height), mirrored(x + dx, width)]
    return out / sum(weights.values())


@pytest.mark.parametrize("sigma, delta, iterations", [(0.7, 4, 2), (0.4, 2, 1), (1.0, 6, 3)])
def test_glass_is_the_slow_loop(sigma, delta, iterations):
    picture = photo()
    height, width, _ = picture.shape
    offsets = degradations.draw_offsets(np.random.default_rng(1), (height, width), delta, iterations)
    assert offsets.min() == -delta and offsets.max() == delta - 1

    shuffled = blurred_slowly(picture.astype(float), sigma)
    for iteration in offsets:
        before = shuffled.copy()
        pairs = [
            ((y, x), (y + iteration[i, j, 0], x + iteration[i, j, 1]))
            for i, y in enumerate(range(delta + 1, height - delta + 1))
            for j, x in enumerate(range(delta + 1, width - delta + 1))
        ]
        for here, there in pairs:
            shuffled[here] = before[there]
        for here, there in pairs:
            shuffled[there] = before[here]
    wanted = blurred_slowly(shuffled, sigma)
    found = degradations.glass_blur(picture, sigma, delta, offsets)
    assert np.abs(found - wanted).max() <= 0.5 + 1e-3  # float32, then whole levels


def test_glass_on_a_picture_too_small_for_swaps_is_a_blur():
    picture = photo(size=(8, 8))
    offsets = degradations.draw_offsets(np.random.default_rng(0), (8, 8), 4, 2)
    assert offsets.shape == (2, 0, 0, 2)
    found = degradations.glass_blur(picture, 0.7, 4, offsets)
    assert np.abs(found - blurred_slowly(blurred_slowly(picture.astype(float), 0.7), 0.7)).max() <= 0.501


@pytest.mark.parametrize("side", [3, 7, 15])
@pytest.mark.parametrize("angle, wanted", [(0, "row"), (180, "row"), (90, "column"), (270, "column")])
def test_a_motion_along_an_axis_is_a_whole_row_or_column(side, angle, wanted):
    kernel = degradations.motion_kernel(side, angle)
    line = np.zeros((side, side))
    line[side // 2] = 1 / side
    np.testing.assert_allclose(kernel, line if wanted == "row" else line.T)


def test_a_diagonal_motion_is_a_diagonal_and_its_angle_turns_from_right_to_down():
    kernel = degradations.motion_kernel(9, 45)
    y, x = kernel.nonzero()
    assert (y == x).all() and {1, 4, 7} <= set(y.tolist())  # 4 / sqrt(2) = 2.8 pixels each way
    y, x = degradations.motion_kernel(9, 135).nonzero()
    assert (y == 8 - x).all()


@pytest.mark.parametrize(
    "bias, covered", [(-1, [0, 1, 2, 3]), (-0.5, range(6)), (0, range(7)), (0.5, range(1, 7)), (1, [3, 4, 5, 6])]
)
def test_a_bias_takes_from_one_end(bias, covered):
    kernel = degradations.motion_kernel(7, 0, bias)
    assert kernel[3].nonzero()[0].tolist() == sorted(
        set(covered) - ({5} if bias == -0.5 else {1} if bias == 0.5 else set())
    )


def test_a_shift_moves_the_line_by_quarters_of_the_side():
    centred, moved = (degradations.motion_kernel(9, 0, 0, shift) for shift in ((0.0, 0.0), (0.0, 1.0)))
    assert centred[4].sum() == pytest.approx(1) and moved[6].sum() == pytest.approx(1)


def test_kernels_sum_to_one_and_are_one_line():
    rng = np.random.default_rng(0)
    for _ in range(200):
        side = 3 + 2 * int(rng.integers(7))
        kernel = degradations.motion_kernel(side, rng.uniform(0, 360), rng.uniform(-1, 1), tuple(rng.uniform(-1, 1, 2)))
        assert kernel.shape == (side, side) and kernel.sum() == pytest.approx(1)
        assert len(set(kernel[kernel > 0].tolist())) == 1 and 1 <= (kernel > 0).sum() <= 2 * side


def test_motion_is_the_slow_loop():
    picture = photo(2)
    kernel = degradations.motion_kernel(9, 30, 0.4, (0.6, -0.8))
    height, width, _ = picture.shape
    wanted = np.zeros(picture.shape)
    for y in range(height):
        for x in range(width):
            for i in range(9):
                for j in range(9):
                    source = picture[mirrored(y + i - 4, height), mirrored(x + j - 4, width)].astype(float)
                    wanted[y, x] += kernel[i, j] * source
    assert np.abs(degradations.motion_blur(picture, kernel) - wanted).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("slant", [-10, -3, 0, 7, 10])
def test_streaks_are_lines_inside_the_picture(slant):
    size, length = (64, 80), 8
    drops = degradations.draw_drops(np.random.default_rng(0), size, 300, slant, length)
    ends = drops + [slant, length]
    for points in (drops, ends):
        assert (points >= 0).all() and (points < [80, 64]).all()
    for drop in drops[:20]:
        y, x = degradations.rain_streaks(size, drop[None], slant, length).nonzero()
        assert len(y) == max(abs(slant), length) + 1  # one pixel per step of the longer axis
        away = np.abs((x - drop[0]) * length - (y - drop[1]) * slant) / math.hypot(slant, length)
        assert away.max() <= 0.5 and {y.min(), y.max()} == {drop[1], drop[1] + length}


def test_rain_is_the_slow_loop():
    picture = photo(3)
    size = picture.shape[:2]
    drops = degradations.draw_drops(np.random.default_rng(4), size, 12, -2, 6)
    streaks = degradations.rain_streaks(size, drops, -2, 6)
    wanted = np.zeros(picture.shape)
    for y in range(size[0]):
        for x in range(size[1]):
            box = [
                200.0 * streaks[mirrored(y + dy, size[0]), mirrored(x + dx, size[1])]
                for dy in range(-3, 4)
                for dx in range(-3, 4)
            ]
            wanted[y, x] = np.minimum(picture[y, x] + sum(box) / 49, 255) * 0.7
    assert np.abs(degradations.add_rain(picture, drops, -2, 6) - wanted).max() <= 0.5 + 1e-3


def test_without_drops_rain_only_darkens():
    picture = photo(5)
    dry = degradations.add_rain(picture, np.zeros((0, 2), int), 3, 8)
    assert np.abs(dry - picture * 0.7).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (12, 12)])
def test_tiny_pictures_are_filtered_too(size):
    picture = photo(6, size)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        slant = int(rng.integers(-10, 11))
        drops = degradations.draw_drops(rng, size, 3, slant, 2)
        assert degradations.add_rain(picture, drops, slant, 2).shape == picture.shape
