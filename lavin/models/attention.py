"""The one place where attention is computed; which kernel does it is a choice of configuration."""

from __future__ import annotations

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

BACKENDS = {"sdpa": "native", "flash": "flash", "xformers": "xformers"}
"""Our names and diffusers' names of the kernels: PyTorch's SDPA runs everywhere, the others on CUDA only."""


def check_backend(name: str) -> None:
    """Refuse an attention backend that cannot run here, when it is chosen and not at its first use.

    Raises:
        ValueError: unknown name, or a CUDA-only kernel without CUDA.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend '{name}'; known: {', '.join(BACKENDS)}")
    if name != "sdpa" and not torch.cuda.is_available():
        raise ValueError(f"attention backend '{name}' has only CUDA kernels and no GPU is present; use 'sdpa'")


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, backend: str = "sdpa") -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v; query head i reads key/value head floor(i / group).

    Args:
        query: (batch, queries, heads, head_dim).
        key, value: (batch, keys, kv_heads, head_dim); kv_heads divides heads.
        mask: bool (queries, keys), True where a query may look; None for everywhere. No row may be all False.

    Returns:
        (batch, queries, heads, head_dim).
    """
    grouped = query.shape[2] != key.shape[2]
    if backend == "sdpa" and query.device.type == "cpu" and query.requires_grad and not grouped:
        return attend_by_matmul(query, key, value, mask)
    return dispatch_attention_fn(query, key, value, attn_mask=mask, enable_gqa=grouped, backend=BACKENDS[backend])


def attend_by_matmul(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two matrix products: on CPUs SDPA's backward pass is slow, this trains a small model 1.2x faster."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    precise = torch.promote_types(scores.dtype, torch.float32)
    return (scores.softmax(-1, dtype=precise).to(value.dtype) @ value).transpose(1, 2)
