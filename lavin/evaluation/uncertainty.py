"""Does an ensemble know where it is wrong? The spread over noises against the error, pixel by pixel.

Errors and spreads are on the scale [0, 1] of pictures; a pixel's error is that of the ensemble's mean, root mean square
over the channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from lavin import flow
from lavin.data.mixture import Episode
from lavin.evaluation.bootstrap import spearman
from lavin.evaluation.episodes import Settings
from lavin.evaluation.nested import nested_caches
from lavin.evaluation.predictions import encode, inference
from lavin.pipeline import LavinPipeline, draw_noise, ensemble_spread

BINS = 10
FRACTIONS = tuple(number / 20 for number in range(20))
"""Shares of a picture's pixels that sparsification leaves out: 0, 5 %, ... 95 %."""


def predict_ensemble(
    pipeline: LavinPipeline,
    episodes: Sequence[Episode],
    generators: Sequence[Generator],
    settings: Settings,
    ensemble_size: int,
) -> list[Tensor]:
    """Every episode's predictions, (ensemble_size, 3, frames, height, width) in [-1, 1]; one batch.

    Member for member those of ``LavinPipeline`` with such an ensemble; pairs are encoded once.

    Args:
        episodes: equally many pairs each, at the pipeline's own size.
        generators: draw the noise, one an episode.
    """
    frames = episodes[0].target.shape[1]
    with inference(pipeline, settings.precision):
        pairs = [
            tuple(encode(pipeline, list(half)) for half in zip(*examples, strict=True))
            for examples in zip(*(episode.pairs for episode in episodes), strict=True)
        ]
        query = encode(pipeline, [episode.query.input for episode in episodes])
        noise = draw_noise(query, generators, ensemble_size, pairs[0][1].shape[2])
        noise = noise.unflatten(0, (len(episodes), ensemble_size))
        grid = flow.time_grid(pipeline.config.time_grid, settings.steps).to(pipeline.device)
        cache = nested_caches(pipeline, pairs, [len(pairs)])[len(pairs)]
        latents = [
            pipeline.solve(pairs, query, noise[:, member], grid, settings.guidance_scale, pairs_cache=cache)
            for member in range(ensemble_size)
        ]
        return list(pipeline.decode_members(torch.stack(latents, 1).flatten(0, 1), frames, ensemble_size))


# --- Calibration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Pixels of about one spread."""

    predicted: float
    """Root mean square error that their spread stands for."""
    observed: float
    """Root mean square of their errors."""
    pixels: int


def predicted_error(spread: np.ndarray, ensemble_size: int) -> np.ndarray:
    """Error to expect of the mean of M members if the truth were one more of them: sqrt(1 + 1 / M) * spread."""
    return math.sqrt(1 + 1 / ensemble_size) * spread


def calibration(predicted: np.ndarray, error: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The predicted against the observed error of equally many pixels a bin, the least spread first.

    Args:
        predicted, error: of the same pixels, of any one shape.
    """
    predicted, error = predicted.ravel(), error.ravel()
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)
    return [
        Bin(root_mean_square(predicted[part]), root_mean_square(error[part]), len(part)) for part in parts if len(part)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """ENCE: mean over bins of |predicted - observed| / predicted (Levi et al. 2022); 0 is calibrated.

    Infinite where a bin without spread has errors.
    """
    found = []
    for one in bins:
        gap = abs(one.predicted - one.observed)
        found.append(gap / one.predicted if one.predicted else math.inf if gap else 0.0)
    return float(np.mean(found))


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


# --- Sparsification ---------------------------------------------------------------------------------------------------


def sparsification(uncertainty: np.ndarray, error: np.ndarray, fractions: Sequence[float] = FRACTIONS) -> np.ndarray:
    """Mean error of what remains when the most uncertain pixels of a picture are left out (Ilg et al. 2018), as a share
    of the mean error of all; NaN where there is no error.

    Pixels of one uncertainty leave together, as a mean over all orders among them.
    """
    order = np.argsort(-uncertainty.ravel(), kind="stable")
    sorted_uncertainty, errors = uncertainty.ravel()[order], error.ravel()[order].astype(np.float64)
    _, start, count = np.unique(-sorted_uncertainty, return_index=True, return_counts=True)
    errors = np.repeat(np.add.reduceat(errors, start) / count, count)
    total = errors.mean()
    if total == 0:
        return np.full(len(fractions), np.nan)
    return np.array([errors[int(fraction * len(errors)) :].mean() for fraction in fractions]) / total


def area(curve: np.ndarray, fractions: Sequence[float] = FRACTIONS) -> float:
    """Area under a curve over the fractions, by trapezia, per unit of their range."""
    return float(np.trapezoid(curve, fractions) / (fractions[-1] - fractions[0]))


# --- One task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Uncertainty:
    """What a task's ensembles knew of their errors."""

    task: str
    queries: int
    ensemble_size: int
    single_rmse: float
    """Of one prediction, the mean over members and queries."""
    rmse: float
    """Of the ensembles' means."""
    predicted_rmse: float
    """What their spread says of it; less than ``rmse`` is too sure."""
    bins: tuple[Bin, ...]
    ence: float
    curve: tuple[float, ...]
    """Sparsification by spread, mean over queries."""
    oracle: tuple[float, ...]
    """Sparsification by the error itself."""
    ause: float
    """Area between the two: 0 is a spread that orders pixels as their errors do."""
    aurg: float
    """Area between leaving pixels out at random, 1 everywhere, and by spread; negative is worse than chance."""
    query_correlation: float
    """Spearman's, over queries, of predicted and observed error: whether it knows which answers are wrong."""


def measure(task: str, members: Sequence[Tensor], truths: Sequence[Tensor]) -> Uncertainty:
    """Compare ensembles with the truth.

    Args:
        members: of every query, (ensemble_size, 3, frames, height, width) in [-1, 1].
        truths: true targets, (3, frames, height, width).
    """
    size = len(members[0])
    predicted = [predicted_error(ensemble_spread(one.double()).numpy(), size) for one in members]
    errors = [pixel_error(one.double().mean(0), truth).numpy() for one, truth in zip(members, truths, strict=True)]
    single = [
        root_mean_square(pixel_error(member.double(), truth).numpy())
        for one, truth in zip(members, truths, strict=True)
        for member in one
    ]
    pairs = list(zip(predicted, errors, strict=True))
    bins = calibration(np.concatenate(predicted), np.concatenate(errors))
    curve = np.nanmean([sparsification(spread, error) for spread, error in pairs], axis=0)
    oracle = np.nanmean([sparsification(error, error) for _, error in pairs], axis=0)
    return Uncertainty(
        task,
        len(members),
        size,
        float(np.mean(single)),
        float(np.mean([root_mean_square(error) for error in errors])),
        float(np.mean([root_mean_square(spread) for spread in predicted])),
        tuple(bins),
        calibration_error(bins),
        tuple(curve.tolist()),
        tuple(oracle.tolist()),
        area(curve) - area(oracle),
        1 - area(curve),
        spearman(*([root_mean_square(values) for values in maps] for maps in (predicted, errors))),
    )


def pixel_error(clip: Tensor, truth: Tensor) -> Tensor:
    """Root mean square over the channels of (clip - truth) / 2: (frames, height, width)."""
    return ((clip - truth) / 2).square().mean(0).sqrt()
