"""J-DiT, the joint diffusion transformer: velocity of the target latents, given condition latents and t.

Two streams of tokens, condition (clean context and query) and target (noisy), each with its own weights; they
meet in attention only. Source: LaVin-DiT (CVPR 2025), with the layout of the authors' released checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from lavin.models.attention import FLEX, BlockMask, Spans, block_sparse, check_backend, spans
from lavin.models.jdit_layers import (
    JDiTBlock,
    KeysValues,
    Layout,
    TimestepEmbedding,
    joined,
    patchify,
    per_token,
    rms_norm,
    unpatchify,
)
from lavin.models.rope import Rope, coordinates, rotation

PART_TOKENS = 256
"""A condition is encoded in parts of about so many tokens: nearly half of the attention would be masked otherwise."""


@dataclass
class ConditionCache:
    """Every layer's keys and values of a condition, or of the part of one that follows ``past``.

    Args:
        layers: keys and values, each (batch, tokens, kv_heads, head_dim); a part of batch 1 serves any batch.
        frames: latent frames of this part.
        past: the clips before; shared, not copied, by all that continue it.
    """

    layers: list[KeysValues]
    frames: int
    past: ConditionCache | None = None

    @property
    def all_frames(self) -> int:
        """Latent frames of the whole condition."""
        return self.frames + (self.past.all_frames if self.past else 0)

    def parts(self, layer: int) -> list[KeysValues]:
        """One layer's keys and values, part after part."""
        return [*(self.past.parts(layer) if self.past else []), self.layers[layer]]


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


@lru_cache(maxsize=32)
def causal_block_masks(*sizes) -> tuple[BlockMask, BlockMask | None]:
    """``causal_masks`` for FlexAttention; made once for sequences of one shape, since that takes longer than a step."""
    return tuple(mask if mask is None else block_sparse(mask) for mask in causal_masks(*sizes))


@lru_cache(maxsize=32)
def causal_spans(*sizes) -> tuple[Spans, Spans | None]:
    """``causal_masks`` as what they leave visible: of 9 pairs trained in parallel two fifths of all scores."""
    return tuple(mask if mask is None else spans(mask) for mask in causal_masks(*sizes))


class JDiT(ModelMixin, ConfigMixin):
    """Joint diffusion transformer (paper, J-DiT): predicts the velocity ``data - noise`` of target latents.

    Two modes of attention share all weights and shapes:

    - ``full``: everything sees everything (the paper).
    - ``causal``: clips of the condition, x1 y1 x2 y2 ..., see themselves and the clips before them; the noised
      target of pair i sees the pairs before i, input i and itself. Nothing in the condition then depends on the
      target or on t: it can be computed once (``encode_condition``), and one sequence can train the targets of all
      its pairs in parallel.

    In ``full`` mode the condition's keys and values of one call (``return_cache``) may serve the next calls, whose t is
    another: an approximation, since the condition changes little between neighbouring steps.

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

    def use_attention(self, backend: str) -> None:
        """Compute attention with another kernel from now on; what is saved keeps its own.

        Args:
            backend: ``sdpa``, or on CUDA ``flex`` (once the blocks are compiled), ``flash`` or ``xformers``.

        Raises:
            ValueError: unknown, or not to be had here.
        """
        check_backend(backend)
        for block in self.blocks:
            block.backend = backend

    def forward(
        self,
        noisy_target: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        *,
        cache: ConditionCache | Sequence[ConditionCache] | None = None,
        clip_frames: Sequence[int] | None = None,
        return_cache: bool = False,
    ) -> Tensor | tuple[Tensor, ConditionCache]:
        """Velocity of the targets.

        Args:
            noisy_target: (batch, channels, targets * frames, height, width).
            t: flow time in [0, 1], 0 noise, 1 data: (batch,) for one target, or (batch, targets) for the targets of
                the condition's last inputs in parallel (``causal`` only).
            condition: clean latents, (batch, channels, all frames, height, width).
            cache: instead of a condition, what ``encode_condition`` or an earlier call made of it; several serve equal
                parts of the batch, one after another, as guidance needs it.
            clip_frames: latent frames of every condition clip; by default as many as a target has.
            return_cache: also return the condition's keys and values.

        Returns:
            Velocity in the shape of ``noisy_target``; with ``return_cache`` a tuple of it and the cache.

        Raises:
            ValueError: inputs that do not fit each other or the model.
        """
        targets = 1 if t.ndim == 1 else t.shape[1]
        self.check_inputs(noisy_target, t, condition, cache)
        frames, height, width = noisy_target.shape[2:]
        frames //= targets
        target = self.target_embedding(patchify(noisy_target.to(self.dtype), self.config.patch_size))
        timestep = self.timestep_embedding(t) + self.target_stream
        target_t = timestep[:, None] if t.ndim == 1 else timestep
        if cache is not None:
            caches = [cache] if isinstance(cache, ConditionCache) else cache
            layout = self.cached_layout(noisy_target, caches)
            for number, block in enumerate(self.blocks):
                target = block.forward_target(target, target_t, [part.parts(number) for part in caches], layout)
        else:
            clip_frames = clip_frames or equal_clips(condition, frames)
            layout = self.layout(noisy_target, targets, condition.shape[2], clip_frames)
            tokens, condition_t = self.embed_condition(condition, t)
            cache = ConditionCache([], condition.shape[2])
            for block in self.blocks:
                if return_cache:
                    tokens, target, cached = block.forward_caching(tokens, target, condition_t, target_t, layout)
                    cache.layers.append(cached)
                else:
                    tokens, target = self.run(block, tokens, target, condition_t, target_t, layout)
        scale = per_token(1 + self.out_scale(F.silu(target_t)), target.shape[1])
        velocity = self.out(rms_norm(target) * scale)
        velocity = unpatchify(velocity, self.config.patch_size, noisy_target.shape[2], height, width)
        return (velocity, cache) if return_cache else velocity

    def encode_condition(
        self, condition: Tensor, clip_frames: Sequence[int] | None = None, past: ConditionCache | None = None
    ) -> ConditionCache:
        """Keys and values of a condition, which serve any t and any noise (``causal`` models only, exact).

        Args:
            condition: clean latents, (batch, channels, frames, height, width).
            clip_frames: latent frames of every clip; by default 1 (images).
            past: clips that come before, encoded earlier: a context serves many queries. Of the condition's batch, or
                of batch 1.

        Raises:
            ValueError: the model's attention is ``full``: its condition depends on the target.
        """
        if self.config.attention != "causal":
            raise ValueError("only a model with attention='causal' can encode its condition once; this one is 'full'")
        clip_frames = clip_frames or [1] * condition.shape[2]
        height, width = (size // self.config.patch_size for size in condition.shape[3:])
        parts: list[ConditionCache] = []
        for frames in grouped(clip_frames, PART_TOKENS // (height * width)):
            start = sum(part.frames for part in parts)
            before = parts[-1] if parts else past
            parts.append(self.encode_part(condition[:, :, start : start + sum(frames)], frames, before))
        if len(parts) == 1:
            return parts[0]
        layers = [joined(of_layer) for of_layer in zip(*(part.layers for part in parts), strict=True)]
        return ConditionCache(layers, condition.shape[2], past)

    def encode_part(self, condition: Tensor, clip_frames: Sequence[int], past: ConditionCache | None) -> ConditionCache:
        """Keys and values of some clips in one pass: what a mask hides among them is computed all the same."""
        layout = self.layout(condition[:, :, :1], 1, condition.shape[2], clip_frames, past.all_frames if past else 0)
        tokens, timestep = self.embed_condition(condition, condition.new_ones(condition.shape[0]))
        layers = []
        for number, block in enumerate(self.blocks):
            tokens, cached = block.forward_condition(tokens, timestep, layout, past.parts(number) if past else ())
            layers.append(cached)
        return ConditionCache(layers, condition.shape[2], past)

    def embed_condition(self, condition: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the condition and its embedded timestep: the target's t in ``full`` mode, 1 in ``causal``."""
        tokens = self.condition_embedding(patchify(condition.to(self.dtype), self.config.patch_size))
        t = t if self.config.attention == "full" else t.new_ones(t.shape[0])
        return tokens, (self.timestep_embedding(t) + self.condition_stream)[:, None]

    def layout(
        self,
        noisy_target: Tensor,
        targets: int,
        condition_frames: int,
        clip_frames: Sequence[int] | None,
        past_frames: int = 0,
    ) -> Layout:
        """Coordinates of all tokens, and the causal masks unless attention is ``full`` or the condition is cached.

        A clip starts where those before it end; the noised target of pair i stands where its clean target does.
        """
        height, width = (size // self.config.patch_size for size in noisy_target.shape[3:])
        frames, device = noisy_target.shape[2] // targets, noisy_target.device
        head_dim = self.config.hidden_size // self.config.num_heads
        condition_rope = rotation(coordinates(past_frames, condition_frames, height, width, device), head_dim)
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
        places = [coordinates(start, frames, height, width, device) for start in starts]
        layout = Layout(condition_rope, rotation(torch.cat(places), head_dim))
        if self.config.attention == "causal" and clip_frames is not None:
            sizes = (tuple(clip_frames), targets, frames, height * width, device)
            masks = causal_masks
            if not past_frames and self.blocks[0].backend == FLEX:
                masks = causal_block_masks
            elif not past_frames and device.type == "cpu":
                masks = causal_spans
            layout.condition_mask, layout.target_mask = masks(*sizes)
            if past_frames:  # all of it is visible
                layout.condition_mask = F.pad(layout.condition_mask, (past_frames * height * width, 0), value=True)
        return layout

    def cached_layout(self, noisy_target: Tensor, caches: Sequence[ConditionCache]) -> Layout:
        """Coordinates of a target's tokens behind each cached condition, whose lengths may differ."""
        batch, _, frames, height, width = noisy_target.shape
        patch, head_dim = self.config.patch_size, self.config.hidden_size // self.config.num_heads
        ropes = [
            rotation(
                coordinates(cache.all_frames, frames, height // patch, width // patch, noisy_target.device), head_dim
            )
            for cache in caches
        ]
        if len(ropes) == 1:
            return Layout(None, ropes[0])
        each = batch // len(caches)
        return Layout(None, Rope(*(torch.stack(half).repeat_interleave(each, 0) for half in zip(*ropes, strict=True))))

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
        if self.config.attention == "full" and t.ndim != 1:
            raise ValueError("a model with attention='full' takes one target a sequence: t of shape (batch,)")
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


def grouped(clip_frames: Sequence[int], frames: int) -> Iterator[list[int]]:
    """Neighbouring clips together, as many as have at least so many frames."""
    group: list[int] = []
    for count in clip_frames:
        group.append(count)
        if sum(group) >= frames:
            yield group
            group = []
    if group:
        yield group


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
