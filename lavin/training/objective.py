"""What the J-DiT is trained on: the flow-matching loss of sequences of pairs."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from lavin import context, flow


def draw_timesteps(targets: Tensor, pairs: int, causal: bool, generator: torch.Generator | None, mean: float) -> Tensor:
    """t of every target that is trained: (batch, pairs) for causal models, (batch,) for full ones."""
    shape = (len(targets), pairs) if causal else len(targets)
    return flow.draw_timesteps(shape, generator, targets.device, mean)


def sequence_loss(
    model: torch.nn.Module,
    condition: Tensor,
    targets: Tensor,
    t: Tensor,
    pairs: int,
    generator: torch.Generator | None,
    l1_weight: float = 0.0,
    dropped: np.ndarray | None = None,
    teacher: torch.nn.Module | None = None,
    taught: Tensor | None = None,
) -> Tensor:
    """Flow-matching loss of a batch of sequences, one number per target.

    Args:
        condition: x1 y1 ... xn, (batch, channels, all frames, height, width).
        targets: y1 ... yn, (batch, channels, n * frames, height, width).
        t: (batch, pairs) to train all n targets in parallel, as causal models do; (batch,) to train the last one.
        dropped: (batch,) bool, sequences of full models that lose their pairs: their condition is that of guidance,
            ``[one all-zero latent frame, query]``, and so shorter; they make a forward pass of their own.
        teacher: its velocity is what the sequences of ``taught``, (batch,) bool, learn.

    Returns:
        In the shape of t.
    """
    frames = targets.shape[2] // pairs
    clips = context.clip_frames(condition.shape[2], frames, pairs)

    def loss(condition: Tensor, targets: Tensor, t: Tensor, clips: tuple[int, ...], taught: Tensor | None) -> Tensor:
        network = partial(model, clip_frames=clips)
        master = None if teacher is None else partial(teacher, clip_frames=clips)
        return flow.loss(network, condition, targets, t, generator, l1_weight, master, taught)

    if t.ndim == 2:
        return loss(condition, targets, t, clips, taught)
    last = targets[:, :, -frames:]
    if dropped is None or not dropped.any():
        return loss(condition, last, t, clips, taught)
    order, losses = [], []
    for rows, lengths in ((~dropped, clips), (dropped, (1, clips[-1]))):
        chosen = torch.from_numpy(rows.nonzero()[0]).to(t.device)
        if len(chosen):
            seen = condition[chosen]
            if lengths is not clips:
                seen = context.unconditional(seen[:, :, -clips[-1] :])
            losses.append(loss(seen, last[chosen], t[chosen], lengths, taught if taught is None else taught[chosen]))
            order.append(chosen)
    return torch.cat(losses)[torch.cat(order).argsort()]
