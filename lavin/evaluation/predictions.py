"""A model's answers to episodes, many in one batch, in which every query has pairs of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from lavin import flow
from lavin.data.mixture import Episode
from lavin.evaluation.episodes import Settings
from lavin.models.stvae import pad_frames
from lavin.pipeline import LavinPipeline, draw_noise


def predict(
    pipeline: LavinPipeline,
    episodes: Sequence[Episode],
    generators: Sequence[Generator],
    settings: Settings,
) -> list[Tensor]:
    """Predicted targets, (3, frames, height, width) in [-1, 1]; one batch.

    Args:
        episodes: equally many pairs each, at the pipeline's own size.
        generators: draw the noise, one an episode.
    """
    with inference(pipeline, settings.precision):
        pair_latents = [
            (encode(pipeline, [pair.input for pair in pairs]), encode(pipeline, [pair.target for pair in pairs]))
            for pairs in zip(*(episode.pairs for episode in episodes), strict=True)
        ]
        query_latent = encode(pipeline, [episode.query.input for episode in episodes])
        noise = draw_noise(query_latent, generators, ensemble_size=1, frames=pair_latents[0][1].shape[2])
        grid = flow.time_grid(pipeline.config.time_grid, settings.steps).to(pipeline.device)
        latents = pipeline.solve(pair_latents, query_latent, noise, grid, settings.guidance_scale)
        return pipeline.decode(latents, episodes[0].target.shape[1], ensemble_size=1)


@contextmanager
def inference(pipeline: LavinPipeline, precision: str) -> Iterator[None]:
    """No gradients, and autocast where bfloat16 is asked for."""
    with torch.no_grad(), torch.autocast(pipeline.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def encode(pipeline: LavinPipeline, clips: Sequence[Tensor]) -> Tensor:
    """Latents of equally long clips in one batch, (batch, channels, latent_frames, height / 8, width / 8)."""
    return pipeline.stvae.to_latent(pad_frames(torch.stack(list(clips)).to(pipeline.device))).float()


def reconstruct(pipeline: LavinPipeline, clips: Sequence[Tensor], precision: str) -> list[Tensor]:
    """Clips after a trip through the ST-VAE: no prediction can be better than it lets through."""
    with inference(pipeline, precision):
        return pipeline.decode(encode(pipeline, clips), clips[0].shape[1], ensemble_size=1)
