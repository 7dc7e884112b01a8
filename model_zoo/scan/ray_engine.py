"""A Ray cluster as the place where a scan's tasks run (`pip install 'liederiv[ray]'`).

Each model is an ordinary Ray task with resource requests. Inside it, the model gets a process of
its own by the very code that the local engine uses, so results and failures are the same.
"""

from __future__ import annotations

import os
import socket
import warnings
from dataclasses import replace
from typing import Any

from liederiv.errors import LieDerivError
from liederiv.foreign import one_line, printable

from .engines import Event
from .isolation import run_isolated
from .tasks import INTERRUPTED, Delivery, Failure, Task
from .weights import fetched_weights

__all__ = ["RayEngine"]

_PROBE_SECONDS = 10.0


class RayEngine:
    """Tasks on a Ray cluster.

    Args:
        workers: how many at once; as many as the cluster has CPUs or GPUs for if None.
        threads: CPUs that one task asks for and uses.
        gpus_per_task: GPUs that one task asks for; a fraction shares one.
        memory: bytes that one task asks for; None asks for nothing.
        address: of an existing cluster, or ``auto``; None starts one on this machine.

    Raises:
        LieDerivError: if Ray is not installed or the cluster cannot be reached.
    """

    elsewhere = True

    def __init__(
        self,
        workers: int | None,
        threads: int,
        gpus_per_task: float,
        memory: int | None,
        address: str | None,
    ) -> None:
        self._ray = _import_ray()
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address)
        resources = self._ray.cluster_resources()
        fitting = _fitting(resources, threads, gpus_per_task, memory)
        self.slots = workers or fitting
        options: dict[str, Any] = {"num_cpus": threads, "max_retries": 0}
        if gpus_per_task:
            options["num_gpus"] = gpus_per_task
        if memory is not None:
            options["memory"] = memory
        self._remote = self._ray.remote(**options)(_run_on_worker)
        self._running: dict[Any, Task] = {}

    def submit(self, task: Task) -> None:
        """Hand a task to the cluster."""
        self._running[self._remote.remote(task)] = task

    def events(self, seconds: float) -> list[Event]:
        """See `Engine`."""
        if not self._running:
            return []
        try:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        except Exception as error:  # whatever Ray's client raises where the cluster is gone
            raise LieDerivError(
                f"the Ray cluster is gone ({_line(error)}); what is measured is stored: start it "
                "again and run the same command to go on."
            ) from error
        out: list[Event] = []
        for reference in ready:
            out += self._collect(reference)
        return out

    def close(self) -> None:
        """Cancel what is running; leave the cluster, or end it if it was started here."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._own:
            self._ray.shutdown()

    def _collect(self, reference: Any) -> list[Event]:
        task = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            deliveries = self._ray.get(reference)
        except errors.OutOfMemoryError as error:
            return self._lost(task, "killed", f"killed by Ray for want of memory: {_line(error)}")
        except errors.RayError as error:
            # Its node, its worker or our code there: not the model, which has its own process. The
            # scan counts how often it starts this again.
            return self._lost(task, INTERRUPTED, f"Ray: {_line(error)}")
        return [*((task, delivery) for delivery in deliveries), (task, None)]

    def _lost(self, task: Task, outcome: str, reason: str) -> list[Event]:
        failures = [Failure(m, outcome, reason) for m in task.measurements]
        return [*((task, failure) for failure in failures), (task, None)]

    def _connect(self, address: str | None) -> None:
        try:
            _probe(address)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Ray's own, of which a scan's user can do nothing
                self._ray.init(address or "local", log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            raise LieDerivError(
                f"--address={address!r}: no Ray cluster there ({_line(error)}); start one with "
                "`ray start --head`, or leave the option out."
            ) from error


def _probe(address: str | None) -> None:
    """Fail at once where nobody listens; Ray itself tries for many minutes."""
    host, sign, port = (address or "").removeprefix("ray://").rpartition(":")
    if sign and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()


def _run_on_worker(task: Task) -> list[Delivery]:
    """What a Ray worker does: Ray says which GPU is its own; weights come to this machine."""
    task = replace(task, gpu=os.environ.get("CUDA_VISIBLE_DEVICES"))
    if task.weights is None:
        return run_isolated(task)
    with fetched_weights(task.name, task.weights) as fetched:
        if fetched.status == "failed":
            outcome = INTERRUPTED if fetched.disk_full else "failed"
            return [Failure(m, outcome, fetched.reason) for m in task.measurements]
        offline = task.weights.offline or fetched.status != "not needed"
        return run_isolated(replace(task, offline=offline))


def _import_ray() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
    except ImportError as error:
        raise LieDerivError(
            "--engine=ray needs Ray; pip install 'liederiv[ray]', or use --engine local."
        ) from error
    return ray


def _fitting(
    resources: dict[str, float], threads: int, gpus_per_task: float, memory: int | None
) -> int:
    """How many tasks the cluster can hold at once."""
    if memory is not None and memory > resources.get("memory", float("inf")):
        raise LieDerivError(
            f"--memory={memory} bytes is more than the Ray cluster has ({resources['memory']:.0f}),"
            " so its tasks would wait for ever; ask for less."
        )
    counts = [resources.get("CPU", 1.0) / threads]
    if gpus_per_task:
        counts.append(resources.get("GPU", 0.0) / gpus_per_task)
    if min(counts) < 1:
        raise LieDerivError(
            f"the Ray cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} "
            f"GPUs, one task asks for {threads} and {gpus_per_task:g}; ask for less with "
            "--threads or --gpus-per-task."
        )
    return int(min(counts))


def _line(error: BaseException) -> str:
    lines = printable(error).strip().splitlines() or [type(error).__name__]
    return one_line(lines[0])[:300].rstrip(".")
