"""Metrics: ``torchmetrics.Metric`` classes whose ``update(prediction, truth)`` scores one sample."""

from lavin.metrics.base import SampleMean
from lavin.metrics.geometry import AbsRel, AngleBelow, Delta1, EdgeF, MeanAngularError
from lavin.metrics.regions import BoxIoU, InstanceIoU, MaskIoU, MeanIoU
from lavin.metrics.restoration import MSE, PSNR

__all__ = [
    "MSE",
    "PSNR",
    "AbsRel",
    "AngleBelow",
    "BoxIoU",
    "Delta1",
    "EdgeF",
    "InstanceIoU",
    "MaskIoU",
    "MeanAngularError",
    "MeanIoU",
    "SampleMean",
]
