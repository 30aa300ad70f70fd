"""Pictures for people: rows of equally large images in one frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.utils import make_grid

from lavin.data.mixture import Episode
from lavin.pictures import to_uint8
from lavin.pipeline import LavinPipeline

PANEL_STEPS = 10
"""Points of the time grid: a panel shows what training does, quickly."""


def grid(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Rows of uint8 pictures (3, height, width), all of one size -> one picture with narrow white borders."""
    pictures = torch.stack([picture for row in rows for picture in row])
    return make_grid(pictures, nrow=len(rows[0]), padding=2, pad_value=255)


def panel(pipeline: LavinPipeline, episodes: list[Episode], guidance_scale: float) -> Tensor:
    """Rows of context | query | prediction | truth."""
    rows = []
    for episode in episodes:
        out = pipeline(
            context=episode.pairs,
            query=episode.query.input,
            num_inference_steps=PANEL_STEPS,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        )
        clips = [clip for pair in episode.pairs for clip in pair]
        shown = [*clips, episode.query.input, out.images[0], episode.target]
        rows.append([to_uint8(clip)[:, 0] for clip in shown])
    return grid(rows)
