"""The process in which one model is measured; whatever the model does, only this process pays.

Its messages are `Described`, `Begun`, `Result` and `Failure`. All that it prints goes to a file.
It has its own process group (Ctrl-C in a terminal reaches the scan alone), and it dies with the
process that started it, by a signal of the kernel: a model that hangs cannot delay that.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection

import torch
from tqdm import tqdm

from liederiv.foreign import one_line
from liederiv.foreign_code import causes, is_about_memory

from ..weights.disk import disk_is_full
from .measurements import LoadedTask, peak_memory
from .tasks import INTERRUPTED, Begun, Described, Failure, Result, Task

__all__ = ["STACK_SIGNAL", "work"]

STACK_SIGNAL = getattr(signal, "SIGUSR1", None)
"""Makes a worker write down where it is."""


def work(task: Task, connection: Connection, log: str) -> None:
    """Do a task.

    Args:
        task: what to do.
        connection: for messages.
        log: file for what is printed.
    """
    _set_up_process(task, log)
    connection.send(Begun(""))  # with the loading of the model
    current, about = "", {}
    try:
        loaded = LoadedTask(task)
        about = loaded.describe()
        connection.send(Described(about))
        for current in task.measurements:
            connection.send(Begun(current))
            try:
                origin, frame = loaded.measure(current)
            except BaseException as error:  # a model may raise anything, SystemExit too
                connection.send(_failure(current, error))
                del error
                gc.collect()
            else:
                connection.send(Result(current, {**about, **origin}, frame))
    except BaseException as error:  # KeyboardInterrupt is the model's: signals do not reach here
        for measurement in task.measurements if not current else (current,):
            connection.send(_failure(measurement, error))
    finally:
        connection.close()


def _set_up_process(task: Task, log: str) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    _die_before_parent()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False, errors="replace")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="replace")  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    if STACK_SIGNAL is not None:
        faulthandler.register(STACK_SIGNAL, sys.stderr)
    tqdm.set_lock(threading.RLock())  # its own would leak a semaphore where a model crashes
    if task.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
    if os.path.isdir(task.folder):
        os.chdir(task.folder)
    sys.path += [p for p in task.search_path if p not in sys.path and os.path.exists(p)]
    if task.memory is not None:
        _limit_memory(task.memory)
    torch.set_num_threads(task.threads)


def _die_with_parent() -> None:
    """Let the kernel kill this process when the pipe from its parent is closed."""
    parent = parent_process()
    if parent is None or not hasattr(os, "O_ASYNC"):
        return
    import fcntl

    pipe = parent.sentinel
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # whose default is the end of the process
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it was closed before
        os._exit(1)


def _die_before_parent() -> None:
    """Let the kernel end this process, not the scan, when the machine runs out of memory."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    # Not the address space: CUDA and memory maps reserve much that they never use.
    wanted = limit + (peak_memory() or 0)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)  # a stricter limit of the system's holds
    least = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (least, least))


def _failure(measurement: str, error: BaseException) -> Failure:
    with suppress(Exception):  # where a model has closed the streams, or its error cannot be shown
        traceback.print_exception(error)
        sys.stderr.flush()
    return Failure(measurement, _outcome(error), _one_line(error))


def _outcome(error: BaseException) -> str:
    """What this error, or one that it comes from, is about: memory, the disk, or the model."""
    if any(map(is_about_memory, causes(error))):
        return "out of memory"
    return INTERRUPTED if disk_is_full(error) else "failed"


def _one_line(error: BaseException) -> str:
    text = one_line(error)[:500]
    own = type(error).__module__ == "liederiv.errors"
    return text if own and text else f"{one_line(type(error).__name__)}: {text}".rstrip(": ")
