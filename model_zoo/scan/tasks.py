"""What travels between a scan and its workers: a task there, its deliveries back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from .settings import ScanSettings
from .weights import WeightsPolicy

__all__ = [
    "INTERRUPTED",
    "OUT_OF_MEMORY",
    "Begun",
    "Delivery",
    "Described",
    "Failure",
    "Result",
    "Task",
]

OUT_OF_MEMORY = ("out of memory", "killed")
INTERRUPTED = "interrupted"
"""The outcome of a measurement that something outside has ended: a resumed scan makes it again."""
_DEFAULT_BATCH = {"cpu": 4}
_DEFAULT_BATCH_ELSEWHERE = 32


@dataclass(frozen=True)
class Task:
    """Measurements of one model, to be made in a process of its own.

    Attributes:
        number: of the model in the scan.
        name: full current name of the model.
        requested: as it was asked for.
        settings: of the scan.
        measurements: still to be made.
        threads: of the process, on the CPU.
        timeout: seconds that one measurement may take, loading included; None for no limit.
        memory: bytes that the process may allocate; None for no limit.
        gpu: value of CUDA_VISIBLE_DEVICES; None leaves it alone.
        offline: leave the hub alone: weights are on disk.
        weights: how to get them there, for an engine whose workers are elsewhere; None: they are.
        batch_size: images per pass, when memory has not sufficed for the usual number.
        folder: working directory of the scan.
        search_path: where the scan finds Python modules.
        modules: to be imported first, since they register the model's source.
    """

    number: int
    name: str
    requested: str
    settings: ScanSettings
    measurements: tuple[str, ...]
    threads: int = 1
    timeout: float | None = None
    memory: int | None = None
    gpu: str | None = None
    offline: bool = False
    weights: WeightsPolicy | None = None
    batch_size: int | None = None
    folder: str = ""
    search_path: tuple[str, ...] = field(default=(), repr=False)
    modules: tuple[str, ...] = ()

    def smaller(self, measurements: tuple[str, ...]) -> Task | None:
        """The same for some measurements in half the memory; None if there is nothing to halve."""
        now = self.batch_size or self._usual_batch()
        if self.batch_size == 1:
            return None
        half = max(1, now // 2) if "score" in measurements else 1
        return replace(self, measurements=measurements, batch_size=half)

    def _usual_batch(self) -> int:
        asked = self.settings.batch_size
        usual = _DEFAULT_BATCH.get(self.settings.device, _DEFAULT_BATCH_ELSEWHERE)
        images = max(self.settings.images_of(m) for m in self.measurements)
        return min(usual if asked == "auto" else int(asked), images)


@dataclass(frozen=True)
class Described:
    """The model is loaded.

    Attributes:
        about: fields of `Origin` that are known now.
    """

    about: Mapping[str, Any]


@dataclass(frozen=True)
class Begun:
    """A measurement has begun.

    Attributes:
        measurement: which; empty for the loading of the model.
    """

    measurement: str


@dataclass(frozen=True)
class Result:
    """A measurement is made.

    Attributes:
        measurement: which.
        about: fields of `Origin`.
        frame: its rows.
    """

    measurement: str
    about: Mapping[str, Any]
    frame: pd.DataFrame


@dataclass(frozen=True)
class Failure:
    """A measurement could not be made.

    Attributes:
        measurement: which.
        outcome: as in `Origin`.
        reason: one sentence.
        about: fields of `Origin` that are known.
        log: what the process has printed, at least its end.
    """

    measurement: str
    outcome: str
    reason: str
    about: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""


Delivery = Result | Failure
