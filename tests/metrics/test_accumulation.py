"""A metric depends neither on how the samples are split into batches nor on the number of processes."""

import inspect
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics import Metric

import lavin.metrics as metrics
from lavin.metrics import base

SAMPLES = 5


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks(seed: int):
    pair = torch.rand(2, 1, 8, 9, generator=rng(seed)) < 0.3 + 0.1 * seed
    return pair[0], pair[1]


def classes(seed: int):
    pair = torch.randint(0, 4, (2, 1, 8, 9), generator=rng(seed))
    return pair[0], pair[1]


def clips(seed: int, size: int = 16, frames: int = 1):
    pair = 2 * torch.rand(2, 3, frames, size, size, generator=rng(seed)) - 1
    return pair[0], pair[1]


def depth(seed: int):
    truth = 1 + 8 * torch.rand(1, 6 + seed, 7, generator=rng(seed), dtype=torch.float64)
    return 1 / truth + 0.1 * torch.rand(truth.shape, generator=rng(seed + 9), dtype=torch.float64), truth


def normals(seed: int):
    pair = torch.randn(2, 3, 1, 5, 4 + seed, generator=rng(seed), dtype=torch.float64)
    pair /= pair.norm(dim=1, keepdim=True)
    return pair[0], pair[1]


def edges(seed: int):
    return torch.rand(1, 12, 12, generator=rng(seed)), torch.rand(1, 12, 12, generator=rng(seed + 9)) < 0.2


def flow(seed: int):
    pair = 5 * torch.randn(2, 2, 2, 6, 7, generator=rng(seed))
    return pair[0], pair[1]


def segments(seed: int):
    found, truth = classes(seed)
    return 1000 * found + 1, torch.where(
        torch.rand(truth.shape, generator=rng(seed)) < 0.6, 1000 * found, 1000 * truth
    ) + 1


def objects(seed: int):
    """Boxes of which every second one is found; all scores are one of two, so that samples tie."""
    corner = 50 * torch.rand(4, 2, generator=rng(seed))
    boxes = torch.cat([corner, corner + 20], 1)
    labels = torch.tensor([0, 0, 1, 1])
    found = boxes + torch.tensor([[1.0], [30], [2], [40]])
    return {"boxes": found, "labels": labels, "scores": torch.tensor([0.5, 0.5, 0.5, 0.3])}, {
        "boxes": boxes,
        "labels": labels,
    }


def people(seed: int):
    joints = torch.cat([50 * torch.rand(2, 17, 2, generator=rng(seed)), torch.ones(2, 17, 1)], 2)
    truth = {"keypoints": joints, "area": torch.tensor([900.0, 1200]), "boxes": torch.tensor([[0.0, 0, 50, 50]] * 2)}
    return {"keypoints": joints + 4 * torch.randn(2, 17, 3, generator=rng(seed + 9))}, truth


class MeanColour(torch.nn.Module):
    num_features = 3

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.double().mean((2, 3))


CASES = {
    "AbsRel": (metrics.AbsRel, depth),
    "AngleBelow": (lambda: metrics.AngleBelow(60), normals),
    "AngularRMSE": (metrics.AngularRMSE, normals),
    "AveragePrecision": (lambda: metrics.AveragePrecision("boxes"), objects),
    "BoxIoU": (metrics.BoxIoU, masks),
    "Delta": (lambda: metrics.Delta(2), depth),
    "Delta1": (metrics.Delta1, depth),
    "DepthMSE": (metrics.DepthMSE, depth),
    "DepthRMSE": (metrics.DepthRMSE, depth),
    "EdgeF": (metrics.EdgeF, masks),
    "EdgeODS": (lambda: metrics.EdgeODS(3, tolerance=0.1), edges),
    "EdgeOIS": (lambda: metrics.EdgeOIS(3, tolerance=0.1), edges),
    "EndPointError": (metrics.EndPointError, flow),
    "FBIoU": (metrics.FBIoU, classes),
    "FID": (lambda: metrics.FID(MeanColour()), lambda seed: clips(seed, frames=6)),
    "KID": (lambda: metrics.KID(MeanColour(), subset_size=7), lambda seed: clips(seed, frames=6)),
    "FlowOutliers": (metrics.FlowOutliers, flow),
    "ForegroundIoU": (metrics.ForegroundIoU, classes),
    "ImageNetMSE": (metrics.ImageNetMSE, clips),
    "InstanceIoU": (metrics.InstanceIoU, classes),
    "LPIPS": (lambda: metrics.LPIPS("squeeze"), lambda seed: clips(seed, size=32)),
    "Log10": (metrics.Log10, depth),
    "MSE": (metrics.MSE, clips),
    "MaskIoU": (metrics.MaskIoU, masks),
    "MeanAngularError": (metrics.MeanAngularError, normals),
    "MeanIoU": (metrics.MeanIoU, classes),
    "MeanOKS": (metrics.MeanOKS, people),
    "MedianAngularError": (metrics.MedianAngularError, normals),
    "OverallIoU": (metrics.OverallIoU, masks),
    "PCK": (metrics.PCK, people),
    "PSNR": (metrics.PSNR, clips),
    "PanopticQuality": (metrics.PanopticQuality, segments),
    "PrecisionAt": (lambda: metrics.PrecisionAt(0.35), masks),
    "SSIM": (metrics.SSIM, clips),
    "VideoF": (metrics.VideoF, classes),
    "VideoJ": (metrics.VideoJ, classes),
    "VideoJF": (metrics.VideoJF, classes),
    "WarpError": (metrics.WarpError, flow),
}
"""Of every metric: how to make one, and its sample with a number."""


def result(name: str, samples: range) -> float:
    make, sample = CASES[name]
    metric = make()
    for number in samples:
        metric.update(*sample(number))
    return float(metric.compute())


def test_every_metric_is_here():
    classes = {name for name in metrics.__all__ if issubclass(getattr(metrics, name), Metric)}
    assert set(CASES) == classes - {"SampleMean", "PooledMean"}
    for name in CASES:
        assert isinstance(getattr(metrics, name).higher_is_better, bool), name


@pytest.mark.parametrize("name", CASES)
def test_splitting_the_samples_changes_nothing(name, random_squeezenet):
    make, sample = CASES[name]
    first, second, nothing = make(), make(), make()
    for number in range(SAMPLES):
        (first if number in (0, 3) else second).update(*sample(number))
    first.merge_state(second)
    first.merge_state(nothing)
    whole = result(name, range(SAMPLES))
    assert math.isfinite(whole) and whole != 0
    assert float(first.compute()) == pytest.approx(whole, rel=1e-6)
    backwards = result(name, reversed(range(SAMPLES)))
    assert backwards == pytest.approx(whole, rel=1e-6)


def score_shares(rank: int, folder: str) -> None:
    """One of two processes: every metric on its share of the samples, then on one that the other process has."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    shares = (range(rank, SAMPLES, 2), range(1 - rank))  # 3 and 2 samples; 1 and none
    results = {name: [result(name, share) for share in shares] for name in CASES}
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # a process without samples is meant
def test_two_processes_find_what_one_does(tmp_path, random_squeezenet):
    """On the CPU over gloo; forked, so that the processes need not load torch again."""
    processes = mp.start_processes(score_shares, (str(tmp_path),), nprocs=2, join=False, start_method="fork")
    while not processes.join(timeout=600):
        pass
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for name in CASES:
        wanted = [result(name, range(SAMPLES)), result(name, range(1))]
        for found in ranks:
            assert found[name] == pytest.approx(wanted, rel=1e-6, nan_ok=True), name


SIZES_DISAGREE = [name for name in CASES if name not in ("AveragePrecision", "MeanOKS", "PCK")]
"""Metrics of grids; the others take lists of objects."""


@pytest.mark.parametrize("name", SIZES_DISAGREE)
def test_sizes_that_disagree_are_an_error(name, random_squeezenet):
    make, sample = CASES[name]
    prediction, truth = sample(0)
    with pytest.raises(ValueError, match=r"prediction is \(.*\) but truth is \(.*\); bring the prediction"):
        make().update(prediction[..., :-1], truth)


def test_forward_scores_a_sample_and_adds_it():
    metric = metrics.MSE()
    assert metric(*clips(0)).item() == pytest.approx(metric.score(*clips(0)).item())
    metric(*clips(1))
    assert metric.compute().item() == pytest.approx(result("MSE", range(2)), rel=1e-6)


def test_a_mean_needs_its_score():
    assert inspect.isabstract(base.SampleMean) and inspect.isabstract(base.PooledMean)
