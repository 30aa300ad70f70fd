"""The learning rate over a run."""

from __future__ import annotations

from lavin.training.run_config import OptimizerConfig


def learning_rate_factor(step: float, config: OptimizerConfig, last: float) -> float:
    """Linear warm-up to 1, then constant, then linear decay to 0 at step ``last``."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    length = max(config.decay_steps, config.decay_share * last)
    decay = min(1.0, (last - step) / length) if length else 1.0
    return warmup * max(decay, 0.0)
