"""The one place where attention is computed; which kernel does it is a choice of configuration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

BACKENDS = {"sdpa": "native", "flash": "flash", "xformers": "xformers"}
"""Our names and diffusers' names of the kernels: PyTorch's SDPA runs everywhere, the others on CUDA only."""
FLEX = "flex"
"""PyTorch's FlexAttention, which skips what a mask hides: for compiled blocks on CUDA; uncompiled it is slow."""


def check_backend(name: str) -> None:
    """Refuse an attention backend that cannot run here, when it is chosen and not at its first use.

    Raises:
        ValueError: unknown name, or a CUDA-only kernel without CUDA.
    """
    if name not in (*BACKENDS, FLEX):
        raise ValueError(f"unknown attention backend '{name}'; known: {', '.join((*BACKENDS, FLEX))}")
    if name != "sdpa" and not torch.cuda.is_available():
        raise ValueError(f"attention backend '{name}' has only CUDA kernels and no GPU is present; use 'sdpa'")


def block_sparse(mask: Tensor) -> BlockMask:
    """A mask for ``flex``: blocks of 128 x 128 that hide all are skipped.

    Args:
        mask: bool (queries, keys).
    """
    return create_block_mask(lambda batch, head, query, key: mask[query, key], None, None, *mask.shape, mask.device)


@dataclass(frozen=True)
class Spans:
    """A mask as the parts of it that are not hidden: queries and keys in runs, of which each is seen whole or not."""

    queries: tuple[int, ...]
    """Lengths of the runs of queries, one after another."""
    keys: tuple[int, ...]
    """Likewise of keys."""
    seen: tuple[tuple[int, ...], ...]
    """Which runs of keys each run of queries sees."""


def spans(mask: Tensor) -> Spans:
    """What is visible through a mask: worth it where many in a row see, and are seen by, the same, as a clip's tokens.

    Args:
        mask: bool (queries, keys).
    """
    rows, queries = mask.cpu().unique_consecutive(dim=0, return_counts=True)
    blocks, keys = rows.unique_consecutive(dim=1, return_counts=True)
    return Spans(
        tuple(queries.tolist()), tuple(keys.tolist()), tuple(tuple(row.nonzero()[:, 0].tolist()) for row in blocks)
    )


Mask = Tensor | BlockMask | Spans
"""bool (queries, keys), True where a query may look, no row all False; or what ``block_sparse`` (for ``flex`` alone) or
``spans`` make of it."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None = None, backend: str = "sdpa") -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v; query head i reads key/value head floor(i / group).

    Args:
        query: (batch, queries, heads, head_dim).
        key, value: (batch, keys, kv_heads, head_dim); kv_heads divides heads.
        mask: who sees whom; None for everybody everything.

    Returns:
        (batch, queries, heads, head_dim).
    """
    grouped = query.shape[2] != key.shape[2]
    if isinstance(mask, BlockMask):
        query, key, value = (part.to(value.dtype).transpose(1, 2) for part in (query, key, value))
        return flex_attention(query, key, value, block_mask=mask, enable_gqa=grouped).transpose(1, 2)
    if isinstance(mask, Spans):
        keys, values = key.split(mask.keys, 1), value.split(mask.keys, 1)  # splits add up gradients once, slices each
        attended = [
            attend(part, *(torch.cat([runs[i] for i in seen], 1) for runs in (keys, values)), backend=backend)
            for part, seen in zip(query.split(mask.queries, 1), mask.seen, strict=True)
        ]
        return torch.cat(attended, 1)
    backend = "sdpa" if backend == FLEX else backend
    if backend == "sdpa" and query.device.type == "cpu" and query.requires_grad:
        return attend_by_matmul(query, key, value, mask)
    if grouped and mask is not None and query.is_cuda:  # with both, CUDA has only the slow kernel
        key, value = (part.repeat_interleave(query.shape[2] // part.shape[2], dim=2) for part in (key, value))
        grouped = False
    return dispatch_attention_fn(query, key, value, attn_mask=mask, enable_gqa=grouped, backend=BACKENDS[backend])


def attend_by_matmul(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two matrix products: on CPUs SDPA's backward pass is slow, this trains a small model 1.2x faster.

    Softmax adds up in float32 whatever its input is; asking for a float32 result would copy the scores four times.
    """
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    shape, groups = query.shape, query.shape[1] // key.shape[1]
    query = query.reshape(*key.shape[:2], groups * shape[2], shape[3])  # heads that share keys, one below the other
    scores = (query * shape[3] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:  # in place and by adding, which costs nothing in the backward pass
        bias = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, float("-inf"))
        scores += bias.repeat(groups, 1)
    return (scores.softmax(-1).to(value.dtype) @ value).reshape(shape).transpose(1, 2)
