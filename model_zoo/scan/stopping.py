"""Ctrl-C in a scan: once to end after the models in flight, twice to end at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Stop", "stop_on_signals"]


@dataclass
class Stop:
    """What the user wants.

    Attributes:
        asked: begin nothing new.
        now: kill what is running.
    """

    asked: bool = False
    now: bool = False


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[Stop]:
    """Turn SIGINT into a polite stop and its repetition, or SIGTERM, into one at once.

    Outside the main thread, where Python delivers no signals, nothing is changed.

    Args:
        say: told what the first Ctrl-C means.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def interrupt(number: int, frame: object) -> None:
        stop.now = stop.asked
        if not stop.asked:
            stop.asked = True
            say("stopping after the models in flight; Ctrl-C again stops at once")

    def terminate(number: int, frame: object) -> None:
        stop.asked = stop.now = True

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminate),
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
