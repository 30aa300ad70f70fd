"""How much of a context's arithmetic is repeated at every sampling step: the settings behind ``--speed``."""

from __future__ import annotations

from dataclasses import dataclass

from lavin.errors import InputError
from lavin.suggest import unknown


@dataclass(frozen=True)
class Speed:
    """What is computed once instead of at every call of the network.

    Args:
        cached: a ``causal`` model encodes the condition once; that changes nothing but rounding.
        refresh: a ``full`` model computes the condition anew every so many calls and attends to its last keys and
            values in between; 1 is exact, None is only at the first call.
        guidance_interval: flow times between which guidance is applied; outside, the pass without context is spared.
        num_inference_steps: points of the time grid, where neither the call nor the model says how many.
    """

    cached: bool = True
    refresh: int | None = 1
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    num_inference_steps: int = 20

    def __post_init__(self):
        low, high = self.guidance_interval
        if self.refresh is not None and self.refresh < 1:
            raise InputError(f"refresh is {self.refresh}; it must be at least 1, or None for only at the first call")
        if not 0 <= low <= high <= 1:
            raise InputError(
                f"guidance_interval is {self.guidance_interval}; two times are needed, 0 <= low <= high <= 1"
            )


EXACT = Speed()
"""The result of ``exact`` but for rounding, with a causal model's condition encoded once."""
SPEEDS = {
    "exact": Speed(cached=False),
    "default": Speed(refresh=10, guidance_interval=(0.0, 0.2), num_inference_steps=14),
    "fast": Speed(refresh=None, guidance_interval=(0.0, 0.2), num_inference_steps=6),
}
"""``default`` is the fastest that costs no task of the suite ``scenes`` one per cent of its metric: docs/speed.md."""


def find_speed(speed: str | Speed) -> Speed:
    """A speed by its name, or as it is.

    Raises:
        InputError: unknown name; the nearest is suggested.
    """
    if isinstance(speed, Speed):
        return speed
    if speed not in SPEEDS:
        raise InputError(unknown("speed", speed, SPEEDS))
    return SPEEDS[speed]
