"""Picture scores against reference libraries."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from lavin.metrics import MSE, PSNR, SSIM, ImageNetMSE


def photo(seed: int) -> torch.Tensor:
    levels = torch.randint(256, (3, 1, 16, 16), generator=torch.Generator().manual_seed(seed))
    return levels / 127.5 - 1


def test_mse_is_on_the_scale_from_black_0_to_white_1():
    black = torch.full((3, 1, 4, 4), -1.0)
    metric = MSE()
    metric.update(-black, black)
    metric.update(black + 0.2, black)  # a tenth of the range
    assert metric.compute().item() == pytest.approx((1 + 0.01) / 2)


def test_psnr_equals_torchmetrics_and_scikit_image():
    found, truth = photo(0), photo(1)
    score = PSNR().score(found, truth).item()
    levels = [((clip + 1) * 127.5).round() for clip in (found, truth)]
    assert score == pytest.approx(peak_signal_noise_ratio(*levels, data_range=255.0).item(), abs=1e-4)
    skimage = pytest.importorskip("skimage.metrics")
    wanted = skimage.peak_signal_noise_ratio(*(x.double().numpy() for x in levels), data_range=255)
    assert score == pytest.approx(wanted, abs=1e-6)


def test_psnr_is_the_mean_over_pictures_and_ends_at_100_db():
    metric = PSNR()
    metric.update(photo(0), photo(0) + 0.1 / 127.5)  # a tenth of a level is no error on 8 bits
    assert metric.compute() == 100
    metric.update(photo(0), photo(1))
    assert metric.compute().item() == pytest.approx((100 + PSNR().score(photo(0), photo(1)).item()) / 2, abs=1e-4)


def as_pictures(*clips: torch.Tensor, luma: bool = False) -> list[np.ndarray]:
    """8-bit levels, (height, width, channels)."""
    levels = [((clip[:, 0] + 1) * 127.5).round().permute(1, 2, 0).double().numpy() for clip in clips]
    if luma:
        levels = [16 + (x / 255) @ np.array([65.481, 128.553, 24.966]) for x in levels]
        return [x[..., None] for x in levels]
    return levels


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over channels and over all places where an 11 x 11 window fits; every moment as a weighted sum."""
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(weights, weights) / weights.sum() ** 2
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    height, width, channels = a.shape
    for y in range(height - 10):
        for x in range(width - 10):
            for c in range(channels):
                p, q = a[y : y + 11, x : x + 11, c], b[y : y + 11, x : x + 11, c]
                mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
                var_p, var_q = (weights * p * p).sum() - mean_p**2, (weights * q * q).sum() - mean_q**2
                shared = (weights * p * q).sum() - mean_p * mean_q
                likeness = (2 * mean_p * mean_q + c1) * (2 * shared + c2)
                values.append(likeness / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("on_luma", [False, True])
def test_ssim_equals_a_loop_over_windows(on_luma):
    truth = photo(0)
    found = (truth + 0.3 * photo(1)).clamp(-1, 1)
    score = SSIM(on_luma).score(found, truth).item()
    assert score == pytest.approx(slow_ssim(*as_pictures(found, truth, luma=on_luma)), abs=1e-6)


def test_ssim_equals_scikit_image():
    skimage = pytest.importorskip("skimage.metrics")
    truth = photo(0)
    found = (truth + 0.3 * photo(1)).clamp(-1, 1)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, data_range=255)
    wanted = skimage.structural_similarity(*as_pictures(found, truth), **options)
    assert SSIM().score(found, truth).item() == pytest.approx(wanted, abs=1e-6)


def test_ssim_of_equal_pictures_is_1_and_needs_a_window():
    assert SSIM().score(photo(0), photo(0)).item() == pytest.approx(1)
    flat = torch.zeros(3, 1, 12, 12)
    assert SSIM().score(flat, flat).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 11x11; this one is 16x10"):
        SSIM().score(photo(0)[:, :, :10], photo(1)[:, :, :10])


def test_psnr_on_luma_is_that_of_the_y_channel():
    a, b = as_pictures(photo(0), photo(1), luma=True)
    assert PSNR(on_luma=True).score(photo(0), photo(1)).item() == pytest.approx(
        10 * np.log10(255**2 / np.mean((a - b) ** 2)), abs=1e-6
    )
    assert as_pictures(torch.ones(3, 1, 1, 1), luma=True)[0].item() == pytest.approx(235)  # white


def test_imagenet_mse_weighs_channels_by_their_spread():
    black = torch.full((3, 1, 4, 4), -1.0)
    found = black.clone()
    found[0] += 0.2  # a tenth of the range, in red
    metric = ImageNetMSE()
    metric.update(found, black)
    assert metric.compute().item() == pytest.approx((0.1 / 0.229) ** 2 / 3)
    metric.update(photo(0), photo(1))
    a, b = (x / 255 for x in as_pictures(photo(0), photo(1)))
    wanted = ((a - b) ** 2 / np.array([0.229, 0.224, 0.225]) ** 2).mean()
    assert metric.score(photo(0), photo(1)).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("metric", [MSE, PSNR, SSIM, ImageNetMSE])
def test_a_failed_picture_is_an_error(metric):
    broken = photo(0).clone()
    broken[0, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="the predicted picture: 1 of 768 values are NaN"):
        metric().update(broken, photo(1))
    with pytest.raises(ValueError, match=r"must be \(3, frames, height, width\)"):
        metric().update(photo(0)[:1], photo(1)[:1])
