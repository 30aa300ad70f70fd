"""LPIPS and FID, torchmetrics' own, on backbones that are already on this machine: nothing is downloaded.

Without its backbone a metric cannot be built: ``Unavailable`` says why, for a report to print in the number's place.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from lavin.metrics.base import SampleMean
from lavin.metrics.restoration import levels, picture_pair

BACKBONES = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
LPIPS_SMALLEST = 32
"""Side of the smallest picture that survives the backbones' pooling."""


class Unavailable(RuntimeError):
    """A metric that cannot be computed on this machine; its text is the reason. It is never a score of 0."""


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


class LPIPS(SampleMean):
    """Learned perceptual distance, version 0.1 (Zhang et al. 2018): mean over frames, then over pictures. 0 is equal.

    Args:
        backbone: ``alex`` (primary), ``vgg`` or ``squeeze``.

    ``update`` takes clips (3, frames, height, width) in [-1, 1], of 32 pixels a side at least.

    Raises:
        Unavailable: the backbone's weights are not on this machine.
        ValueError: an unknown backbone; in ``update``: as ``picture_pair``, or the pictures are too small.
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
            raise ValueError(f"LPIPS needs {LPIPS_SMALLEST} pixels a side at least; this picture is {width}x{height}")
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
        ValueError: in ``update``: as ``picture_pair``.
    """

    def __init__(self, features: nn.Module | None = None, **kwargs: Any):
        if features is not None:
            super().__init__(feature=features, **kwargs)
        elif find_spec("torch_fidelity") is None:
            raise Unavailable("FID is unavailable: torch-fidelity is not installed; pip install torch-fidelity")
        else:
            weights = weights_on_disk(INCEPTION, "FID")
            super().__init__(feature=2048, feature_extractor_weights_path=str(weights), **kwargs)
        self.orig_dtype = torch.float32  # torchmetrics sets it in update only, which a process without samples lacks

    @torch.no_grad()
    def update(self, prediction: Tensor, truth: Tensor) -> None:
        for clip, real in zip(picture_pair(prediction, truth), (False, True)):
            super().update(levels(clip).to(torch.uint8).transpose(0, 1), real)
