"""The scan itself: hands models to an engine, keeps what comes back, goes on whatever happens.

One loop, one process: workers only measure. Each model is claimed in the store while it is being
measured, so that several scans can share a folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from liederiv.measurement.results import Provenance

from ..sources.registry import modules_of_source, source_of
from ..weights.ahead import Prefetcher
from .columns import Origin, versions_of
from .engines import Engine
from .plan import Job
from .progress import Reporter
from .settings import ScanSettings
from .stopping import Stop
from .store import Store, TableError
from .tasks import (
    INTERRUPTED,
    OUT_OF_MEMORY,
    Delivery,
    Failure,
    Result,
    Task,
)
from .weights import WeightsPolicy

__all__ = ["Limits", "Scan", "Summary"]

# Wait so long for news at most, so that a stop by the user is seen; and so long for weights only.
_POLL_SECONDS, _SHORT_SECONDS = 0.3, 0.02
_MOST_STARTS = 3  # of a process that ends without a word, or is ended from outside


@dataclass(frozen=True)
class Limits:
    """What each worker may use.

    Attributes:
        threads: on the CPU.
        timeout: seconds per measurement; None for no limit.
        memory: bytes; None for no limit.
    """

    threads: int = 1
    timeout: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Summary:
    """What a scan has done.

    Attributes:
        measured: measurements made.
        failed: measurements that failed now.
        left: measurements not made, because the scan was stopped.
        seconds: it took.
    """

    measured: int
    failed: int
    left: int
    seconds: float


@dataclass
class _InFlight:
    """A model that is being measured."""

    job: Job
    pending: set[str]
    claims: ExitStack
    fetching: Task | None = None
    retry: list[Failure] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    interruptions: Counter[str] = field(default_factory=Counter)
    fruitless: int = 0
    started: float = field(default_factory=time.monotonic)


class Scan:
    """Measures the jobs of a plan.

    Args:
        jobs: the plan.
        settings: of all measurements, with the images' fingerprint.
        store: where results go.
        engine: where tasks run.
        limits: of each worker.
        reporter: tells the user.
        stop: whether the user wants it to end.
        weights: how published weights come to disk; None leaves that to the workers.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        settings: ScanSettings,
        store: Store,
        engine: Engine,
        limits: Limits,
        reporter: Reporter,
        stop: Stop,
        weights: WeightsPolicy | None = None,
    ) -> None:
        self._settings, self._store, self._engine = settings, store, engine
        self._limits, self._reporter, self._stop = limits, reporter, stop
        self._waiting = deque(job for job in jobs if job.to_do)
        self._flying: dict[int, _InFlight] = {}
        self._measured = self._failed = 0
        self._told = False
        self._sources = (os.getcwd(), tuple(sys.path))
        names = [job.candidate.name for job in self._waiting]
        self._modules = {name: modules_of_source(name) for name in names}
        self._weights = weights if settings.pretrained else None
        self._fetcher: Prefetcher | None = None

    def run(self) -> Summary:
        """Measure until everything is done or the user stops it.

        Returns:
            What was done. Failures of single models are no errors.
        """
        start = time.monotonic()
        self._reporter.start(len(self._waiting))
        if self._weights is not None and not self._engine.elsewhere:
            names = [job.candidate.name for job in self._waiting]
            self._fetcher = self._weights.prefetcher(names, self._engine.slots)
        try:
            while not self._stop.now:
                if self._stop.asked:
                    self._say_once_that_it_stops()
                    self._give_up_fetching()
                else:
                    self._fill()
                self._start_fetched()
                if not self._flying:
                    if self._stop.asked or not self._waiting:
                        break
                    time.sleep(_POLL_SECONDS)  # all that is left is claimed by another scan
                elif all(flight.fetching for flight in self._flying.values()):
                    time.sleep(_SHORT_SECONDS)
                for task, delivery in self._engine.events(_POLL_SECONDS):
                    self._handle(task, delivery)
        finally:
            self._engine.close()
            if self._fetcher is not None:
                self._fetcher.close(at_once=True)
            for flight in self._flying.values():
                flight.claims.close()
            self._reporter.close()
        left = [*self._waiting, *(f.job for f in self._flying.values())]
        count = sum(len(job.still_to_do(self._store)) for job in left)
        return Summary(self._measured, self._failed, count, time.monotonic() - start)

    def _say_once_that_it_stops(self) -> None:
        """Not said by the signal's handler, which may run in the middle of another line."""
        if self._stop.signal and not self._told:
            self._reporter.note("stopping after the models in flight; Ctrl-C again stops at once")
        self._told = True

    def _fill(self) -> None:
        """Start models while there are slots; those that another scan has claimed come last."""
        for _ in range(len(self._waiting)):
            if len(self._flying) >= self._engine.slots:
                return
            job = self._waiting.popleft()
            claims = ExitStack()
            mine = all(claims.enter_context(self._store.claim(job.keys[m])) for m in job.to_do)
            pending = job.still_to_do(self._store) if mine else ()
            if pending:
                flight = self._flying[job.number] = _InFlight(job, set(pending), claims)
                self._reporter.begin(job.candidate.name)
                self._begin(flight, self._task(flight.job, pending))
                continue
            claims.close()
            if mine:
                self._reporter.elsewhere(job.candidate.name)
            else:
                self._waiting.append(job)

    def _begin(self, flight: _InFlight, task: Task) -> None:
        """Measure a model, once its weights are on disk."""
        if self._fetcher is None:
            self._engine.submit(replace(task, weights=self._weights))
            return
        flight.fetching = task
        self._fetcher.request(task.name)

    def _start_fetched(self) -> None:
        """Measure the models whose weights have arrived; a failed download is a result."""
        for flight in [f for f in self._flying.values() if f.fetching is not None]:
            task = flight.fetching
            assert task is not None
            assert self._fetcher is not None
            assert self._weights is not None
            got = self._fetcher.poll(task.name)
            if got is None:
                continue
            fetched, lease = got
            flight.claims.push(lease)
            flight.fetching = None
            if fetched.status != "failed":
                offline = self._weights.offline or fetched.status != "not needed"
                self._engine.submit(replace(task, offline=offline))
                continue
            outcome = INTERRUPTED if fetched.disk_full else "failed"
            for measurement in task.measurements:
                self._keep_failure(flight, Failure(measurement, outcome, fetched.reason), task)
            self._over(task, flight)

    def _give_up_fetching(self) -> None:
        """The user wants the scan to end: models that wait for weights are not measured."""
        for number, flight in list(self._flying.items()):
            if flight.fetching is not None:
                flight.claims.close()
                del self._flying[number]
                self._waiting.append(flight.job)
                self._reporter.give_up(flight.job.candidate.name)

    def _task(self, job: Job, measurements: tuple[str, ...]) -> Task:
        folder, path = self._sources
        return Task(
            number=job.number,
            name=job.candidate.name,
            requested=job.candidate.requested,
            settings=self._settings,
            measurements=measurements,
            threads=self._limits.threads,
            timeout=self._limits.timeout,
            memory=self._limits.memory,
            folder=folder,
            search_path=path,
            modules=self._modules[job.candidate.name],
        )

    def _handle(self, task: Task, delivery: Delivery | None) -> None:
        flight = self._flying[task.number]
        if delivery is None:
            self._over(task, flight)
        elif isinstance(delivery, Result):
            self._keep(flight, delivery, task)
        elif delivery.outcome in OUT_OF_MEMORY and task.smaller((delivery.measurement,)):
            flight.retry.append(delivery)
        elif self._stop.asked and delivery.outcome in (INTERRUPTED, "crashed", "killed"):
            pass  # whoever stops the scan may have ended its processes too
        elif delivery.outcome == INTERRUPTED and not self._too_often(flight, delivery):
            pass  # nothing the model has done: `_over` starts it again
        else:
            self._keep_failure(flight, delivery, task)

    def _too_often(self, flight: _InFlight, failure: Failure) -> bool:
        """Count an interruption; whether it was the last that is made good."""
        flight.interruptions[failure.measurement] += 1
        return flight.interruptions[failure.measurement] >= _MOST_STARTS

    def _give_up_on_silence(self, task: Task, flight: _InFlight) -> None:
        """Bound how often a process is started that says nothing before it ends."""
        silent = set(task.measurements) == flight.pending and not flight.retry
        flight.fruitless = flight.fruitless + 1 if silent else 0
        if self._stop.asked or flight.fruitless < _MOST_STARTS:
            return
        reason = f"its process ended {flight.fruitless} times without a result"
        for measurement in task.measurements:
            outcome = INTERRUPTED if flight.interruptions[measurement] else "crashed"
            self._keep_failure(flight, Failure(measurement, outcome, reason), task)

    def _over(self, task: Task, flight: _InFlight) -> None:
        """A process is gone: try again in less memory, go on behind a failure, or be done."""
        self._give_up_on_silence(task, flight)
        rest = tuple(m for m in task.measurements if m in flight.pending)
        again = task.smaller(rest) if flight.retry else replace(task, measurements=rest)
        if rest and again is not None and not self._stop.asked:
            for failure in flight.retry[:1]:
                self._reporter.note(
                    f"{task.name}: {failure.outcome} ({failure.reason}); again with a batch of "
                    f"{again.batch_size}"
                )
            flight.retry.clear()
            self._engine.submit(again)
            return
        flight.claims.close()
        del self._flying[task.number]
        if rest:
            self._waiting.append(flight.job)  # the scan is being stopped
            self._reporter.give_up(task.name)
            return
        seconds = time.monotonic() - flight.started
        self._reporter.finish(flight.job.candidate, flight.outcomes, seconds)

    def _keep(self, flight: _InFlight, result: Result, task: Task) -> None:
        try:
            origin = self._origin(flight.job, result.measurement, "measured", result.about)
            self._store.write(origin, result.frame)
        except TableError as error:  # of this model: the others may well be stored
            self._keep_failure(flight, Failure(result.measurement, "failed", str(error)), task)
            return
        flight.pending.discard(result.measurement)
        flight.outcomes[result.measurement] = "measured"
        self._measured += 1

    def _keep_failure(self, flight: _InFlight, failure: Failure, task: Task) -> None:
        job, measurement = flight.job, failure.measurement
        about: dict[str, Any] = {
            "finished": datetime.now(timezone.utc),
            "batch_size": task.batch_size,
            **failure.about,
            "reason": failure.reason,
        }
        if failure.log:
            about["log"] = self._store.write_log(
                job.candidate.name, job.keys[measurement], failure.log
            )
        self._store.write(self._origin(job, measurement, failure.outcome, about))
        flight.pending.discard(measurement)
        flight.outcomes[measurement] = f"{failure.outcome}: {failure.reason}"
        self._failed += 1

    def _origin(self, job: Job, measurement: str, outcome: str, about: Any) -> Origin:
        settings, name = self._settings, job.candidate.name
        source = source_of(name)
        known = {
            **versions_of(Provenance()),
            "parameters": job.candidate.parameters,
            "images": settings.images,
            "scheme": settings.scheme,
            "dtype": settings.dtype,
            "device": settings.device,
            "seed": settings.seed,
            **about,
        }
        return Origin(
            key=job.keys[measurement],
            measurement=measurement,
            outcome=outcome,
            requested_model=job.candidate.requested,
            model=name,
            architecture=source.architecture,
            tag=source.tag,
            family=source.family,
            settings=settings.text_of(measurement),
            **known,
        )
