"""LPIPS, FID and KID, torchmetrics' own, on backbones that are already on this machine: nothing is downloaded.

Without its backbone a metric cannot be built: ``Unavailable`` says why, for a report to print in the number's place.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import poly_mmd
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchmetrics.utilities import dim_zero_cat

from lavin.metrics.base import SampleMean, Unavailable, Unscorable
from lavin.metrics.restoration import levels, picture_pair

BACKBONES = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
LPIPS_SMALLEST = 32
"""Side of the smallest picture that survives the backbones' pooling."""


def weights_on_disk(url: str, metric: str) -> Path:
    """Where torch.hub keeps the file of a URL.

    Raises:
        Unavailable: it is not there.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        raise Unavailable(f"{metric} is unavailable: its backbone {path} is missing; put {url} there")
    return path


def lpips_weights(backbone: str) -> Path:
    """File of the backbone that LPIPS needs.

    Raises:
        ValueError: no such backbone.
        Unavailable: the file is not on this machine.
    """
    import torchvision

    if backbone not in BACKBONES:
        raise ValueError(f"backbone is '{backbone}'; it must be one of {', '.join(BACKBONES)}")
    return weights_on_disk(getattr(torchvision.models, BACKBONES[backbone]).DEFAULT.url, f"LPIPS ({backbone})")


def inception_weights(metric: str) -> Path:
    """File of Inception-v3 as it was ported from TensorFlow, on which published distances are computed.

    Raises:
        Unavailable: torch-fidelity is not installed, or the file is not on this machine.
    """
    if find_spec("torch_fidelity") is None:
        raise Unavailable(f"{metric} is unavailable: torch-fidelity is not installed; pip install torch-fidelity")
    return weights_on_disk(INCEPTION, metric)


class LPIPS(SampleMean):
    """Learned perceptual distance, version 0.1 (Zhang et al. 2018): mean over frames, then over pictures. 0 is equal.

    Args:
        backbone: ``alex`` (primary), ``vgg`` or ``squeeze``.

    ``update`` takes clips (3, frames, height, width) in [-1, 1], of 32 pixels a side at least.

    Raises:
        Unavailable: the backbone's weights are not on this machine.
        Unscorable: in ``update``: the pictures are too small.
        ValueError: an unknown backbone; in ``update``: as ``picture_pair``.
    """

    higher_is_better = False

    def __init__(self, backbone: str = "alex", **kwargs: Any):
        super().__init__(**kwargs)
        lpips_weights(backbone)
        self.network = LearnedPerceptualImagePatchSimilarity(net_type=backbone).net

    @torch.no_grad()
    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        found, true = picture_pair(prediction, truth)
        if min(found.shape[2:]) < LPIPS_SMALLEST:
            height, width = found.shape[2:]
            raise Unscorable(f"LPIPS needs {LPIPS_SMALLEST} pixels a side at least; this picture is {width}x{height}")
        frames = [clip.clamp(-1, 1).float().transpose(0, 1) for clip in (found, true)]
        return self.network(*frames).double().mean()


class FID(FrechetInceptionDistance):
    """Fréchet distance between the features of all predicted and of all true pictures (Heusel et al. 2017).

    Inception-v3's pool features, antialiased resize to 299 x 299, sums in float64. With fewer pictures than features
    (2048) it is biased upwards: compare equal numbers of pictures only.

    Args:
        features: another network, (n, 3, height, width) uint8 -> (n, features); its distances are no published FID.

    ``update`` takes clips (3, frames, height, width) in [-1, 1], every frame a picture. ``compute`` needs two pictures.

    Raises:
        Unavailable: torch-fidelity is not installed, or Inception's weights are not on this machine.
        Unscorable: in ``compute``: fewer than two pictures.
        ValueError: in ``update``: as ``picture_pair``.
    """

    def __init__(self, features: nn.Module | None = None, **kwargs: Any):
        if features is not None:
            super().__init__(feature=features, **kwargs)
        else:
            weights = str(inception_weights("FID"))
            super().__init__(feature=2048, feature_extractor_weights_path=weights, **kwargs)
        self.orig_dtype = torch.float32  # torchmetrics sets it in update only, which a process without samples lacks

    @torch.no_grad()
    def update(self, prediction: Tensor, truth: Tensor) -> None:
        for clip, real in zip(picture_pair(prediction, truth), (False, True)):
            super().update(levels(clip).to(torch.uint8).transpose(0, 1), real)

    def compute(self) -> Tensor:
        if self.fake_features_num_samples < 2:
            raise Unscorable(f"FID needs two pictures at least, not {int(self.fake_features_num_samples)}")
        return super().compute()


class KID(Metric):
    """Kernel distance between the features of the predicted and of the true pictures (Binkowski et al. 2018).

    The squared maximum mean discrepancy with the kernel (x · y / d + 1)³, unbiased, so that it may be below 0: the mean
    over subsets that are drawn with a fixed seed. The features are put in order before, so that neither the order of
    the pictures nor the number of processes changes it. All of them are kept, 8 KB a picture each.

    Args:
        features: as in ``FID``; its distances are no published KID.
        subsets: how many.
        subset_size: pictures of a subset; all of them where there are fewer.

    ``update`` takes clips (3, frames, height, width) in [-1, 1], every frame a picture.

    Raises:
        Unavailable: as ``FID``.
        Unscorable: in ``compute``: fewer than two pictures.
        ValueError: in ``update``: as ``picture_pair``.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, features: nn.Module | None = None, subsets: int = 100, subset_size: int = 500, **kwargs: Any):
        super().__init__(**kwargs)
        if features is None:
            weights = str(inception_weights("KID"))
            features = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
            features.num_features = 2048
        self.network, self.subsets, self.subset_size = features, subsets, subset_size
        # Flat: torchmetrics stands an empty one-dimensional list in for a process without samples.
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("true", [], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(self, prediction: Tensor, truth: Tensor) -> None:
        for clip, kept in zip(picture_pair(prediction, truth), (self.predicted, self.true)):
            pictures = levels(clip).to(torch.uint8).transpose(0, 1)
            kept.append(self.network(pictures).to(self.device, torch.float32).flatten())

    def compute(self) -> Tensor:
        found, true = (self.in_order(kept) for kept in (self.predicted, self.true))
        if len(found) < 2:
            raise Unscorable(f"KID needs two pictures at least, not {len(found)}")
        size = min(self.subset_size, len(found))
        drawn = np.random.default_rng(0)
        distances = [
            poly_mmd(*(features[drawn.permutation(len(features))[:size]] for features in (true, found)))
            for _ in range(self.subsets if size < len(found) else 1)
        ]
        return torch.stack(distances).mean().float()

    def in_order(self, kept: Iterable[Tensor]) -> Tensor:
        """Features by rising value of the first, then the second and so on: float64 (pictures, features)."""
        flat = dim_zero_cat(kept) if len(kept) else torch.empty(0)
        rows = flat.view(-1, self.network.num_features).double().cpu().numpy()
        return torch.from_numpy(rows[np.lexsort(rows.T[::-1])])
