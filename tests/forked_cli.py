"""The command line in a process of its own, forked from this one: a new one takes seconds."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from liederiv.cli import main

__all__ = ["Ended", "Started", "start"]

for _work in ("gating", "layer_tables", "listing", "scan_report", "score_report", "tracking"):
    import_module(f"liederiv.cli.{_work}")  # what commands import when they run, once for all


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, and what it printed; −n for signal n."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Started:
    """A process under way."""

    number: int
    out: IO[bytes]
    err: IO[bytes]
    encoding: str

    def wait(self) -> Ended:
        """Wait for its end."""
        _, status = os.waitpid(self.number, 0)
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode(self.encoding))
            file.close()
        return Ended(os.waitstatus_to_exitcode(status), *texts)


def start(
    arguments: Sequence[object],
    *,
    before: Callable[[], Any] = lambda: None,
    encoding: str = "utf-8",
    folder: Path | None = None,
) -> Started:
    """Start `liederiv` with arguments.

    Args:
        arguments: of the command line.
        before: called in the new process, after its standard streams are in place.
        encoding: of its standard streams.
        folder: where it runs.
    """
    files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
    with warnings.catch_warnings():  # of threads
        warnings.simplefilter("ignore")
        number = os.fork()
    if number:
        return Started(number, *files, encoding)
    code = 99
    try:
        os.setpgrp()
        faulthandler.disable()  # pytest's, which would write among its output
        for stream, file in enumerate(files, 1):
            os.dup2(file.fileno(), stream)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        for name, stream in (("stdout", 1), ("stderr", 2)):
            opened = open(stream, "w", encoding=encoding, closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)
        warnings.resetwarnings()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if folder is not None:
            os.chdir(folder)
        sys.argv = ["liederiv", *map(str, arguments)]
        before()
        main()
        code = 98
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 97
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, BrokenPipeError):  # the interpreter's end says no more
                stream.flush()
        os._exit(code)
