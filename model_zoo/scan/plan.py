"""What is done, what has failed and what is left to do of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..sources.registry import source_of
from .selection import Candidate
from .settings import ScanSettings
from .store import Store
from .tasks import INTERRUPTED

__all__ = ["Job", "make_plan"]

State = Literal["to do", "done", "failed"]


@dataclass(frozen=True)
class Job:
    """One model of a scan.

    Attributes:
        number: position in the scan.
        candidate: the model.
        keys: of its results, by measurement.
        states: by measurement, when the plan was made.
        stamps: modification time of failures to be tried again, in ns, by measurement.
    """

    number: int
    candidate: Candidate
    keys: dict[str, str]
    states: dict[str, State]
    stamps: dict[str, int]

    @property
    def to_do(self) -> tuple[str, ...]:
        """Measurements to be made."""
        return tuple(m for m, state in self.states.items() if state == "to do")

    def still_to_do(self, store: Store) -> tuple[str, ...]:
        """Those of `to_do` that nobody else has made since the plan."""
        return tuple(
            m
            for m in self.to_do
            if store.modified(m, self.candidate.name, self.keys[m]) == self.stamps.get(m)
        )


def make_plan(
    candidates: Sequence[Candidate],
    settings: ScanSettings,
    store: Store | None,
    *,
    retry_failed: bool = False,
) -> list[Job]:
    """Look up every model and measurement in the store.

    Args:
        candidates: the models, in order.
        settings: with the images' fingerprint.
        store: results so far; None: nothing is done yet.
        retry_failed: try failures again.
    """
    jobs = []
    for number, candidate in enumerate(candidates):
        weights = source_of(candidate.name).identity(settings.pretrained)
        job = Job(number, candidate, {}, {}, {})
        for m in settings.measurements:
            key = job.keys[m] = settings.key(m, candidate.name, weights)
            outcome = None if store is None else store.outcome(m, candidate.name, key)
            again = outcome == INTERRUPTED or (outcome != "measured" and retry_failed)
            if outcome is None or again:
                job.states[m] = "to do"
                stamp = None if store is None else store.modified(m, candidate.name, key)
                if stamp is not None:
                    job.stamps[m] = stamp
            else:
                job.states[m] = "done" if outcome == "measured" else "failed"
        jobs.append(job)
    return jobs
