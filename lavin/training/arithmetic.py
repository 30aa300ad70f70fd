"""What training sequences of the J-DiT cost, counted from shapes: operations, tokens, activations."""

from __future__ import annotations

import torch
from torch import Tensor

from lavin.evaluation.cost import counted, operation_counter
from lavin.models.jdit import JDiT
from lavin.training.buckets import Bucket
from lavin.training.config import PretrainConfig
from lavin.training.objective import draw_timesteps, sequence_loss

FORWARDS_A_STEP = 3
"""A backward pass costs two forward ones; what checkpointing computes again does not count."""


class PlannedJDiT(JDiT):
    """A J-DiT whose tensors have shapes and no memory, except masks: those need numbers."""

    def layout(self, noisy_target: Tensor, *args):
        from torch._subclasses.fake_tensor import unset_fake_temporarily

        with unset_fake_temporarily():
            return super().layout(torch.empty(noisy_target.shape), *args)


class SequenceCost:
    """Sequences of a configuration, nothing of which is computed.

    Args:
        channels: of the latents.
    """

    def __init__(self, config: PretrainConfig, channels: int):
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.config, self.channels = config, channels
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.known: dict[tuple[int, int], int] = {}
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if config.run.precision == "bf16" else torch.float32)
        try:
            with self.mode:
                self.model = PlannedJDiT(**{"latent_channels": channels, **config.model})
        finally:
            torch.set_default_dtype(before)
        if config.run.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    def sequence(self, bucket: Bucket, pairs: int) -> tuple[Tensor, Tensor]:
        """Condition and targets of one training sequence."""
        frames, *sides = bucket.latent_shape
        condition = torch.randn(1, self.channels, (2 * pairs - 1) * frames, *sides)
        return condition, torch.randn(1, self.channels, pairs * frames, *sides)

    def tokens(self, bucket: Bucket, pairs: int) -> int:
        """Tokens that go through the J-DiT: of all targets where they train in parallel, else of one."""
        frames, height, width = bucket.latent_shape
        clips = 2 * pairs - 1 + (pairs if self.config.causal else 1)
        return clips * frames * (height // self.model.config.patch_size) * (width // self.model.config.patch_size)

    def forward(self, bucket: Bucket, pairs: int) -> Tensor:
        """The loss of a sequence, in name only."""
        condition, targets = self.sequence(bucket, pairs)
        t = draw_timesteps(targets, pairs, self.config.causal, None, 0.0)
        return sequence_loss(self.model, condition, targets, t, pairs, None)

    def operations(self, bucket: Bucket, pairs: int) -> int:
        """Operations of a sequence's forward pass; a multiply-add is two."""
        key = (bucket.number, pairs)
        if key not in self.known:
            with self.mode, operation_counter() as flops:
                self.forward(bucket, pairs)
            self.known[key] = flops.get_total_flops()
        return self.known[key]

    def held_bytes(self, bucket: Bucket, pairs: int) -> int:
        """The most that a sequence's forward pass holds, besides weights."""
        with self.mode:
            return counted(lambda: self.forward(bucket, pairs))[1]

    def training(self, bucket: Bucket, pairs: int) -> int:
        """Operations of a sequence's forward and backward pass."""
        return FORWARDS_A_STEP * self.operations(bucket, pairs)
