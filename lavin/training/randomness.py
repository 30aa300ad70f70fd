"""Random draws of a run: pure functions of seed, step and rank, so that a resumed run is the same run."""

from __future__ import annotations

import numpy as np
import torch


def numpy_rng(seed: int, step: int, rank: int) -> np.random.Generator:
    """What draws the data of one step on one rank: a pure function of the three, so that a resumed run is the same."""
    return np.random.default_rng((seed, step, rank))


def torch_rng(seed: int, step: int, rank: int, device: torch.device | str = "cpu") -> torch.Generator:
    """What draws timesteps and noise of one step on one rank."""
    word = int(np.random.SeedSequence((seed, step, rank, 1)).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(word)
