"""Memory of the workers that draw contexts: flat, however many they have drawn."""

from __future__ import annotations

from collections.abc import Iterator

import psutil

from lavin.data.stream import ContextStream, read_stream

MEASURES = 10
"""Of a run, evenly spaced."""


def worker_memory(stream: ContextStream, workers: int, contexts: int) -> Iterator[tuple[int, float]]:
    """(contexts drawn, MiB of the workers' own memory together) while a stream is read.

    Args:
        workers: processes that draw.
        contexts: how many to read.
    """
    before, me = {process.pid for process in psutil.Process().children()}, psutil.Process()
    drawn, batches = 0, read_stream(stream, workers)
    for number in range(1, MEASURES + 1):
        while drawn < number * contexts / MEASURES:
            drawn += len(next(batches).task_ids)
        own = [process for process in me.children(recursive=True) if process.pid not in before]
        # Of its own: what a fork shares with its parent, or libraries with other programs, is not the worker's.
        yield drawn, sum(process.memory_full_info().uss for process in own) / 2**20
