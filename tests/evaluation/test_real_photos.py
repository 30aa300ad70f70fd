"""What the specification measured on real pictures, measured here; skipped unless $LAVIN_DATA holds bsds500 and rgbd.

Its numbers are of 100 photos of BSDS500, the short side at 256 and the middle cut out.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lavin.data.depth import metres
from lavin.data.files import read_levels
from lavin.data.public import open_dataset
from lavin.evaluation import public
from lavin.evaluation.baselines import input_copy
from lavin.evaluation.benchmarks import read_benchmark
from lavin.evaluation.framing import frame
from lavin.evaluation.predictors import Each
from lavin.evaluation.runner import Runner
from lavin.metrics import PSNR, AbsRel
from lavin.metrics.restoration import levels
from lavin.tasks import REGISTRY, codes

BSDS = ["queries.dataset=bsds500", "queries.root=bsds500", "queries.split=val", "queries.names=null", "pairs=1"]
BSDS += ["pool.split=train", "seeds=[0]"]


def folder(name: str) -> Path:
    root = os.environ.get("LAVIN_DATA")
    if root is None or not (Path(root) / name).is_dir():
        pytest.skip(f"LAVIN_DATA names no folder with {name}")
    return Path(root)


def questions(config: str, *changes: str) -> public.Questions:
    """A benchmark's episodes of the 100 validation photos."""
    data = folder("bsds500")
    (benchmark,) = read_benchmark(config, [*BSDS, *changes]).rows().values()
    asked = public.Questions(benchmark.name, benchmark, data)
    assert len(asked) == 100
    return asked


@pytest.mark.parametrize("crop, wanted", [("centre", 0.135), ("centre111", 0.148)])
def test_the_grey_copy_has_the_error_that_the_specification_found(crop, wanted):
    """Through the code path of models, where it stands in a model's place and among the baselines."""
    asked = questions("imagenet_colorization", f"crop={crop}", "metrics=[MSE (ImageNet std)]")
    settings = public.settings_of(asked.benchmark, 100, 10, "float32")
    (found,) = Runner(Each("model", input_copy), settings).evaluate(asked.row(), asked.draw)
    assert found.value == found.baselines["grey_copy"] == pytest.approx(wanted, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, psnr, ssim", [("deglassblur", 22.1, 0.49), ("demotionblur", 26.9, 0.77), ("deraining", 17.9, 0.82)]
)
def test_damaged_pictures_score_what_the_specification_found(task, psnr, ssim):
    """Of the first 100 training photos; the blurs of the validation photos score 0.7 and 0.8 dB below these numbers."""
    photos, task = open_dataset("bsds500", folder("bsds500") / "bsds500", "train"), REGISTRY[task]
    skimage = pytest.importorskip("skimage.metrics")
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, data_range=255)
    found, similar = PSNR(), []
    for index in range(100):
        rng = np.random.default_rng(index)
        definition = task.draw_definition(rng, photos.vocabulary, evaluation=True)
        damaged, whole = task.example(frame(photos[index], "centre", 256), definition, rng)
        found.update(damaged, whole)
        pictures = (levels(clip)[:, 0].permute(1, 2, 0).numpy() for clip in (damaged, whole))
        similar.append(skimage.structural_similarity(*pictures, **options))  # SSIM() in a tenth of its time
    assert found.compute().item() == pytest.approx(psnr, abs=0.5)  # dB
    assert np.mean(similar) == pytest.approx(ssim, abs=0.03)


def test_true_depth_drawn_as_disparity_must_be_aligned_as_disparity():
    """Of an indoor video: next to nothing is lost in disparity, and several per cent where it is fitted to depth."""
    files = sorted((folder("rgbd") / "rgbd/train").glob("*.depth.png"))[::16]
    right, wrong = AbsRel(), AbsRel(space="depth")
    for file in files:
        depth = torch.from_numpy(metres(np.asarray(read_levels(file))))[None]
        shown = codes.decode_disparity(codes.encode_disparity(depth)).double()
        right.update(shown, depth)
        wrong.update(-shown, depth)  # far is large there
    assert right.samples == len(files) == 10
    assert right.compute() < 0.005 and wrong.compute() > 0.05
