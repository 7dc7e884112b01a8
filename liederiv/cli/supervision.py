"""The exit code is ours: a model cannot end the command with one of its own.

On Linux, a command that runs a model does so in a forked process, which hands its exit code over a
pipe. If that process ends without (``os._exit(0)`` in a model, a crash in its C++ code, want of
memory), this one says so, and ends with code 2. Elsewhere a fork is not safe once torch is loaded
(or does not exist); there, only what Python raises is caught.

Both processes belong to the terminal's group. Signals that come to this one are handed on: Ctrl-C
as another signal, since the terminal sends it to both, and it should arrive once.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from liederiv.cli.failures import complain
from liederiv.cli.terminal import Streams
from liederiv.foreign_code import noticing

__all__ = ["can_supervise", "supervised"]

_INTERRUPT = getattr(signal, "SIGRTMIN", None)  # our Ctrl-C, between the two processes
_HANDED_ON = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def can_supervise() -> bool:
    """Whether this process may be forked now."""
    alone = threading.current_thread() is threading.main_thread()
    return sys.platform == "linux" and alone and _INTERRUPT is not None


def supervised(command: Callable[[], int], streams: Streams) -> int:
    """Run a command in a process of its own and return its exit code.

    Args:
        command: returns its exit code, and raises nothing.
        streams: what it prints to; flushed at its end.

    Returns:
        the exit code; 2, after a sentence, if the process ended without one.
    """
    streams.flush()
    reader, writer = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until both know what to do with it
    with warnings.catch_warnings():  # of threads: those of numpy's BLAS, which survive a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        _run(command, writer, streams)
    os.close(writer)
    came = _hand_on_signals(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _, status = os.waitpid(child, 0)
    os.set_blocking(reader, False)  # a process that the model has left behind may hold its end
    with suppress(BlockingIOError), os.fdopen(reader, "rb", buffering=0) as pipe:
        told = pipe.read(1)
        if told:
            return told[0]
    return _without_verdict(status, came)


def _run(command: Callable[[], int], writer: int, streams: Streams) -> None:
    """What the new process does; it does not return."""
    code, me = 2, os.getpid()
    try:
        _become_child()
        code = command()
        if os.getpid() != me:  # the model has forked too, and its child came back
            os._exit(code)
        streams.restore()
        streams.flush()
        os.write(writer, bytes([code]))
        os.close(writer)
        # Threads of the model's end here; what it wanted done at exit is done, and decides nothing.
        atexit._run_exitfuncs()
    except BaseException:
        os._exit(2)
    finally:
        streams.flush()
        os._exit(code)


def _become_child() -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, int(signal.SIGKILL))
    assert _INTERRUPT is not None
    if callable(signal.getsignal(signal.SIGINT)):  # and not ignored, as under nohup
        signal.signal(_INTERRUPT, noticing(signal.default_int_handler))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _hand_on_signals(child: int) -> list[int]:
    """Let signals reach the child; the numbers of those that came."""
    came: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        came.append(number)
        with suppress(ProcessLookupError):
            os.kill(child, _INTERRUPT if number == signal.SIGINT else number)  # type: ignore[arg-type]

    for name in ("SIGINT", *_HANDED_ON):
        number = getattr(signal, name)
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, hand_on)
    return came


def _without_verdict(status: int, came: list[int]) -> int:
    code = os.waitstatus_to_exitcode(status)
    if code < 0 and -code in came:  # what was asked for
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code == -signal.SIGKILL:
        how = "was killed by the system (SIGKILL), most likely for want of memory"
    elif code < 0:
        how = f"crashed ({_name(-code)})"
    else:
        how = f"ended by itself with exit code {code}, as os._exit does in the model's code"
    complain(
        f"the process that measured {how}, so there is no result of it; mend the model's code, or "
        "give it less to do (--batch-size, --num-images)."
    )
    return 2


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
