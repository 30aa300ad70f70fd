"""Metrics: ``torchmetrics.Metric`` classes whose ``update(prediction, truth)`` scores one sample.

``score`` tells one sample's value without adding it; ``compute`` is one number over all samples and processes.

In a ``torchmetrics.MetricCollection`` pass ``compute_groups=False``: it guesses from the first sample which metrics
keep equal sums, and two of ours that both happen to start with 0 would be taken for one.
"""

from lavin.metrics.base import PooledMean, SampleMean, Unavailable, Unscorable
from lavin.metrics.detection import AveragePrecision
from lavin.metrics.edges import EdgeF, EdgeODS, EdgeOIS
from lavin.metrics.geometry import (
    AbsRel,
    AngleBelow,
    AngularRMSE,
    Delta,
    Delta1,
    DepthMSE,
    DepthRMSE,
    Log10,
    MeanAngularError,
    MedianAngularError,
)
from lavin.metrics.keypoints import PCK, MeanOKS
from lavin.metrics.optical_flow import EndPointError, FlowOutliers
from lavin.metrics.panoptic import PanopticQuality
from lavin.metrics.perceptual import FID, KID, LPIPS
from lavin.metrics.regions import (
    BoxIoU,
    FBIoU,
    ForegroundIoU,
    InstanceIoU,
    MaskIoU,
    MeanIoU,
    OverallIoU,
    PrecisionAt,
)
from lavin.metrics.restoration import MSE, PSNR, SSIM, ImageNetMSE
from lavin.metrics.video import VideoF, VideoJ, VideoJF, WarpError

__all__ = [
    "FID",
    "KID",
    "LPIPS",
    "MSE",
    "PCK",
    "PSNR",
    "SSIM",
    "AbsRel",
    "AngleBelow",
    "AngularRMSE",
    "AveragePrecision",
    "BoxIoU",
    "Delta",
    "Delta1",
    "DepthMSE",
    "DepthRMSE",
    "EdgeF",
    "EdgeODS",
    "EdgeOIS",
    "EndPointError",
    "FBIoU",
    "FlowOutliers",
    "ForegroundIoU",
    "ImageNetMSE",
    "InstanceIoU",
    "Log10",
    "MaskIoU",
    "MeanAngularError",
    "MeanIoU",
    "MeanOKS",
    "MedianAngularError",
    "OverallIoU",
    "PanopticQuality",
    "PooledMean",
    "PrecisionAt",
    "SampleMean",
    "Unavailable",
    "Unscorable",
    "VideoF",
    "VideoJ",
    "VideoJF",
    "WarpError",
]
