"""A worker process and its watcher: messages, time limit, and what its end means."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any

from liederiv.errors import LieDerivError
from liederiv.foreign import printable

from .tasks import (
    INTERRUPTED,
    Begun,
    Delivery,
    Described,
    Failure,
    Task,
)
from .worker import STACK_SIGNAL, work

__all__ = ["Worker", "run_isolated"]

_LOG_BYTES = 2**18  # of the end of what a model printed: what is kept of it
_LOG_LIMIT = 2**26  # what a model prints without end must not fill the disk
_START_SECONDS = 300.0  # a process may take to import everything on a busy machine
# A process that hangs may write its stack, and one that is done may tidy up, before it is killed.
_STACK_SECONDS, _END_SECONDS = 0.5, 10.0
# Sent by people and batch systems to whole groups or jobs; SIGIO by the kernel when the scan is
# gone. A model that sends them to itself cannot be told from these.
_FROM_OUTSIDE = ("SIGTERM", "SIGHUP", "SIGINT", "SIGXCPU", "SIGUSR2", "SIGIO")
_SERVER_SECONDS = 30.0  # a killed server may take to be gone: until then its door is closed
_SERVER_LOST = 255  # multiprocessing's word for a process whose server of forks has died


class Worker:
    """One task in a process of its own.

    Args:
        task: what to do.

    Attributes:
        task: the same.
        pending: measurements of which nothing has been delivered yet.
        ended: whether the process is gone and everything delivered.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.pending = list(task.measurements)
        self.ended = False
        self._about: dict[str, Any] = {}
        self._current: str | None = None
        self._begun = False
        self._earlier = b""
        try:
            handle, self._log = tempfile.mkstemp(prefix="liederiv-scan-", suffix=".log")
            os.close(handle)
            self._start()
        except (OSError, EOFError) as error:
            raise LieDerivError(
                f"no process can be started for {printable(task.name)} "
                f"({printable(error) or type(error).__name__}); check memory, processes and space "
                "in the folder for temporary files, then run the same command to go on."
            ) from error
        self._deadline = self._next_deadline() + _START_SECONDS

    def _start(self) -> None:
        """Start the process; again while the server that forks is dying, then by a new one."""
        context, end = _context(), time.monotonic() + _SERVER_SECONDS
        while True:
            self._connection, theirs = context.Pipe(duplex=False)
            self._process = context.Process(target=work, args=(self.task, theirs, self._log))
            try:
                with _without_main_module():
                    self._process.start()
            except (OSError, EOFError) as error:
                self._connection.close()
                dying = isinstance(error, EOFError | ConnectionError)
                if not dying or time.monotonic() > end:
                    Path(self._log).unlink(missing_ok=True)
                    raise
                time.sleep(0.02)
            else:
                return
            finally:
                theirs.close()

    @property
    def waitables(self) -> list[Any]:
        """One of them becomes ready when there is a message, or when the process has ended."""
        end = self._process.sentinel
        return [self._connection, end] if self.pending else [end]

    @property
    def seconds_left(self) -> float:
        """Until the time limit strikes."""
        return max(0.0, self._deadline - time.monotonic())

    def poll(self) -> list[Delivery]:
        """What has come in; after the end of the process, a failure for all that it left undone."""
        out: list[Delivery] = []
        try:
            dead = self._process.exitcode is not None  # asked first: messages may still wait
            while self.pending and self._connection.poll():
                out += self._receive(self._connection.recv())
        except Exception:  # the end of the pipe, or a model that writes into it
            dead = True
        self._bound_log()
        if self.pending and dead:
            out += self._ended()
        elif not self.seconds_left:
            out += self._timed_out()
        elif dead:
            self.kill()  # only to tidy up
        return out

    def kill(self) -> None:
        """End the process and what it has started, at once."""
        process = self._process
        # Also where it has ended: what it has started may stay, and would hold on to memory, GPUs
        # and the scan's own streams. Where its server is lost, nobody can say whether it lives.
        if process.pid is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (AttributeError, ProcessLookupError, PermissionError):
                process.kill()  # before it had a group, or on a system without
        process.join()
        self._connection.close()
        with suppress(OSError):
            Path(self._log).unlink(missing_ok=True)
        self.pending.clear()
        self.ended = True

    def _receive(self, message: Any) -> list[Delivery]:
        if isinstance(message, Described):
            self._about.update(message.about)
            return []
        if isinstance(message, Begun):
            self._begun = True
            self._current = message.measurement or None
            self._deadline = self._next_deadline()
            return []
        self.pending.remove(message.measurement)
        delivery: Delivery = message
        if isinstance(message, Failure):
            delivery = self._failure(message.measurement, message.outcome, message.reason)
        if not self.pending:
            self._deadline = time.monotonic() + _END_SECONDS  # it may tidy up
        return [delivery]

    def _ended(self) -> list[Delivery]:
        """The process has closed its end of the pipe: by itself, or by a signal."""
        self._process.join(_END_SECONDS)
        code = self._process.exitcode
        outcome, reason = "crashed", f"the process ended by itself with exit code {code}"
        if not self._begun:  # nothing of the model has run
            how = _signal_name(-code) if code is not None and code < 0 else f"exit code {code}"
            outcome, reason = INTERRUPTED, f"the process ended before it had begun ({how})"
        elif code is None:
            reason = "the process closed its connection"
        elif code == -signal.SIGKILL:
            outcome = "killed"
            reason = "killed by the system (SIGKILL), most likely for want of memory"
        elif code == _SERVER_LOST or -code in _outside():
            by = "its server died, or it ended itself with 255" if code > 0 else _signal_name(-code)
            outcome, reason = INTERRUPTED, f"ended from outside ({by})"
        elif code < 0:
            reason = f"the process crashed ({_signal_name(-code)})"
        return self._give_up(outcome, reason)

    def _timed_out(self) -> list[Delivery]:
        if not self.pending:
            self.kill()
            return []
        if STACK_SIGNAL is not None and self._process.pid is not None:
            os.kill(self._process.pid, STACK_SIGNAL)  # where does it hang? the log will say
            self._process.join(_STACK_SECONDS)
        limit = self.task.timeout
        return self._give_up("timeout", f"not done within {limit:g} s (--timeout)")

    def _give_up(self, outcome: str, reason: str) -> list[Delivery]:
        """The measurement under way has failed; without one, all: the model cannot be loaded."""
        lost = [self._current] if self._current in self.pending else list(self.pending)
        failures: list[Delivery] = [self._failure(m, outcome, reason) for m in lost if m]
        self.kill()
        return failures

    def _failure(self, measurement: str, outcome: str, reason: str) -> Failure:
        return Failure(measurement, outcome, reason, dict(self._about), self._read_log())

    def _read_log(self) -> str:
        """The end of what was printed; nothing where somebody has tidied up the folder."""
        try:
            with open(self._log, "rb") as file:
                file.seek(max(0, os.path.getsize(self._log) - _LOG_BYTES))
                end = file.read()
        except OSError:
            end = b""
        return (self._earlier + end)[-_LOG_BYTES:].decode(errors="replace")

    def _bound_log(self) -> None:
        """Keep the end of a log that grows without end; the process appends, so it may be cut."""
        with suppress(OSError):
            if os.path.getsize(self._log) > _LOG_LIMIT:
                self._earlier = self._read_log().encode()
                os.truncate(self._log, 0)

    def _next_deadline(self) -> float:
        limit = self.task.timeout
        return float("inf") if limit is None else time.monotonic() + limit


def run_isolated(task: Task) -> list[Delivery]:
    """Do one task from beginning to end; what is left undone after a failure has no delivery."""
    worker = Worker(task)
    out: list[Delivery] = []
    try:
        while not worker.ended:
            left = worker.seconds_left
            wait(worker.waitables, None if left == float("inf") else left)
            out += worker.poll()
    finally:
        if not worker.ended:
            worker.kill()
    return out


def _context() -> Any:
    """Forks of a server that has imported everything where that is safe, else new interpreters."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["liederiv.model_zoo.scan.worker"])
    return context


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep multiprocessing from running the main script again in each process: none needs it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _outside() -> set[int]:
    return {int(n) for name in _FROM_OUTSIDE if (n := getattr(signal, name, None)) is not None}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
