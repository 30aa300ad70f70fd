"""LPIPS, FID and KID against their formulas, and what they say where their backbones are missing."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
import torchvision
from scipy.linalg import sqrtm

from lavin.metrics import FID, KID, LPIPS, Unavailable


def photo(seed: int, frames: int = 1) -> torch.Tensor:
    return 2 * torch.rand(3, frames, 40, 48, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.fixture
def no_backbones(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield
    torch.hub.set_dir(before)


@pytest.mark.parametrize("backbone, file", [("alex", "alexnet-owt"), ("vgg", "vgg16"), ("squeeze", "squeezenet1_1")])
def test_lpips_without_its_backbone_is_unavailable_and_says_which(no_backbones, backbone, file):
    with pytest.raises(Unavailable, match=rf"LPIPS \({backbone}\) is unavailable: its backbone .*{file}.*; put http"):
        LPIPS(backbone)
    with pytest.raises(ValueError, match="'resnet'; it must be one of alex, vgg, squeeze"):
        LPIPS("resnet")


@pytest.mark.parametrize("metric", [FID, KID])
def test_distances_without_inception_are_unavailable_and_say_why(no_backbones, metric):
    reason = rf"{metric.__name__} is unavailable: (torch-fidelity is not installed|its backbone .* is missing)"
    with pytest.raises(Unavailable, match=reason):
        metric()


def slow_lpips(file: Path, a: torch.Tensor, b: torch.Tensor) -> float:
    """Weighted squared differences of unit-length features, mean over places, sum over seven depths; float64."""
    network = torchvision.models.squeezenet1_1(weights=None)
    network.load_state_dict(torch.load(file, map_location="cpu"))
    layers = network.double().eval().features
    heads = torch.load(
        Path(torchmetrics.__file__).parent / "functional/image/lpips_models/squeeze.pth", map_location="cpu"
    )
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(3, 1, 1)
    x, y = (((clip.double() - shift) / scale).unsqueeze(0) for clip in (a, b))
    total, start = 0.0, 0
    with torch.no_grad():
        for depth, end in enumerate((2, 5, 8, 10, 11, 12, 13)):
            x, y = layers[start:end](x), layers[start:end](y)
            start = end
            unit_x, unit_y = (f / (f.square().sum(1, keepdim=True) + 1e-8).sqrt() for f in (x, y))
            weights = heads[f"lin{depth}.model.1.weight"].double().view(-1, 1, 1)
            total += ((unit_x - unit_y).square() * weights).sum(1).mean().item()
    return total


def test_lpips_equals_its_formula(random_squeezenet):
    found, truth = photo(0, frames=2), photo(1, frames=2)
    metric = LPIPS("squeeze")
    metric.update(found, truth)
    wanted = np.mean([slow_lpips(random_squeezenet, found[:, i], truth[:, i]) for i in range(2)])
    assert wanted > 1e-3 and metric.compute().item() == pytest.approx(wanted, rel=1e-4)  # the network runs in float32
    assert metric.score(truth, truth) == 0 and not metric.higher_is_better
    with pytest.raises(ValueError, match="32 pixels a side at least; this picture is 48x20"):
        metric.update(found[:, :, :20], truth[:, :, :20])


class Moments(torch.nn.Module):
    """Three features of a picture: the mean of each channel."""

    num_features = 3

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.double().mean((2, 3))


def test_fid_equals_its_formula():
    """FID = |m - n|² + trace(A + B - 2 (A B)^(1/2)), by scipy's matrix root on numpy's covariances."""
    metric, features = FID(Moments()), ([], [])
    for seed in range(4):
        pair = photo(seed, frames=3), photo(seed + 10, frames=3) * 0.7 + 0.1
        metric.update(*pair)
        for kept, clip in zip(features, pair):
            kept.append(((clip.double() + 1) * 127.5).round().mean((2, 3)).T.numpy())
    a, b = (np.concatenate(kept) for kept in features)
    first, second = np.cov(a.T), np.cov(b.T)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert metric.compute().item() == pytest.approx(wanted, rel=1e-6)
    assert not metric.higher_is_better


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy, a loop over pairs."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    n = len(a)
    within = sum(kernel(x[i], x[j]) for x in (a, b) for i in range(n) for j in range(n) if i != j)
    across = sum(kernel(x, y) for x in a for y in b)
    return within / (n * (n - 1)) - 2 * across / n**2


def mean_levels(clip: torch.Tensor) -> np.ndarray:
    return ((clip.double() + 1) * 127.5).round().mean((2, 3)).T.numpy()


def test_kid_equals_its_formula_and_subsets_are_unbiased():
    """With all pictures in the subset it is the formula; the mean over many small subsets is near."""
    pairs = [(photo(seed, frames=3), photo(seed + 10, frames=3) * 0.7 + 0.1) for seed in range(4)]
    whole, parts = KID(Moments()), KID(Moments(), subsets=3000, subset_size=5)
    for pair in pairs:
        whole.update(*pair)
        parts.update(*pair)
    found, true = (np.concatenate([mean_levels(pair[side]) for pair in pairs]) for side in (0, 1))
    wanted = kernel_distance(found.astype(np.float32).astype(float), true.astype(np.float32).astype(float))
    assert whole.compute().item() == pytest.approx(wanted, rel=1e-6)
    assert parts.compute().item() == pytest.approx(wanted, rel=0.1) and parts.compute() != whole.compute()
    assert not whole.higher_is_better


def test_kid_of_equal_sets_is_not_above_0_and_one_picture_is_too_few():
    metric = KID(Moments())
    metric.update(photo(0), photo(1))
    with pytest.raises(ValueError, match="KID needs two pictures at least, not 1"):
        metric.compute()
    same = KID(Moments())
    same.update(photo(0, frames=5), photo(0, frames=5))
    assert same.compute() <= 0
