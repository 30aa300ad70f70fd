"""Whether a run is well: steps skipped, time over, interrupted."""

from __future__ import annotations

import torch
from torch import Tensor


class Vitals:
    """What is known of a step, on the device: read a step late, so that the device need not be waited for.

    Every rank finds the same values.
    """

    def __init__(self, device: torch.device):
        self.skipped, self.in_a_row = torch.zeros(2, device=device).unbind()
        self.host = torch.zeros(4, pin_memory=device.type == "cuda")
        self.copied = torch.cuda.Event() if device.type == "cuda" else None

    def update(self, skip: Tensor, over: Tensor, interrupted: Tensor) -> None:
        """Count a step, ``skip`` 1 if it was skipped; the others are above zero if a rank wants to stop."""
        self.skipped = self.skipped + skip
        self.in_a_row = (self.in_a_row + 1) * skip
        self.host.copy_(torch.stack([self.skipped, self.in_a_row, over, interrupted]), non_blocking=True)
        if self.copied is not None:
            self.copied.record()

    def read(self) -> tuple[int, int, bool, bool]:
        """Steps skipped in all and in a row, whether the time is over, whether a rank was interrupted."""
        if self.copied is not None:
            self.copied.synchronize()
        skipped, in_a_row, over, interrupted = self.host.tolist()
        return int(skipped), int(in_a_row), over > 0, interrupted > 0
