"""What in-context vision costs an autoregressive transformer: pictures as tokens, one after another (as LVM does).

Source: the thesis' latency study (figure 4.18), with equal parameter count, framework and precision. Weights are
random: only the time is of interest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavin.errors import InputError

TOKEN_SIDE = 16
"""Pixels of a picture's token, each way."""
CODEBOOK = 8192


@dataclass
class Autoregressive:
    """A LLaMA transformer over the tokens of pictures, and a VQGAN that decodes them."""

    transformer: nn.Module
    tokenizer: nn.Module
    tokens: int
    """Of a picture: (side / 16)²."""

    def prefill(self, pictures: int) -> tuple[object, Tensor]:
        """The key/value cache of a prompt of so many pictures, and its last token."""
        prompt = torch.randint(CODEBOOK, (1, pictures * self.tokens), device=self.transformer.device)
        found = self.transformer(prompt, use_cache=True, logits_to_keep=1)
        return found.past_key_values, found.logits.argmax(-1)

    def generate(self, cache: object, token: Tensor) -> Tensor:
        """The next picture's tokens, (1, tokens), greedily; the network runs once for every one but the first."""
        found = [token]
        for _ in range(self.tokens - 1):
            step = self.transformer(found[-1], past_key_values=cache, use_cache=True)
            found.append(step.logits.argmax(-1))
        return torch.cat(found, dim=1)

    def decode(self, tokens: Tensor) -> Tensor:
        """The picture (1, 3, side, side) of its tokens."""
        side = round(self.tokens**0.5)
        codes = self.tokenizer.quantize.embedding(tokens).transpose(1, 2).unflatten(2, (side, side))
        return self.tokenizer.decode(codes).sample


def build(parameters: int, hidden_size: int, num_heads: int, side: int, device, dtype: torch.dtype) -> Autoregressive:
    """A transformer of about so many parameters and the width given, for pictures of ``side`` pixels.

    Raises:
        InputError: transformers is not installed, or ``side`` is no multiple of 16.
    """
    if side % TOKEN_SIDE:
        raise InputError(f"the autoregressive baseline has tokens of {TOKEN_SIDE} pixels; {side} is no multiple")
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise InputError("the autoregressive baseline needs transformers: pip install transformers") from error
    from diffusers import VQModel

    width = 64 * (8 * hidden_size // 3 // 64)
    per_layer = 4 * hidden_size**2 + 3 * hidden_size * width
    layers = max(1, round((parameters - 2 * CODEBOOK * hidden_size) / per_layer))
    tokens = (side // TOKEN_SIDE) ** 2
    config = LlamaConfig(
        vocab_size=CODEBOOK,
        hidden_size=hidden_size,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=num_heads,
        max_position_embeddings=max(4096, 64 * tokens),
    )
    torch.set_default_dtype(dtype)
    try:
        transformer = LlamaForCausalLM(config)
        tokenizer = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 5,
            up_block_types=("UpDecoderBlock2D",) * 5,
            block_out_channels=(128, 128, 256, 256, 512),
            layers_per_block=2,
            latent_channels=256,
            num_vq_embeddings=CODEBOOK,
            vq_embed_dim=64,
        )
    finally:
        torch.set_default_dtype(torch.float32)
    return Autoregressive(transformer.to(device).eval(), tokenizer.to(device).eval(), tokens)
