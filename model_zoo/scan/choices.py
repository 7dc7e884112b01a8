"""From what a user asks for (workers, threads, GPUs) to an engine and its workers' limits."""

from __future__ import annotations

import os
import re

from liederiv.errors import LieDerivError

from .engines import Engine, LocalEngine, gpu_slots
from .scanning import Limits

__all__ = ["choose_engine", "parse_count"]

_LEAST_MEMORY, _MOST_MEMORY = 2**26, 2**60  # beyond those of the process; what the system counts
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}


def choose_engine(
    name: str,
    device: str,
    *,
    workers: int | None = None,
    threads: int | None = None,
    gpus_per_task: float | None = None,
    memory: int | None = None,
    timeout: float | None = None,
    address: str | None = None,
) -> tuple[Limits, Engine]:
    """Make the engine.

    Args:
        name: ``local`` or ``ray``.
        device: ``cpu``, ``cuda``, …: of the measurements.
        workers: models at once; None: one per GPU slot, one without GPUs, all that a cluster holds.
        threads: of each worker; None divides the cores between them.
        gpus_per_task: share of a GPU; None: 1 on ``cuda``, else 0.
        memory: bytes for each worker.
        timeout: seconds per measurement.
        address: of a Ray cluster.

    Returns:
        Limits of each worker, and the engine.

    Raises:
        LieDerivError: for numbers out of range and engines that are not there.
    """
    for option, value in (("--workers", workers), ("--threads", threads)):
        if value is not None and value < 1:
            raise LieDerivError(f"{option}={value} must be 1 or more.")
    if timeout is not None and not timeout > 0:
        raise LieDerivError(f"--timeout={timeout:g} must be a positive number of seconds.")
    if memory is not None and not _LEAST_MEMORY <= memory < _MOST_MEMORY:
        raise LieDerivError(
            f"--memory={memory} bytes leaves no model room, or is no size; ask for 64MB or more."
        )
    share = (1.0 if device == "cuda" else 0.0) if gpus_per_task is None else gpus_per_task
    if share < 0 or (share > 1 and share != int(share)):
        raise LieDerivError(f"--gpus-per-task={share:g} must be a fraction or a whole number.")
    if name == "local":
        if address is not None:
            raise LieDerivError("--address belongs to --engine ray; leave it out.")
        gpus = _slots(share, workers) if share else []
        count = workers or len(gpus) or 1
        limits = Limits(threads or max(1, _cores() // count), timeout, memory)
        return limits, LocalEngine(count, gpus)
    if name == "ray":
        from .ray_engine import RayEngine

        limits = Limits(threads or max(1, _cores() // (workers or 1)), timeout, memory)
        return limits, RayEngine(workers, limits.threads, share, memory, address)
    raise LieDerivError(f"--engine={name!r} is unknown; choose local or ray.")


def parse_count(text: str, option: str) -> float:
    """A number with an optional K, M or B, such as ``100M``.

    Raises:
        LieDerivError: for anything else.

    Example:
        >>> parse_count("2.5M", "--max-params")
        2500000.0
    """
    match = re.fullmatch(r"([0-9]+\.?[0-9]*(?:e[0-9]+)?)([KMBG]?)", text.strip(), re.IGNORECASE)
    if match is None:
        raise LieDerivError(f"{option}={text!r} must be a number such as 100M or 25000000.")
    return float(match[1]) * _UNITS[match[2].upper()]


def _slots(share: float, workers: int | None) -> list[str]:
    slots = gpu_slots(share, workers)
    if not slots or (workers is not None and len(slots) < workers):
        raise LieDerivError(
            f"--workers={workers or 1} with --gpus-per-task={share:g} need more GPUs than there "
            f"are (room for {len(slots)}); ask for less, or use --device cpu."
        )
    return slots


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
