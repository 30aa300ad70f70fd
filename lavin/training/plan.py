"""What a run will need, computed from shapes before anything is drawn: memory, tokens, arithmetic, time."""

from __future__ import annotations

import numpy as np

from lavin.errors import InputError
from lavin.training.arithmetic import FORWARDS_A_STEP, SequenceCost
from lavin.training.buckets import Bucket, buckets_of
from lavin.training.config import PretrainConfig
from lavin.training.latents import load_stvae

GIB = 2**30
BYTES_OF_STATE = {"weights": 4, "gradients": 4, "AdamW": 8, "EMA": 4}
"""A weight's, in one process or with plain data parallelism: everything is float32."""
BYTES_WITH_ZERO = {"weights and gradients in bf16": 4, "masters, AdamW and EMA, shared out": 16}
"""A weight's, with ZeRO-2 in bf16."""


def latent_channels(config: PretrainConfig) -> int:
    """Of the model; where neither it nor an ST-VAE says, the paper's 16."""
    if "latent_channels" in config.model:
        return config.model["latent_channels"]
    try:
        return load_stvae(config.stvae).config.latent_channels
    except InputError:
        return 16


def mean_operations(cost: SequenceCost, bucket: Bucket, pairs: range) -> float:
    """Of a sequence's forward pass, all lengths drawn alike; a quadratic goes through three, which gives them all."""
    some = sorted({pairs[0], pairs[len(pairs) // 2], pairs[-1]})
    counts = [cost.operations(bucket, length) for length in some]
    return float(np.mean(np.polyval(np.polyfit(some, counts, len(some) - 1), pairs)))


def plan(config: PretrainConfig, devices: int = 1, mfu: float = 0.4, tflops: float = 989.0) -> str:
    """A table for people.

    Args:
        devices: that train together, each with its own batches.
        mfu: share of their rate that is reached; recomputed activations do not count.
        tflops: a device's bf16 rate, 10^12 operations a second.

    Raises:
        InputError: impossible numbers.
    """
    for name, value in (("devices", devices), ("mfu", mfu), ("tflops", tflops)):
        if not value > 0:
            raise InputError(f"--{name} is {value}; it must be above 0")
    run, buckets, pairs = config.run, buckets_of(config), config.sequence_lengths
    cost = SequenceCost(config, latent_channels(config))
    parameters = cost.parameters
    forwards = [mean_operations(cost, bucket, pairs) for bucket in buckets]
    sequences = sum(bucket.share * bucket.batch_size for bucket in buckets) * run.accumulation * devices
    operations = sum(
        bucket.share * bucket.batch_size * forward for bucket, forward in zip(buckets, forwards, strict=True)
    )
    step = FORWARDS_A_STEP * operations * run.accumulation * devices
    seconds = step / (devices * tflops * 1e12 * mfu)
    hours = seconds * run.max_steps / 3600
    state = {what: size * parameters / GIB for what, size in BYTES_OF_STATE.items()}
    whole, shared = (size * parameters / GIB for size in BYTES_WITH_ZERO.values())
    fullest = max(buckets, key=lambda bucket: cost.tokens(bucket, pairs[-1]) * bucket.batch_size)
    held, longest = cost.held_bytes(fullest, pairs[-1]) * fullest.batch_size, fullest.batch_size
    tokens = [cost.tokens(bucket, length) for bucket in buckets for length in pairs]
    span = f"{min(tokens):,}" + (f" to {max(tokens):,}" if max(tokens) > min(tokens) else "")
    forward = operations * run.accumulation * devices / sequences
    rows = {
        "parameters": f"{parameters:,} trained",
        "memory a device": " + ".join(f"{what} {size:.2f}" for what, size in state.items())
        + f" = {sum(state.values()):.2f} GiB",
        "with ZeRO-2": f"{whole:.2f} GiB (bf16 weights, gradients) + {shared:.2f} GiB / {devices} (masters, AdamW, EMA)"
        f" = {whole + shared / devices:.2f} GiB",
        "activations": f"{held / GIB:.2f} GiB for the longest of {longest} sequences at a"
        f" time, {'recomputed' if run.gradient_checkpointing else 'all kept'}; an estimate",
        "tokens a sample": span,
        "FLOPs a sample": f"{forward / 1e12:.4g} TFLOP forward, {FORWARDS_A_STEP * forward / 1e12:.4g} with backward",
        "FLOPs a step": f"{step / 1e12:.4g} TFLOP: {sequences:g} sequences on {devices} device(s)",
        "time": f"{seconds:.3g} s a step, {hours:.4g} h for {run.max_steps} steps, {hours * devices:.4g} device-hours,"
        f" at {mfu:.0%} of {tflops:g} TFLOP/s each",
    }
    if len(buckets) > 1:
        parts = [
            f"{bucket.name}: {bucket.batch_size} sequences in {bucket.share:.0%} of the steps" for bucket in buckets
        ]
        rows["buckets"] = "; ".join(parts)
    return "\n".join(f"{name:<17}{value}" for name, value in rows.items())
