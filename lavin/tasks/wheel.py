"""FLOW: optical flow as colours of the Middlebury wheel. Angle is hue, length is saturation, still is white.

Flow is (u right, v down) in pixels, float32 (2, frames, height, width), NaN = invalid.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lavin.tasks.codes import clip_from_levels, levels_from_clip

ARCS = (("red", "yellow", 15), ("yellow", "green", 6), ("green", "cyan", 4), ("cyan", "blue", 11)) + (
    ("blue", "magenta", 13),
    ("magenta", "red", 6),
)
"""The wheel's 55 hues: how many lead from one corner of the colour cube to the next."""
CORNERS = {
    "red": (255, 0, 0),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
    "blue": (0, 0, 255),
    "magenta": (255, 0, 255),
}


@lru_cache
def wheel() -> Tensor:
    """The 55 colours, float32 (55, 3) in whole levels, truncated as in the original; hue 0 shows flow to the right."""
    colours = []
    for start, end, count in ARCS:
        start, end = (torch.tensor(CORNERS[name]) for name in (start, end))
        step = torch.arange(count).unsqueeze(1)
        moved = (255 * step / count).floor() * (end - start).sign()
        colours.append(start + moved)
    return torch.cat(colours).float()


def wheel_position(flow: Tensor) -> Tensor:
    """Where each direction lies on the wheel, 0 ... 54: angle = atan2(-v, -u), position = (angle / pi + 1) / 2 * 54.

    Positions 0 and 54 both mean flow to the right; the original's wheel has that seam.
    """
    return (torch.atan2(-flow[1], -flow[0]) / torch.pi + 1) / 2 * (len(wheel()) - 1)


def encode_flow(flow_px: Tensor, radius_px: float) -> Tensor:
    """FLOW: (2, frames, height, width) -> clip; flow longer than the radius is drawn as if as long as it.

        colour = 1 - min(|flow| / radius, 1) * (1 - hue)

    Args:
        flow_px: u right, v down; NaN = invalid, drawn black.
        radius_px: the length that is drawn fully saturated.
    """
    invalid = ~flow_px.isfinite().all(0)
    flow = flow_px.masked_fill(invalid, 0)
    table = wheel().to(flow.device)
    position = wheel_position(flow)
    before = position.long().clamp(max=len(table) - 2)
    hue = torch.lerp(table[before], table[before + 1], (position - before).unsqueeze(-1)) / 255
    saturation = (torch.hypot(*flow) / radius_px).clamp(max=1).unsqueeze(-1)  # norm(dim=0) takes 60 times as long
    colour = 1 - saturation * (1 - hue)
    return clip_from_levels((255 * colour).masked_fill(invalid.unsqueeze(-1), 0).permute(3, 0, 1, 2))


def decode_flow(clip: Tensor, radius_px: float) -> Tensor:
    """Flow in pixels, float32 (2, frames, height, width), NaN where the brightest channel is below half: black.

    The nearest point of the wheel gives the angle, the saturation the length. Every colour of the wheel has one channel
    at 0 and one at 255, so that the nearest point is known in closed form: it has the same hue. Off by 0.7 % of the
    radius at most on whole levels.
    """
    levels = levels_from_clip(clip)
    high, low = levels.amax(0), levels.amin(0)
    saturation = 1 - low / high.clamp(min=1)
    angle = (2 * _position_of_hue(hue_of(levels)) / (len(wheel()) - 1) - 1) * torch.pi
    flow = -saturation * radius_px * torch.stack([angle.cos(), angle.sin()])
    return flow.masked_fill(high < 127.5, torch.nan)


def hue_of(levels: Tensor) -> Tensor:
    """Hue in [0, 6) of levels (3, ...): red 0, yellow 1, green 2, cyan 3, blue 4, magenta 5; 0 where grey."""
    red, green, blue = levels
    high, low = levels.amax(0), levels.amin(0)
    spread = (high - low).clamp(min=1e-6)
    hue = torch.where(
        high == red,
        (green - blue) / spread % 6,
        torch.where(high == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    return torch.where(high == low, 0, hue)


def _position_of_hue(hue: Tensor) -> Tensor:
    """Position 0 ... 54 on the wheel of a hue in [0, 6): linear between neighbours, as the colours are."""
    knots = hue_of(wheel().T).to(hue.device)  # rises from 0 to just below 6
    before = (torch.bucketize(hue, knots, right=True) - 1).clamp(0, len(knots) - 2)
    position = before + (hue - knots[before]) / (knots[before + 1] - knots[before])
    beyond = hue > knots[-1]  # in the seam, where no flow is drawn: the nearer end
    return torch.where(beyond, torch.where(hue < (knots[-1] + 6) / 2, len(knots) - 1.0, 0.0), position)
