"""How a run trains, whatever its model: length, precision, optimizer, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from lavin.errors import InputError


@dataclass
class RunConfig:
    """How long, where and in what precision a run trains."""

    output_dir: str = "runs/run"
    """Checkpoints, logs and the exported model go here; a run found here is resumed. ``output_dir`` alone, without
    ``run.``, says the same."""
    seed: int = 0
    """Data, noise and initial weights are functions of (seed, step, rank, ranks)."""
    max_steps: int = 1000
    """Optimizer steps in all, earlier ones of a resumed run included."""
    max_minutes: float | None = None
    """Stop after so many minutes of this launch if ``max_steps`` has not been reached: where time is what is scarce.
    The learning rate's decay then ends there too, by the speed measured so far."""
    batch_size: int = 32
    """Sequences (J-DiT) or pictures (ST-VAE) of one process in one forward pass."""
    accumulation: int = 1
    """Forward passes an optimizer step."""
    precision: str = "auto"
    """``bf16`` (autocast) or ``fp32``; weights, norms, EMA and optimizer are float32 in both. ``auto`` is bf16 where
    the machine computes in it, and fp32 elsewhere: a CPU without it is a hundred times slower in bf16."""
    compile: bool = False
    """``torch.compile`` of the repeated blocks; needs a C++ compiler on CPUs (the J-DiT of small.yaml: 1.4x faster)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    attention: str = "sdpa"
    """Kernel of the J-DiT's attention while it trains: ``sdpa``; ``flex``, which skips what causal contexts mask (CUDA
    and ``compile`` only); ``flash`` or ``xformers`` (CUDA only)."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, warmed up as (1 + step)^(-2/3) (thesis: 0.9999)."""
    log_every: int = 20
    """Steps between log lines; the loss logged is the mean over them."""
    validate_every: int = 500
    """Steps between validations and picture panels; 0 for none."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step has one in any case."""
    keep_checkpoints: int = 2
    """Older checkpoints are removed."""
    export_every: int = 0
    """Steps between exports of the averaged weights alone, to ``exports/``; 0 for one at the end."""
    keep_exports: int = 2
    """Older exports are removed; the one at the end is apart from them."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where numbers and panels go: ``tensorboard``, ``wandb`` and what else accelerate knows; empty for none."""
    overfit_batch: bool = False
    """Sanity run: train on the first batch for ever; a healthy set-up drives its loss to near zero."""

    def __post_init__(self):
        check_positive(
            self, "max_steps", "batch_size", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints",
            "keep_exports",
        )  # fmt: skip
        for name in ("validate_every", "export_every"):
            if getattr(self, name) < 0:
                raise InputError(f"run.{name} is {getattr(self, name)}; it must not be negative")
        if self.max_minutes is not None:
            check_positive(self, "max_minutes")
        if self.attention == "flex" and not (self.compile and torch.cuda.is_available()):
            raise InputError("run.attention=flex needs a GPU and run.compile=true; use sdpa")
        if self.precision == "auto":
            self.precision = "bf16" if computes_in_bf16() else "fp32"
        if self.precision not in ("bf16", "fp32"):
            raise InputError(f"run.precision is '{self.precision}'; it must be 'auto', 'bf16' or 'fp32'")
        if self.trackers != ["tensorboard"]:
            from lavin.training.tracking import check_trackers

            check_trackers(self.trackers)
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"run.ema_decay is {self.ema_decay}; it must be in [0, 1)")


@dataclass
class OptimizerConfig:
    """AdamW and its schedule: linear warm-up, constant, linear decay to zero at the end."""

    learning_rate: float = 1e-4
    """Peak (thesis, stage 1: 1e-4)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """(thesis)"""
    weight_decay: float = 0.01
    """(thesis)"""
    warmup_steps: int = 0
    """Steps of linear warm-up (thesis: none)."""
    decay_steps: int = 0
    """Steps of linear decay to zero before ``max_steps``."""
    decay_share: float = 0.0
    """The same as a share of the whole run; the longer of the two decays holds."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm (thesis)."""

    def __post_init__(self):
        check_positive(self, "learning_rate", "max_grad_norm")
        if not 0 <= self.decay_share <= 1:
            raise InputError(f"optimizer.decay_share is {self.decay_share}; it must be in [0, 1]")


def computes_in_bf16() -> bool:
    """Whether bfloat16 is no slower than float32 here: on the GPU, or on the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def check_positive(config: Any, *names: str) -> None:
    """Refuse values that are not above zero, by name."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{type(config).__name__}.{name} is {getattr(config, name)}; it must be above 0")
