"""Code that is not ours: a model, its factory, its module. Whatever it raises is its own failure.

A model may call ``sys.exit(0)``, raise ``KeyboardInterrupt`` or any other `BaseException`. None of
that may end the program that measures it, least of all with an exit code that says that all is
well. A real Ctrl-C, and whatever else a signal of the outside sets off, must. The two are told
apart by whether a signal has come: handlers are wrapped to count, and still do what they did.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from liederiv.errors import ModelError
from liederiv.foreign import described, one_line, printable

__all__ = ["Watch", "causes", "is_about_memory", "noticing", "users_code", "what_was_raised"]

# Those that people and batch systems send, and that timers do.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGBREAK")
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
_arrived = [0]
_depth = [0]


@dataclass(frozen=True)
class Watch:
    """Whether a signal has come since the watch began.

    Attributes:
        before: signals until then.
        inside: whether it began inside another, as all do that belong to a command.
    """

    before: int
    inside: bool = False

    @property
    def interrupted(self) -> bool:
        """Whether somebody outside has asked to stop."""
        return _arrived[0] > self.before


def noticing(handler: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
    """A signal handler that does the same as another, and is counted."""

    def counted(number: int, frame: Any) -> Any:
        _arrived[0] += 1
        return handler(number, frame)

    counted.counts = True  # type: ignore[attr-defined]
    return counted


@contextmanager
def users_code(what: str = "the model", *, library: bool = False) -> Iterator[Watch]:
    """Let no code of the user's end the program: what is no `Exception` becomes a `ModelError`.

    Args:
        what: whose code runs inside, at the beginning of the sentence.
        library: a program of the user's calls, not a command of ours: its `KeyboardInterrupt`
            passes, whoever raised it, unless this is inside another such context.

    Yields:
        a `Watch`, which says whether a `KeyboardInterrupt` is one of the outside's.

    Raises:
        ModelError: for ``SystemExit``, ``KeyboardInterrupt``, ``GeneratorExit`` and any other
            `BaseException` that no signal has caused. An `Exception` passes as it is.

    Example:
        >>> try:
        ...     with users_code("the model"):
        ...         raise SystemExit(0)
        ... except ModelError as error:
        ...     print(str(error)[:49])
        the model raised SystemExit(0), which would end t
    """
    watch = Watch(_arrived[0], _depth[0] > 0)
    with _counted_signals(), _deeper():
        try:
            yield watch
        except Exception:
            raise
        except BaseException as stop:
            pressed = library and not watch.inside and isinstance(stop, KeyboardInterrupt)
            if watch.interrupted or pressed:
                raise
            raise ModelError(
                f"{what} raised {what_was_raised(stop)}, which would end the program that measures "
                "it; let it return, or raise an Exception."
            ) from stop


@contextmanager
def _deeper() -> Iterator[None]:
    _depth[0] += 1
    try:
        yield
    finally:
        _depth[0] -= 1


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it comes from, each once: a chain of others' errors may be a ring.

    Example:
        >>> first, second = ValueError("a"), ValueError("b")
        >>> first.__context__, second.__context__ = second, first
        >>> list(causes(first))
        [ValueError('a'), ValueError('b')]
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_about_memory(error: BaseException) -> bool:
    """Whether this very error says that memory did not suffice, on any device."""
    torch = sys.modules.get("torch")  # without it, nobody has raised its error
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(t in printable(error) for t in _OUT_OF_MEMORY)


def what_was_raised(error: BaseException) -> str:
    """An exception in one line, as it was raised: ``SystemExit(0)``, ``ValueError: no data``."""
    name = one_line(type(error).__name__)
    if isinstance(error, Exception):
        text = one_line(error)
        return f"{name}: {text}" if text else name
    arguments = getattr(error, "args", ())
    return f"{name}({', '.join(map(described, arguments))})"


@contextmanager
def _counted_signals() -> Iterator[None]:
    """Count the signals that have a handler in Python; outside the main thread none arrives."""
    changed: dict[signal.Signals, tuple[Any, Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            before = None if number is None else signal.getsignal(number)
            if number is None or not callable(before) or hasattr(before, "counts"):
                continue
            counted = noticing(before)
            signal.signal(number, counted)
            changed[number] = (before, counted)
    try:
        yield
    finally:
        for number, (before, counted) in changed.items():
            if signal.getsignal(number) is counted:  # unless the code has installed its own
                signal.signal(number, before)
