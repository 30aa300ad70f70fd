"""Layers of the J-DiT: patches, norms, timestep embedding, and the joint block of two streams (paper, J-DiT)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from lavin.models.attention import Mask, attend
from lavin.models.rope import Rope, rotate

KeysValues = tuple[Tensor, Tensor]
"""Of one layer: each (batch, tokens, kv_heads, head_dim)."""
NORM_EPS = 1e-6
FREQUENCIES = 128
"""Cosines of the timestep embedding; as many sines follow."""


def rms_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """RMSNorm over channels, computed in float32 at least."""
    precise = torch.promote_types(x.dtype, torch.float32)
    weight = None if weight is None else weight.to(precise)
    return F.rms_norm(x.to(precise), x.shape[-1:], weight, NORM_EPS).to(x.dtype)


def timestep_sinusoids(t: Tensor, timestep_scale: float) -> Tensor:
    """128 cosines, then 128 sines of ``timestep_scale * t * 10000^(-i / 128)``, in float32: (*t.shape, 256)."""
    i = torch.arange(FREQUENCIES, device=t.device, dtype=torch.float32)
    angle = timestep_scale * t.float()[..., None] * torch.exp(-math.log(10000.0) * i / FREQUENCIES)
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def patchify(latent: Tensor, patch: int) -> Tensor:
    """Latent clip to patches, each flattened as (row in patch, column in patch, channel).

    (batch, channels, frames, height, width) -> (batch, frames * height * width / patch², patch² * channels)
    """
    return rearrange(latent, "b c f (h p) (w q) -> b (f h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int, frames: int, height: int, width: int) -> Tensor:
    """Inverse of ``patchify``; height and width are the latent's."""
    return rearrange(
        tokens,
        "b (f h w) (p q c) -> b c f (h p) (w q)",
        f=frames,
        h=height // patch,
        w=width // patch,
        p=patch,
        q=patch,
    )


def per_token(values: Tensor, tokens: int) -> Tensor:
    """Values of each target, (batch, targets, channels), repeated for its tokens; one for all of them is left alone."""
    batch, targets, channels = values.shape
    if targets == 1:
        return values
    return values[:, :, None].expand(-1, -1, tokens // targets, -1).reshape(batch, tokens, channels)


class RMSNorm(nn.Module):
    """RMSNorm with a learned weight, over all heads' channels together (QK-norm of the release)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


class SwiGLU(nn.Module):
    """down(SiLU(gate(x)) * up(x)), no bias; width 64 * floor((8 d / 3) / 64)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        width = 64 * (8 * hidden_size // 3 // 64)
        self.gate = nn.Linear(hidden_size, width, bias=False)
        self.up = nn.Linear(hidden_size, width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class TimestepEmbedding(nn.Module):
    """Sinusoids of t -> Linear -> SiLU -> Linear: (...) -> (..., hidden_size)."""

    def __init__(self, hidden_size: int, timestep_scale: float):
        super().__init__()
        self.timestep_scale = timestep_scale
        self.hidden = nn.Linear(2 * FREQUENCIES, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, t: Tensor) -> Tensor:
        sinusoids = timestep_sinusoids(t, self.timestep_scale)
        return self.out(F.silu(self.hidden(sinusoids.to(self.hidden.weight.dtype))))


@dataclass
class AdaRN:
    """Scales of what enters the sub-layers and gates of what leaves them, each (batch, 1 or tokens, hidden_size)."""

    attention_scale: Tensor
    attention_gate: Tensor
    mlp_scale: Tensor
    mlp_gate: Tensor


class StreamBlock(nn.Module):
    """One stream's weights in a joint block: AdaRN, projections to and from attention, SwiGLU."""

    def __init__(
        self, hidden_size: int, num_heads: int, num_kv_heads: int, sandwich_norm: bool, drop_path: float = 0.0
    ):
        super().__init__()
        self.head_dim = hidden_size // num_heads
        kv_size = num_kv_heads * self.head_dim
        self.adarn = nn.Linear(hidden_size, 4 * hidden_size)
        self.q = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k = nn.Linear(hidden_size, kv_size, bias=False)
        self.v = nn.Linear(hidden_size, kv_size, bias=False)
        self.q_norm = RMSNorm(hidden_size)
        self.k_norm = RMSNorm(kv_size)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.mlp = SwiGLU(hidden_size)
        self.after = rms_norm if sandwich_norm else nn.Identity()
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def modulation(self, timestep: Tensor, tokens: int) -> AdaRN:
        """AdaRN has scales and gates and no shifts; gates pass through tanh (release).

        Args:
            timestep: embedded, (batch, 1, hidden_size), or (batch, targets, hidden_size) for parallel targets.
            tokens: of the stream.
        """
        modulation = per_token(self.adarn(F.silu(timestep)), tokens)
        attention_scale, attention_gate, mlp_scale, mlp_gate = modulation.chunk(4, dim=-1)
        return AdaRN(1 + attention_scale, attention_gate.tanh(), 1 + mlp_scale, mlp_gate.tanh())

    def project(self, tokens: Tensor, adarn: AdaRN, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of this stream, (batch, tokens, heads, head_dim)."""
        x = rms_norm(tokens) * adarn.attention_scale
        q, k, v = self.q_norm(self.q(x)), self.k_norm(self.k(x)), self.v(x)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))
        return rotate(q, rope), rotate(k, rope), v

    def update(self, tokens: Tensor, attended: Tensor, adarn: AdaRN) -> Tensor:
        """Add what attention found, then what the SwiGLU makes of it, both gated."""
        attended = self.after(self.out(attended.flatten(-2)))
        tokens = tokens + self.drop_path(adarn.attention_gate * attended)
        mlp = self.after(self.mlp(rms_norm(tokens) * adarn.mlp_scale))
        return tokens + self.drop_path(adarn.mlp_gate * mlp)


class JDiTBlock(nn.Module):
    """Joint block: two streams with weights of their own, one attention over both (paper, J-DiT)."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        sandwich_norm: bool,
        drop_path: float = 0.0,
        backend: str = "sdpa",
        last: bool = False,
    ):
        super().__init__()
        self.backend = backend
        self.last = last  # nobody reads the condition after the last block: it is not computed
        self.condition = StreamBlock(hidden_size, num_heads, num_kv_heads, sandwich_norm, drop_path)
        self.target = StreamBlock(hidden_size, num_heads, num_kv_heads, sandwich_norm, drop_path)

    def forward(
        self, condition: Tensor, target: Tensor, condition_t: Tensor, target_t: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Refine both streams.

        Args:
            condition: clean context and query tokens, (batch, condition_tokens, hidden_size).
            target: noisy target tokens, (batch, target_tokens, hidden_size).
            condition_t, target_t: embedded timesteps, (batch, 1 or targets, hidden_size).
            layout: where tokens stand and who sees whom.
        """
        return self.forward_caching(condition, target, condition_t, target_t, layout)[:2]

    def forward_caching(
        self, condition: Tensor, target: Tensor, condition_t: Tensor, target_t: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor, KeysValues]:
        """``forward``, and the condition's keys and values."""
        if layout.condition_mask is not None or self.last:  # of the last condition only keys and values are read
            condition, cached = self.forward_condition(condition, condition_t, layout)
            return condition, self.forward_target(target, target_t, [[cached]], layout), cached
        c = self.condition.modulation(condition_t, condition.shape[1])
        x = self.target.modulation(target_t, target.shape[1])
        of_condition = self.condition.project(condition, c, layout.condition_rope)
        of_target = self.target.project(target, x, layout.target_rope)
        q, k, v = (torch.cat(parts, dim=1) for parts in zip(of_condition, of_target, strict=True))
        attended = attend(q, k, v, backend=self.backend)
        seen_by_condition, seen_by_target = attended.split([condition.shape[1], target.shape[1]], dim=1)
        condition = self.condition.update(condition, seen_by_condition, c)
        return condition, self.target.update(target, seen_by_target, x), of_condition[1:]

    def forward_condition(
        self, condition: Tensor, timestep: Tensor, layout: Layout, past: Sequence[KeysValues] = ()
    ) -> tuple[Tensor, KeysValues]:
        """The condition where it sees no target, in causal mode and in the last block; also its own keys and values.

        Args:
            past: keys and values of the clips before these, where those were encoded earlier.
        """
        adarn = self.condition.modulation(timestep, condition.shape[1])
        q, *own = self.condition.project(condition, adarn, layout.condition_rope)
        if not self.last:
            k, v = joined([*past, own])
            condition = self.condition.update(condition, attend(q, k, v, layout.condition_mask, self.backend), adarn)
        return condition, tuple(own)

    def forward_target(
        self, target: Tensor, timestep: Tensor, cached: Sequence[Sequence[KeysValues]], layout: Layout
    ) -> Tensor:
        """Targets see the keys and values of their condition, and each one itself.

        Args:
            cached: of one condition, in one part or several; or of several conditions, for equal parts of the batch.
        """
        adarn = self.target.modulation(timestep, target.shape[1])
        projected = self.target.project(target, adarn, layout.target_rope)
        attended = []
        for seen, q, *own in zip(cached, *(part.chunk(len(cached)) for part in projected), strict=True):
            attended.append(attend(q, *joined([*seen, own]), layout.target_mask, self.backend))
        return self.target.update(target, torch.cat(attended), adarn)


def joined(parts: Sequence[KeysValues]) -> KeysValues:
    """Parts of a sequence as one; a part of batch 1 is shared by all of the batch."""
    batch = max(len(k) for k, _ in parts)
    keys, values = zip(*parts, strict=True)
    return tuple(torch.cat([part.expand(batch, -1, -1, -1) for part in half], dim=1) for half in (keys, values))


@dataclass
class Layout:
    """Where tokens stand in (t, y, x), and who sees whom: masks as ``attend`` takes them.

    ``condition_mask`` (condition, past + condition) is None where all is visible, as in ``full`` mode; likewise
    ``target_mask`` (target, condition + target).
    """

    condition_rope: Rope
    target_rope: Rope
    condition_mask: Mask | None = None
    target_mask: Mask | None = None
