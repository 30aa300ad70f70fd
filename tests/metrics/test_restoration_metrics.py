"""Picture scores against reference libraries."""

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from lavin.metrics import MSE, PSNR


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
    assert score == pytest.approx(
        skimage.peak_signal_noise_ratio(*(x.numpy() for x in levels), data_range=255), abs=1e-4
    )


def test_psnr_is_the_mean_over_pictures_and_ends_at_100_db():
    metric = PSNR()
    metric.update(photo(0), photo(0) + 0.1 / 127.5)  # a tenth of a level is no error on 8 bits
    assert metric.compute() == 100
    metric.update(photo(0), photo(1))
    assert metric.compute().item() == pytest.approx((100 + PSNR().score(photo(0), photo(1)).item()) / 2, abs=1e-4)
