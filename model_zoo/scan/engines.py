"""Where the processes of a scan run: here, several at once; `ray_engine` has the cluster's."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Protocol

import torch

from .isolation import Worker
from .tasks import Delivery, Task

__all__ = ["Engine", "Event", "LocalEngine", "gpu_slots"]

Event = tuple[Task, Delivery | None]


class Engine(Protocol):
    """Runs tasks, each in a process of its own.

    Attributes:
        slots: how many tasks run at once.
        elsewhere: whether they may run on other machines, with disks of their own.
    """

    slots: int
    elsewhere: bool

    def submit(self, task: Task) -> None:
        """Start a task; to be called only while fewer than `slots` are running."""

    def events(self, seconds: float) -> list[Event]:
        """What has come in, waited for at most so long; None for a delivery: the task is over."""

    def close(self) -> None:
        """Kill what is running and let go of everything."""


class LocalEngine:
    """Worker processes on this machine.

    Args:
        workers: how many at once.
        gpus: value of CUDA_VISIBLE_DEVICES for each worker; empty without GPUs.
    """

    elsewhere = False

    def __init__(self, workers: int, gpus: list[str] | None = None) -> None:
        self.slots = workers
        self._free_gpus = deque(gpus or ())
        self._running: list[tuple[Task, Worker]] = []

    def submit(self, task: Task) -> None:
        """Start a task in a fresh process, on the GPU that is free."""
        gpu = self._free_gpus.popleft() if self._free_gpus else None
        self._running.append((task, Worker(replace(task, gpu=gpu))))

    def events(self, seconds: float) -> list[Event]:
        """See `Engine`."""
        if not self._running:
            return []
        limit = min([seconds, *(w.seconds_left for _, w in self._running)])
        wait([thing for _, w in self._running for thing in w.waitables], limit)
        out: list[Event] = []
        for task, worker in list(self._running):
            out += [(task, delivery) for delivery in worker.poll()]
            if worker.ended:
                self._running.remove((task, worker))
                if worker.task.gpu is not None:
                    self._free_gpus.append(worker.task.gpu)
                out.append((task, None))
        return out

    def close(self) -> None:
        """Kill all workers at once."""
        for _, worker in self._running:
            worker.kill()
        self._running.clear()


def gpu_slots(per_task: float, workers: int | None) -> list[str]:
    """One entry per worker: the GPU that it uses, as CUDA_VISIBLE_DEVICES names it.

    Args:
        per_task: share of a GPU that one task takes; several whole ones if above 1.
        workers: how many workers; as many as fit if None.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if per_task >= 1:
        n = round(per_task)
        slots = [",".join(ids[i : i + n]) for i in range(0, len(ids) - n + 1, n)]
    else:
        # Spread over all GPUs before any is shared.
        slots = [gpu for _ in range(int(1 / per_task)) for gpu in ids]
    return slots if workers is None else slots[:workers]
