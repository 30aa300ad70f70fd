"""J-DiT, the joint diffusion transformer: velocity of the target latents, given condition latents and t.

Two streams of tokens, condition (clean context and query) and target (noisy), each with its own weights; they
meet in attention only. Source: LaVin-DiT (CVPR 2025), with the layout of the authors' released checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from lavin.models.attention import attend, check_backend
from lavin.models.rope import Rope, coordinates, rotate, rotation

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

    def modulation(self, timestep: Tensor) -> AdaRN:
        """AdaRN has scales and gates and no shifts; gates pass through tanh (release)."""
        attention_scale, attention_gate, mlp_scale, mlp_gate = self.adarn(F.silu(timestep)).chunk(4, dim=-1)
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
            condition_t, target_t: embedded timesteps, (batch, 1 or tokens, hidden_size).
            layout: where tokens stand and who sees whom.
        """
        if layout.condition_mask is not None:
            condition, cached = self.forward_condition(condition, condition_t, layout)
            return condition, self.forward_target(target, target_t, cached, layout)
        c, x = self.condition.modulation(condition_t), self.target.modulation(target_t)
        of_condition = self.condition.project(condition, c, layout.condition_rope)
        of_target = self.target.project(target, x, layout.target_rope)
        q, k, v = (torch.cat(parts, dim=1) for parts in zip(of_condition, of_target, strict=True))
        attended = attend(q, k, v, backend=self.backend)
        seen_by_condition, seen_by_target = attended.split([condition.shape[1], target.shape[1]], dim=1)
        if not self.last:
            condition = self.condition.update(condition, seen_by_condition, c)
        return condition, self.target.update(target, seen_by_target, x)

    def forward_condition(
        self, condition: Tensor, timestep: Tensor, layout: Layout
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Causal mode: the condition never sees a target, so it runs alone; also its keys and values."""
        adarn = self.condition.modulation(timestep)
        q, k, v = self.condition.project(condition, adarn, layout.condition_rope)
        if not self.last:
            attended = attend(q, k, v, layout.condition_mask, self.backend)
            condition = self.condition.update(condition, attended, adarn)
        return condition, (k, v)

    def forward_target(self, target: Tensor, timestep: Tensor, cached: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        """Causal mode: targets see the condition's keys and values, and each one itself."""
        adarn = self.target.modulation(timestep)
        q, *own = self.target.project(target, adarn, layout.target_rope)
        k, v = (torch.cat(parts, dim=1) for parts in zip(cached, own, strict=True))
        return self.target.update(target, attend(q, k, v, layout.target_mask, self.backend), adarn)


@dataclass
class Layout:
    """Where tokens stand in (t, y, x), and who sees whom: masks are bool, True where a query (row) sees a key.

    ``condition_mask`` (condition, condition) is None in ``full`` mode; ``target_mask`` (target, condition + target)
    is None where every target token sees everything.
    """

    condition_rope: Rope
    target_rope: Rope
    condition_mask: Tensor | None = None
    target_mask: Tensor | None = None


@dataclass
class ConditionCache:
    """Every layer's keys and values of a condition, (batch, tokens, kv_heads, head_dim); causal models only."""

    layers: list[tuple[Tensor, Tensor]]
    frames: int
    """Latent frames of the condition."""


def causal_masks(
    clip_frames: Sequence[int], targets: int, target_frames: int, patches: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Who sees whom with a causal context (parallel targets): see the table in ``JDiT``.

    Args:
        clip_frames: latent frames of every condition clip: input 1, target 1, input 2, ...
        targets: how many noised targets, those of the condition's last ``targets`` inputs.
        target_frames: latent frames of each.
        patches: tokens of a latent frame.

    Returns:
        condition mask, and target mask or None where everything is visible to it.
    """
    clip = torch.arange(len(clip_frames), device=device)
    clip = clip.repeat_interleave(torch.tensor(clip_frames, device=device) * patches)
    condition_mask = clip[:, None] >= clip[None]
    inputs = (len(clip_frames) + 1) // 2
    own = torch.arange(targets, device=device).repeat_interleave(target_frames * patches)
    last_seen = 2 * (inputs - targets + own)
    target_mask = torch.cat((last_seen[:, None] >= clip[None], own[:, None] == own[None]), dim=1)
    return condition_mask, None if targets == 1 and len(clip_frames) % 2 else target_mask


class JDiT(ModelMixin, ConfigMixin):
    """Joint diffusion transformer (paper, J-DiT): predicts the velocity ``data - noise`` of target latents.

    Two modes of attention share all weights and shapes:

    - ``full``: everything sees everything (the paper).
    - ``causal``: clips of the condition, x1 y1 x2 y2 ..., see themselves and the clips before them; the noised
      target of pair i sees the pairs before i, input i and itself. Nothing in the condition then depends on the
      target or on t: it can be computed once (``encode_condition``), and one sequence can train the targets of all
      its pairs in parallel.

    Args:
        latent_channels: channels of the ST-VAE's latent.
        patch_size: side of the square of latents that makes one token.
        hidden_size, num_layers, num_heads: sizes of the transformer; hidden_size / num_heads must be even.
        num_kv_heads: key/value heads, a divisor of num_heads; None for as many as heads.
        sandwich_norm: RMSNorm after attention and after the SwiGLU too.
        drop_path: rate of the last block, falling linearly to 0 at the first.
        timestep_scale: factor of t before its sinusoids; 1 in the release.
        attention: ``full`` or ``causal``.
        attention_backend: ``sdpa``, or on CUDA ``flash`` or ``xformers``.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["JDiTBlock"]

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        patch_size: int = 2,
        hidden_size: int = 256,
        num_layers: int = 6,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        sandwich_norm: bool = True,
        drop_path: float = 0.0,
        timestep_scale: float = 1.0,
        attention: str = "full",
        attention_backend: str = "sdpa",
    ):
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        check_sizes(hidden_size, num_heads, num_kv_heads, attention)
        check_backend(attention_backend)
        token_size = latent_channels * patch_size**2
        self.condition_embedding = nn.Sequential(nn.Linear(token_size, hidden_size), nn.LayerNorm(hidden_size))
        self.target_embedding = nn.Sequential(nn.Linear(token_size, hidden_size), nn.LayerNorm(hidden_size))
        self.timestep_embedding = TimestepEmbedding(hidden_size, timestep_scale)
        self.condition_stream = nn.Parameter(torch.empty(1, hidden_size))
        self.target_stream = nn.Parameter(torch.empty(1, hidden_size))
        rates = [drop_path * layer / max(num_layers - 1, 1) for layer in range(num_layers)]
        self.blocks = nn.ModuleList(
            JDiTBlock(
                hidden_size, num_heads, num_kv_heads, sandwich_norm, rate, attention_backend, layer == num_layers - 1
            )
            for layer, rate in enumerate(rates)
        )
        self.out_scale = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, token_size)
        self.gradient_checkpointing = False
        self.initialize()

    def initialize(self) -> None:
        """Xavier-uniform linears, N(0, 0.02) embeddings; zero AdaRN and output, so that a fresh block is the identity
        and a fresh model predicts zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (
            self.condition_stream,
            self.target_stream,
            self.timestep_embedding.hidden.weight,
            self.timestep_embedding.out.weight,
        ):
            nn.init.normal_(embedding, std=0.02)
        zeroed = [stream.adarn for block in self.blocks for stream in (block.condition, block.target)]
        for layer in [*zeroed, self.out_scale, self.out]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        noisy_target: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        *,
        cache: ConditionCache | None = None,
        clip_frames: Sequence[int] | None = None,
    ) -> Tensor:
        """Velocity of the targets.

        Args:
            noisy_target: (batch, channels, targets * frames, height, width).
            t: flow time in [0, 1], 0 noise, 1 data: (batch,) for one target, or (batch, targets) for the targets of
                the condition's last inputs in parallel (``causal`` only).
            condition: clean latents, (batch, channels, all frames, height, width).
            cache: instead of a condition, what ``encode_condition`` made of it (``causal`` only).
            clip_frames: latent frames of every condition clip; by default as many as a target has.

        Returns:
            Velocity in the shape of ``noisy_target``.

        Raises:
            ValueError: inputs that do not fit each other or the model.
        """
        targets = 1 if t.ndim == 1 else t.shape[1]
        self.check_inputs(noisy_target, t, condition, cache)
        frames, height, width = noisy_target.shape[2:]
        frames //= targets
        target = self.target_embedding(patchify(noisy_target.to(self.dtype), self.config.patch_size))
        timestep = self.timestep_embedding(t) + self.target_stream
        target_t = timestep[:, None] if t.ndim == 1 else timestep.repeat_interleave(target.shape[1] // targets, dim=1)
        if cache is not None:
            layout = self.layout(noisy_target, targets, cache.frames, None)
            for block, cached in zip(self.blocks, cache.layers, strict=True):
                target = block.forward_target(target, target_t, cached, layout)
        else:
            layout = self.layout(
                noisy_target, targets, condition.shape[2], clip_frames or equal_clips(condition, frames)
            )
            tokens, condition_t = self.embed_condition(condition, t)
            for block in self.blocks:
                tokens, target = self.run(block, tokens, target, condition_t, target_t, layout)
        # One scale a target, not a token: targets of one sequence differ in t.
        scale = 1 + self.out_scale(F.silu(target_t))
        velocity = self.out(rms_norm(target) * scale)
        return unpatchify(velocity, self.config.patch_size, noisy_target.shape[2], height, width)

    def encode_condition(self, condition: Tensor, clip_frames: Sequence[int] | None = None) -> ConditionCache:
        """Keys and values of a condition, which serve any t and any noise (``causal`` models only, exact).

        Args:
            condition: clean latents, (batch, channels, frames, height, width).
            clip_frames: latent frames of every clip; by default 1 (images).

        Raises:
            ValueError: the model's attention is ``full``: its condition depends on the target.
        """
        if self.config.attention != "causal":
            raise ValueError("only a model with attention='causal' can encode its condition once; this one is 'full'")
        layout = self.layout(condition[:, :, :1], 1, condition.shape[2], clip_frames or [1] * condition.shape[2])
        tokens, timestep = self.embed_condition(condition, condition.new_ones(condition.shape[0]))
        layers = []
        for block in self.blocks:
            tokens, cached = block.forward_condition(tokens, timestep, layout)
            layers.append(cached)
        return ConditionCache(layers, condition.shape[2])

    def embed_condition(self, condition: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the condition and its embedded timestep: the target's t in ``full`` mode, 1 in ``causal``."""
        tokens = self.condition_embedding(patchify(condition.to(self.dtype), self.config.patch_size))
        t = t if self.config.attention == "full" else t.new_ones(t.shape[0])
        return tokens, (self.timestep_embedding(t) + self.condition_stream)[:, None]

    def layout(
        self, noisy_target: Tensor, targets: int, condition_frames: int, clip_frames: Sequence[int] | None
    ) -> Layout:
        """Coordinates of all tokens, and the causal masks unless attention is ``full`` or the condition is cached.

        A clip starts where those before it end; the noised target of pair i stands where its clean target does.
        """
        height, width = (size // self.config.patch_size for size in noisy_target.shape[3:])
        frames, device = noisy_target.shape[2] // targets, noisy_target.device
        head_dim = self.config.hidden_size // self.config.num_heads
        condition_rope = rotation(coordinates(0, condition_frames, height, width, device), head_dim)
        starts = [condition_frames]
        if clip_frames is not None and self.config.attention == "causal":
            if sum(clip_frames) != condition_frames:
                raise ValueError(
                    f"clip_frames add up to {sum(clip_frames)}, the condition has {condition_frames} frames"
                )
            inputs = (len(clip_frames) + 1) // 2
            if targets > inputs:
                raise ValueError(f"{targets} parallel targets need as many inputs, the condition has {inputs}")
            starts = [sum(clip_frames[: 2 * i + 1]) for i in range(inputs - targets, inputs)]
        spans = [coordinates(start, frames, height, width, device) for start in starts]
        layout = Layout(condition_rope, rotation(torch.cat(spans), head_dim))
        if self.config.attention == "causal" and clip_frames is not None:
            masks = causal_masks(clip_frames, targets, frames, height * width, device)
            layout.condition_mask, layout.target_mask = masks
        return layout

    def run(self, block: JDiTBlock, *args) -> tuple[Tensor, Tensor]:
        """A block, its activations recomputed in the backward pass where gradient checkpointing is on."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    def check_inputs(
        self, noisy_target: Tensor, t: Tensor, condition: Tensor | None, cache: ConditionCache | None
    ) -> None:
        channels, patch = self.config.latent_channels, self.config.patch_size
        if (condition is None) == (cache is None):
            raise ValueError("give either a condition or the cache of one")
        if self.config.attention == "full" and (cache is not None or t.ndim != 1):
            raise ValueError(
                "a model with attention='full' takes no cache and one target a sequence: t of shape (batch,)"
            )
        latents = {"noisy_target": noisy_target} | ({} if condition is None else {"condition": condition})
        for name, latent in latents.items():
            if latent.ndim != 5 or latent.shape[1] != channels:
                raise ValueError(
                    f"{name} is {tuple(latent.shape)}; (batch, {channels}, frames, height, width) is needed"
                )
            if latent.shape[3] % patch or latent.shape[4] % patch:
                raise ValueError(f"{name} is {tuple(latent.shape)}; height and width must be multiples of {patch}")
        if condition is not None and condition.shape[3:] != noisy_target.shape[3:]:
            raise ValueError(
                f"condition {tuple(condition.shape)} and target {tuple(noisy_target.shape)} differ in size"
            )
        if t.shape[0] != noisy_target.shape[0] or (t.ndim == 2 and noisy_target.shape[2] % t.shape[1]):
            raise ValueError(f"t is {tuple(t.shape)}, which does not fit a target of {tuple(noisy_target.shape)}")


def equal_clips(condition: Tensor, frames: int) -> list[int]:
    """Frames of each condition clip where all are as long as a target."""
    if condition.shape[2] % frames:
        raise ValueError(
            f"a condition of {condition.shape[2]} frames is no whole number of {frames}-frame clips; give clip_frames"
        )
    return [frames] * (condition.shape[2] // frames)


def check_sizes(hidden_size: int, num_heads: int, num_kv_heads: int, attention: str) -> None:
    """Refuse sizes that cannot make a J-DiT."""
    if attention not in ("full", "causal"):
        raise ValueError(f"attention is '{attention}'; it must be 'full' or 'causal'")
    if hidden_size % num_heads or hidden_size // num_heads % 2:
        raise ValueError(f"hidden_size {hidden_size} / num_heads {num_heads} must be a whole even head dimension")
    if num_heads % num_kv_heads:
        raise ValueError(f"num_kv_heads {num_kv_heads} must divide num_heads {num_heads}")
