"""What a run will need, computed from shapes before anything is drawn: memory, tokens, arithmetic, time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lavin.errors import InputError
from lavin.evaluation.cost import counted
from lavin.models.jdit import JDiT
from lavin.models.stvae import SPACE_FACTOR, TIME_FACTOR
from lavin.training.config import PretrainConfig
from lavin.training.latents import load_stvae
from lavin.training.pretrain import sequence_loss

GIB = 2**30
BYTES_OF_STATE = {"weights": 4, "gradients": 4, "AdamW": 8, "EMA": 4}
"""A weight's, in one process or with plain data parallelism: everything is float32."""
BYTES_WITH_ZERO = {"weights and gradients in bf16": 4, "masters, AdamW and EMA, shared out": 16}
"""A weight's, with ZeRO-2 in bf16."""


class PlannedJDiT(JDiT):
    """A J-DiT whose tensors have shapes and no memory, except masks: those need numbers."""

    def layout(self, noisy_target: Tensor, *args):
        from torch._subclasses.fake_tensor import unset_fake_temporarily

        with unset_fake_temporarily():
            return super().layout(torch.empty(noisy_target.shape), *args)


def latent_channels(config: PretrainConfig) -> int:
    """Of the model; where neither it nor an ST-VAE says, the paper's 16."""
    if "latent_channels" in config.model:
        return config.model["latent_channels"]
    try:
        return load_stvae(config.stvae).config.latent_channels
    except InputError:
        return 16


def sequence(config: PretrainConfig, channels: int, pairs: int) -> tuple[Tensor, Tensor]:
    """Condition and targets of one training sequence."""
    side = config.scenes.size // SPACE_FACTOR
    frames = 1 + (config.scenes.frames - 1) // TIME_FACTOR
    condition = torch.randn(1, channels, (2 * pairs - 1) * frames, side, side)
    return condition, torch.randn(1, channels, pairs * frames, side, side)


def tokens_of(condition: Tensor, targets: Tensor, pairs: int, model: JDiT) -> int:
    """Tokens that go through the J-DiT: of all targets where they train in parallel, else of one."""
    causal, patch = model.config.attention == "causal", model.config.patch_size
    frames = condition.shape[2] + targets.shape[2] // (1 if causal else pairs)
    return frames * (condition.shape[3] // patch) * (condition.shape[4] // patch)


def arithmetic(call: Callable[[int], Tensor], lengths: Sequence[int]) -> np.ndarray:
    """Operations of a call at every length; a quadratic goes through them, so three are enough to know all."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = {}
    for length in {lengths[0], lengths[len(lengths) // 2], lengths[-1]}:
        with FlopCounterMode(display=False) as flops:
            call(length)
        counts[length] = flops.get_total_flops()
    return np.polyval(np.polyfit(list(counts), list(counts.values()), len(counts) - 1), lengths)


def plan(config: PretrainConfig, devices: int = 1, mfu: float = 0.4, tflops: float = 989.0) -> str:
    """A table for people.

    Args:
        devices: that train together, each with its own batches.
        mfu: share of their rate that is reached; recomputed activations do not count.
        tflops: a device's bf16 rate, 10^12 operations a second.

    Raises:
        InputError: impossible numbers.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    for name, value in (("devices", devices), ("mfu", mfu), ("tflops", tflops)):
        if not value > 0:
            raise InputError(f"--{name} is {value}; it must be above 0")
    channels = latent_channels(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_default_dtype(torch.bfloat16 if config.run.precision == "bf16" else torch.float32)
        try:
            model = PlannedJDiT(**{"latent_channels": channels, **config.model})
        finally:
            torch.set_default_dtype(torch.float32)
        causal = model.config.attention == "causal"
        if config.run.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        lengths = [config.train_pairs] if causal else range(2, config.train_pairs + 1)

        def call(pairs: int) -> Tensor:
            condition, targets = sequence(config, channels, pairs)
            return sequence_loss(model, condition, targets, pairs, causal, None, config)

        tokens = [tokens_of(*sequence(config, channels, pairs), pairs, model) for pairs in lengths]
        forward = np.mean(arithmetic(call, lengths))
        held = counted(lambda: call(lengths[-1]))[1]
    run = config.run
    sequences_a_step = run.batch_size * run.accumulation * devices
    step = 3 * forward * sequences_a_step  # a backward pass costs two forward ones
    seconds = step / (devices * tflops * 1e12 * mfu)
    hours = seconds * run.max_steps / 3600
    state = {what: size * parameters / GIB for what, size in BYTES_OF_STATE.items()}
    whole, shared = (size * parameters / GIB for size in BYTES_WITH_ZERO.values())
    span = f"{tokens[0]:,}" if len(tokens) == 1 else f"{min(tokens):,} to {max(tokens):,}"
    rows = {
        "parameters": f"{parameters:,} trained",
        "memory a device": " + ".join(f"{what} {size:.2f}" for what, size in state.items())
        + f" = {sum(state.values()):.2f} GiB",
        "with ZeRO-2": f"{whole:.2f} GiB (bf16 weights, gradients) + {shared:.2f} GiB / {devices} (masters, AdamW, EMA)"
        f" = {whole + shared / devices:.2f} GiB",
        "activations": f"{held * run.batch_size / GIB:.2f} GiB for the longest of {run.batch_size} sequences at a"
        f" time, {'recomputed' if run.gradient_checkpointing else 'all kept'}; an estimate",
        "tokens a sample": span,
        "FLOPs a sample": f"{forward / 1e12:.4g} TFLOP forward, {3 * forward / 1e12:.4g} with backward",
        "FLOPs a step": f"{step / 1e12:.4g} TFLOP: {sequences_a_step} sequences on {devices} device(s)",
        "time": f"{seconds:.3g} s a step, {hours:.4g} h for {run.max_steps} steps, {hours * devices:.4g} device-hours,"
        f" at {mfu:.0%} of {tflops:g} TFLOP/s each",
    }
    return "\n".join(f"{name:<17}{value}" for name, value in rows.items())
