"""Flow matching: straight paths from noise (t = 0) to data (t = 1), their loss, and solvers that follow them.

One convention everywhere: ``velocity = data - noise``. Source: LaVin-DiT (CVPR 2025), flow matching after Lipman et al.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x, t) -> dx/dt, with x (batch, ...) and t (batch,)."""

LINEAR_END = 0.05
"""Time at which the linear half of the linear-quadratic grid ends (release)."""


class VelocityModel(Protocol):
    """What ``loss`` trains: ``JDiT`` is one."""

    def __call__(self, noisy_target: Tensor, t: Tensor, condition: Tensor) -> Tensor: ...


def over_frames(t: Tensor, latent: Tensor) -> Tensor:
    """t, (batch,) or (batch, targets), shaped to multiply (batch, channels, targets * frames, height, width)."""
    if t.ndim == 1:
        return t.view(-1, 1, 1, 1, 1)
    return t.repeat_interleave(latent.shape[2] // t.shape[1], dim=1)[:, None, :, None, None]


def interpolate(noise: Tensor, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Point on the straight path from noise to data, and the velocity there.

        x_t = (1 - t) * noise + t * data        dx_t / dt = data - noise

    Args:
        noise, data: (batch, channels, targets * frames, height, width).
        t: in [0, 1], (batch,), or (batch, targets) for parallel targets.
    """
    precise = torch.promote_types(t.dtype, data.dtype)  # bfloat16 latents must not round t
    noise, data, t = noise.to(precise), data.to(precise), t.to(precise)
    return torch.lerp(noise, data, over_frames(t, data)), data - noise


def draw_timesteps(
    shape: int | tuple[int, ...], generator: Generator | None = None, device=None, mean: float = 0.0
) -> Tensor:
    """t ~ LogitNormal(mean, 1), the sigmoid of a normal, float32; below zero nearer to the noise (paper: 0)."""
    shape = (shape,) if isinstance(shape, int) else shape
    return (torch.randn(shape, generator=generator, device=device) + mean).sigmoid()


def loss(
    model: VelocityModel,
    condition: Tensor,
    target: Tensor,
    t: Tensor,
    generator: Generator | None = None,
    l1_weight: float = 0.0,
    teacher: VelocityModel | None = None,
    taught: Tensor | None = None,
) -> Tensor:
    """mean |v(x_t, t, condition) - (data - noise)|², plus ``l1_weight`` times the mean absolute error.

    Args:
        condition: clean latents, (batch, channels, frames, height, width).
        target: clean target latents, (batch, channels, targets * frames, height, width).
        t: (batch,), or (batch, targets) for parallel targets.
        teacher: gives the velocity to learn in place of data - noise where ``taught``, (batch,) bool.

    Returns:
        One number per target, in the shape of t, float32.
    """
    noise = torch.randn(target.shape, generator=generator, device=target.device, dtype=target.dtype)
    noisy_target, velocity = interpolate(noise, target, t)
    if teacher is not None and taught.any():
        with torch.no_grad():
            answer = teacher(noisy_target[taught], t[taught], condition[taught])
        velocity[taught] = answer.to(velocity.dtype)
    error = model(noisy_target, t, condition).to(velocity.dtype) - velocity
    error = error.square() + l1_weight * error.abs() if l1_weight else error.square()
    targets = 1 if t.ndim == 1 else t.shape[1]
    return error.unflatten(2, (targets, -1)).mean(dim=(1, 3, 4, 5)).view(t.shape)


def guide(with_context: Tensor, without_context: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: v_without + g * (v_with - v_without); g = 1 is the conditional velocity."""
    return without_context + guidance_scale * (with_context - without_context)


def time_grid(kind: str, num_points: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Times from 0 to 1; N points make N - 1 solver steps.

    ``uniform``: equal steps. ``linear_quadratic`` (release): half the points linear up to 0.05, then

        concat(linspace(0, .05, N / 2), .05 + .95 * linspace(1 / N, 1, N / 2)²)

    Args:
        kind: ``uniform`` or ``linear_quadratic``.
        num_points: at least 2; even and at least 4 for ``linear_quadratic``.

    Raises:
        ValueError: unknown kind or impossible number.
    """
    if kind == "uniform":
        if num_points < 2:
            raise ValueError(f"a uniform time grid needs at least 2 points, not {num_points}")
        return torch.linspace(0, 1, num_points, dtype=dtype)
    if kind == "linear_quadratic":
        if num_points < 4 or num_points % 2:
            raise ValueError(f"a linear-quadratic time grid needs an even number of points from 4, not {num_points}")
        half = num_points // 2
        linear = torch.linspace(0, LINEAR_END, half, dtype=dtype)
        quadratic = LINEAR_END + (1 - LINEAR_END) * torch.linspace(1 / num_points, 1, half, dtype=dtype).square()
        return torch.cat((linear, quadratic))
    raise ValueError(f"unknown time grid '{kind}'; known: uniform, linear_quadratic")


def solve(velocity: Velocity, noise: Tensor, grid: Tensor, method: str = "euler") -> Tensor:
    """Follow dx/dt = velocity(x, t) from noise along a grid of times; a grid of N + 1 times makes N steps.

    ``euler`` asks for the velocity once a step, ``midpoint`` (second order) twice.

    Args:
        noise: x at ``grid[0]``, (batch, ...).
        grid: increasing times, (N + 1,).

    Raises:
        ValueError: unknown method.
    """
    if method not in ("euler", "midpoint"):
        raise ValueError(f"unknown solver '{method}'; known: euler, midpoint")
    x = noise
    for now, later in zip(grid[:-1], grid[1:], strict=True):
        step = later - now
        slope = velocity(x, now.expand(len(x)))
        if method == "midpoint":
            slope = velocity(x + step / 2 * slope, (now + step / 2).expand(len(x)))
        x = x + step * slope
    return x
