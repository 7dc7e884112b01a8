"""Signals to a scan: Ctrl-C once ends after the models in flight, twice at once, as do others."""

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
        signal: number of the last signal; 0 without.
    """

    asked: bool = False
    now: bool = False
    signal: int = 0

    @property
    def exit_code(self) -> int:
        """What shells expect of a program that a signal has ended."""
        return 128 + (self.signal or signal.SIGINT)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGINT into a polite stop and its repetition, SIGTERM or SIGHUP, into one at once.

    A signal that is being ignored (SIGHUP under nohup) stays so.

    Outside the main thread, where Python delivers no signals, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def interrupt(number: int, frame: object) -> None:
        stop.now, stop.signal = stop.asked, number
        stop.asked = True

    def terminate(number: int, frame: object) -> None:
        stop.asked = stop.now = True
        stop.signal = number

    handlers: dict[int, Callable[[int, object], None]] = {signal.SIGINT: interrupt}
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        found = getattr(signal, name, None)
        if found is not None and signal.getsignal(found) is not signal.SIG_IGN:
            handlers[found] = terminate
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for number, former in before.items():
            signal.signal(number, former)
