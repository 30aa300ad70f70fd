"""What computing costs: operations and memory counted from shapes, the rate a device reaches, the memory it takes."""

from __future__ import annotations

import resource
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lavin import config_dir
from lavin.errors import InputError
from lavin.models.jdit import JDiT
from lavin.models.stvae import SPACE_FACTOR, STVAE
from lavin.pipeline import LavinPipeline
from lavin.suggest import unknown

PRESETS = ("0.1b", "1.0b", "3.4b")
"""Sizes of the paper's J-DiT."""
PEAK = Path("/proc/self/clear_refs")
"""Linux: writing 5 makes the peak of resident memory the present."""


def preset(name: str, cls: type, **changes: Any) -> nn.Module:
    """A network of the paper with random bf16 weights: ``stvae_full``, ``jdit_0.1b``, ``jdit_1.0b``, ``jdit_3.4b``.

    Its weights are bf16 from the start: cast afterwards, memory would hold both for a moment.

    Raises:
        InputError: no such preset.
    """
    path = config_dir() / "models" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(unknown("preset", name.removeprefix("jdit_"), PRESETS))
    torch.set_default_dtype(torch.bfloat16)
    try:
        return cls(**{**OmegaConf.to_container(OmegaConf.load(path)), **changes}).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def random_pipeline(size: str, resolution: int, **changes: Any) -> LavinPipeline:
    """The paper's model of a size, with random weights and the release's settings."""
    stvae, jdit = preset("stvae_full", STVAE), preset(f"jdit_{size}", JDiT, **changes)
    pipeline = LavinPipeline(stvae, jdit, sample_size=resolution, time_grid="linear_quadratic")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_latents(frames: int, resolution: int, channels: int = 16) -> Tensor:
    side = resolution // SPACE_FACTOR
    return torch.randn(1, channels, frames, side, side, dtype=torch.bfloat16)


class HeldMemory(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still there; what they were given does not count.

    PyTorch's own ``MemTracker`` refuses modules that run twice before the end, as the ST-VAE's do on tiles and chunks.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for storage in storages((args, kwargs)):
            self.known.add(storage)
        result = func(*args, **kwargs)
        for storage in storages(result):
            if storage not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.released, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def released(self, size: int) -> None:
        self.now -= size


def storages(values: Any) -> Iterator[torch.UntypedStorage]:
    """Memory of the tensors in nested arguments."""
    return (leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def counted(call: Callable[[], Any]) -> tuple[int, int]:
    """Operations of a call (a multiply-add is two), and the most bytes it held at once besides weights and inputs.

    Run it on tensors without memory (``FakeTensorMode``) and nothing is computed.
    """
    with FlopCounterMode(display=False) as flops, HeldMemory() as memory:
        call()
    return flops.get_total_flops(), memory.peak


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 2048, repeats: int = 8) -> float:
    """Operations a second of square matrix products, the best of some."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def reset_peak(device: torch.device) -> None:
    """Let ``peak_bytes`` begin anew, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PEAK.exists():
        PEAK.write_text("5")


def peak_bytes(device: torch.device | str = "cpu") -> int:
    """Most memory so far: allocated on a GPU, or this process' resident memory, mapped files included."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
