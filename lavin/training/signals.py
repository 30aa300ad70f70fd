"""SIGTERM and Ctrl-C: what a run hears of them, and what its workers do not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What makes a run save and exit."""


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started here do not hear a terminal's Ctrl-C: it is the trainer's, which still needs their batches."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def signals_noted(note: Callable[[int], None], once: bool) -> Iterator[None]:
    """Call ``note`` with the number of a signal that would end the process.

    Args:
        once: a second one then ends it; launchers pass a Ctrl-C on that their ranks have got already, so not with them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number, _):
        note(number)
        if once:
            signal.signal(number, before[number])

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
