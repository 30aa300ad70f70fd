"""What a run shows of itself: where time goes, how fast it is, its memory, and its loss by kind of target."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor

from lavin.evaluation.cost import matmul_rate, peak_bytes

GIB = 2**30
RATE_SIDE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices whose product gives a device's rate: large enough for full speed, over in a moment."""
BESIDES = ("validation", "saving")
"""What is not training: speeds leave its time out."""


class Clock:
    """Seconds of named activities since the last look; all else is ``compute``."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.since, self.spent = time.perf_counter(), Counter()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] += time.perf_counter() - start

    def look(self) -> dict[str, float]:
        """Seconds of everything since the last look, ``compute`` among them."""
        whole = time.perf_counter() - self.since
        spent = {"compute": whole - sum(self.spent.values()), **self.spent}
        self.restart()
        return spent


class LossBreakdown:
    """Mean losses by groups, summed on the device: nothing waits for it between two looks.

    Args:
        groups: group -> the names of its parts.
    """

    def __init__(self, groups: dict[str, Sequence[str]], device: torch.device):
        self.groups = groups
        self.sums = {group: torch.zeros(2, len(names), device=device) for group, names in groups.items()}

    @torch.no_grad()
    def add(self, loss: Tensor, **numbers: Tensor) -> None:
        """Take note of losses that are finite; each group's ``numbers``, in the shape of loss, say whose they are."""
        loss = loss.detach().float().flatten()
        counts = loss.isfinite().float()
        both = torch.stack([loss.nan_to_num(0, 0, 0), counts])
        for group, number in numbers.items():
            self.sums[group].index_add_(1, number.flatten(), both)

    def look(self, accelerator: Accelerator) -> dict[str, float]:
        """``by_<group>/<part>`` -> mean over all ranks since the last look, of those that had any; collective."""
        means = {}
        for group, names in self.groups.items():
            totals, counts = accelerator.reduce(self.sums[group], reduction="sum").tolist()
            self.sums[group] = torch.zeros_like(self.sums[group])
            for name, total, count in zip(names, totals, counts, strict=True):
                if count:
                    means[f"by_{group}/{name}"] = total / count
        return means


class Monitor:
    """All of it, between two log lines.

    Args:
        precision: ``bf16`` or ``fp32``: of the products whose rate the model's is compared with.
    """

    def __init__(self, accelerator: Accelerator, precision: str):
        self.accelerator, self.precision = accelerator, precision
        self.clock = Clock()
        self.losses: LossBreakdown | None = None
        self.cost: Callable[..., int] | None = None
        self.rate: float | None = None
        self.sequences: Counter[tuple[Hashable, ...]] = Counter()

    def watch_losses(self, **groups: Sequence[str]) -> None:
        """Tell losses apart by these groups; ``note_losses`` then wants a number of each."""
        self.losses = LossBreakdown(groups, self.accelerator.device)

    def watch_arithmetic(self, cost: Callable[..., int]) -> None:
        """Report the share of the device's rate; ``cost`` of a sequence of a kind is its operations a step."""
        self.cost = cost

    def note_losses(self, loss: Tensor, **numbers: Tensor) -> None:
        self.losses.add(loss, **numbers)

    def note_batch(self, sequences: int, kind: tuple[Hashable, ...] = ()) -> None:
        """Count what was trained; ``kind`` are the arguments of ``cost``."""
        self.sequences[kind] += sequences

    def look(self, steps: int) -> dict[str, float]:
        """Speed, shares of time, memory and losses since the last look, ``steps`` ago; collective."""
        spent = self.clock.look()
        training = sum(seconds for what, seconds in spent.items() if what not in BESIDES)
        values = {"steps_per_s": steps / training}
        if self.sequences:
            values["samples_per_s"] = self.sequences.total() * self.accelerator.num_processes / training
        if self.cost and self.sequences:
            operations = sum(self.cost(*kind) * count for kind, count in self.sequences.items())
            values["mfu"] = operations / training / self.device_rate()
        whole = sum(spent.values())
        values |= {f"time/{what}": seconds / whole for what, seconds in spent.items()}
        values["memory_gib"] = peak_bytes(self.accelerator.device) / GIB
        self.sequences.clear()
        if self.losses:
            values |= self.losses.look(self.accelerator)
        self.clock.restart()  # counting and reducing is not the run's time
        return values

    def device_rate(self) -> float:
        """Operations a second of matrix products here, measured once."""
        if self.rate is None:
            device = self.accelerator.device
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            self.rate = matmul_rate(device, dtype, RATE_SIDE.get(device.type, 2048))
        return self.rate


def progress_line(values: dict[str, float], seconds_left: float | None) -> str:
    """What a person reads of it; logs have the rest.

    Args:
        values: as logged.
        seconds_left: to the end of the run.
    """
    percents = {"mfu"}
    told = {
        name: value for name, value in values.items() if not name.startswith(("by_", "time/", "validation_raw/loss_"))
    }
    words = [f"{name} {value:.0%}" if name in percents else f"{name} {value:.4g}" for name, value in told.items()]
    times = [f"{name.removeprefix('time/')} {value:.0%}" for name, value in values.items() if name.startswith("time/")]
    if times:
        words.append("time: " + " ".join(times))
    if seconds_left is not None:
        words.append(f"{seconds_left / 60:.0f} min left" if seconds_left >= 60 else f"{seconds_left:.0f} s left")
    return "  ".join(words)
