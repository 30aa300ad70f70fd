"""The numbers that benchmarks print, by name: a metric, at which size, over which pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lavin import metrics
from lavin.data.mixture import Episode
from lavin.errors import InputError
from lavin.evaluation.baselines import paste_known
from lavin.evaluation.episodes import Score, read_and_truth
from lavin.evaluation.framing import window
from lavin.metrics.base import SampleMean
from lavin.metrics.geometry import angles_deg
from lavin.suggest import unknown

NYU_FAR_M = 10.0
"""Depths from here on are not scored."""
VOID = 255
SIDE_OF_PAINTER = 111
"""Side at which the visual-prompting evaluation compares masks (Bar et al. 2022)."""

Compare = Callable[[Tensor, Episode], tuple[Any, Any]]


def at_native_size(clip: Tensor, episode: Episode) -> tuple[Any, Any]:
    """The label read at the model's size, brought to the picture's own, and the truth there."""
    task, definition, original = episode.task, episode.definition, episode.original
    label = task.read(clip, definition)
    return task.resize(label, original.size[1:]), task.label(original, definition)


def cropped_depth(clip: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
    """As ``at_native_size``; depth outside the crop that is scored is unknown."""
    found, truth = at_native_size(clip, episode)
    top, left, height, width = window(episode.scored, *truth.shape[1:])
    kept = torch.full_like(truth, torch.nan)
    inside = (..., slice(top, top + height), slice(left, left + width))
    kept[inside] = truth[inside]
    return found, kept


def photo_masks(clip: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
    """Referring: the mask without its caption's strip, at the photo's own size."""
    task, definition, original = episode.task, episode.definition, episode.original
    found = task.photo_mask(task.read(clip, definition), definition, original.size[1:])
    return found, task.asked(original, definition)[0].mask


def class_ids(clip: Tensor, episode: Episode, void: bool = False) -> tuple[Tensor, Tensor]:
    """Foreground as the few-shot literature pools it: the episode's class from 1, 0 elsewhere, 255 void."""
    found, truth = read_and_truth(clip, episode)
    number = episode.query_sample.instances[0].class_id + 1
    ids = truth.long() * number
    if void and episode.query_sample.semantic is not None:
        ids[episode.query_sample.semantic == VOID] = VOID
    return found.long() * number, ids


def human_boundaries(clip: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
    """Lines at the photo's own size, and what people drew there: by each where that is known, else by any."""
    task, original = episode.task, episode.original
    found = task.resize(task.read(clip, episode.definition), original.size[1:])
    return found, original.boundaries > 0 if original.drawings is None else original.drawings


class IoUWithoutVoid(SampleMean):
    """Mean over episodes of the foreground's IoU without void pixels; ``update`` takes what ``ForegroundIoU`` does."""

    higher_is_better = True

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        counted = truth != VOID
        return metrics.MaskIoU().score(prediction[counted] > 0, truth[counted] > 0)


def small_masks(clip: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
    """Foreground at 111 pixels: the picture resized by bicubic, then the nearer of the two colours; so is the truth."""
    task, definition = episode.task, episode.definition

    def small(picture: Tensor) -> Tensor:
        side = (SIDE_OF_PAINTER, SIDE_OF_PAINTER)
        frames = torch.nn.functional.interpolate(picture.transpose(0, 1), side, mode="bicubic", antialias=True)
        return task.read(frames.transpose(0, 1).clamp(-1, 1), definition)

    return small(clip), small(episode.target)


def composite(clip: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
    """Inpainting: what is predicted inside the hole, the known pixels around it."""
    return read_and_truth(paste_known(clip, episode), episode)


class AnglePerPicture(SampleMean):
    """Mean over pictures of a picture's mean angle in degrees (Ke et al. 2024), where DSINE pools all pixels."""

    higher_is_better = False

    def score(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return angles_deg(prediction, truth).mean()


def depth(metric: Callable[..., Any], **options: Any) -> Score:
    """A score of NYUv2's depth; who predicts depth itself is aligned there."""
    new = partial(metric, max_depth_m=NYU_FAR_M, **options)
    return Score("", new, cropped_depth, of_depth=partial(new, space="depth"))


THRESHOLDS_DEG = (5, 7.5, 11.25, 22.5, 30)
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)


def pictures(compare: Compare = read_and_truth) -> dict[str, Score]:
    """Scores of pictures as such."""
    return {
        "MSE (ImageNet std)": Score("", metrics.ImageNetMSE, compare),
        "MSE": Score("", metrics.MSE, compare),
        "PSNR": Score("", metrics.PSNR, compare),
        "SSIM": Score("", metrics.SSIM, compare),
        "PSNR (Y)": Score("", partial(metrics.PSNR, on_luma=True), compare),
        "SSIM (Y)": Score("", partial(metrics.SSIM, on_luma=True), compare),
        "LPIPS (alex)": Score("", metrics.LPIPS, compare),
        "LPIPS (vgg)": Score("", partial(metrics.LPIPS, backbone="vgg"), compare),
        "FID": Score("", metrics.FID, compare),
        "KID": Score("", metrics.KID, compare),
    }


MEASURES: dict[str, dict[str, Score]] = {
    "foreground": {
        "mIoU": Score("", metrics.MaskIoU),
        "mIoU without void": Score("", IoUWithoutVoid, partial(class_ids, void=True)),
        "mIoU at 111": Score("", metrics.MaskIoU, small_masks),
        "class mIoU": Score("", metrics.ForegroundIoU, class_ids),
        "FB-IoU": Score("", metrics.FBIoU, class_ids),
    },
    "detection": {"mIoU": Score("", metrics.BoxIoU)},
    "depth": {
        "AbsRel": depth(metrics.AbsRel),
        "delta1": depth(metrics.Delta1),
        "MSE (m²)": depth(metrics.DepthMSE),
        "RMSE (m)": depth(metrics.DepthRMSE),
    },
    "normals": {
        "mean angle": Score("", metrics.MeanAngularError, at_native_size),
        "median angle": Score("", metrics.MedianAngularError, at_native_size),
        "mean angle per picture": Score("", AnglePerPicture, at_native_size),
        **{f"< {t:g}°": Score("", partial(metrics.AngleBelow, t), at_native_size) for t in THRESHOLDS_DEG},
    },
    "edges": {
        "ODS": Score("", partial(metrics.EdgeODS, thresholds=1), human_boundaries),
        "OIS": Score("", partial(metrics.EdgeOIS, thresholds=1), human_boundaries),
        "F1 (1 px)": Score("", metrics.EdgeF),
    },
    "inpainting": pictures() | {f"{name}, composite": score for name, score in pictures(composite).items()},
    "referring_caption": {
        "mIoU": Score("", metrics.MaskIoU, photo_masks),
        "oIoU": Score("", metrics.OverallIoU, photo_masks),
        **{f"P@{x:g}": Score("", partial(metrics.PrecisionAt, x), photo_masks) for x in PRECISIONS},
    },
    **{
        name: pictures()
        for name in ("colorization", "deraining", "demotionblur", "deglassblur", "depth_to_image", "normals_to_image")
    },
}
"""Task -> name -> score."""


def find_measure(task: str, name: str, **options: Any) -> Score:
    """A score by its name.

    Args:
        options: ``first`` and ``published``, see ``Score``.

    Raises:
        InputError: the task has no such score; the nearest is suggested.
    """
    known = MEASURES.get(task, {})
    if name not in known:
        raise InputError(unknown(f"metric of {task}", name, known))
    return replace(known[name], name=name, **options)
