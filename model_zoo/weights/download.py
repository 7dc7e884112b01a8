"""Bring the published weights of a model to disk: retried, checked, and within a bound of space.

What is fetched loads without asking the hub again (`HF_HUB_OFFLINE=1`), which its rate limits make
worth while when there are hundreds of models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError, URLError

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
)

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import first_line, printable
from liederiv.foreign_code import causes

from .cache import CacheFullError, WeightsCache
from .disk import disk_is_full
from .hub import REMEDY, download_errors, hub_is_offline
from .origin import HubWeights, WeightsSource, check_file

__all__ = ["Fetched", "Fetcher", "Retry"]

FetchStatus = Literal["cached", "downloaded", "not needed", "failed"]
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may pass
TRANSPORTS = ("httpx", "httpx2", "requests", "urllib3")  # the hub client's, by its version


@dataclass(frozen=True)
class Retry:
    """How often, and after which wait, an attempt that met a transient error is repeated.

    Attributes:
        times: Repetitions after the first attempt.
        wait: Before the first repetition, in seconds; doubled each time.
        longest: Wait, in seconds, unless the server asks for a longer one.
    """

    times: int = 5
    wait: float = 2.0
    longest: float = 120.0


@dataclass(frozen=True)
class Fetched:
    """What became of the weights of one model.

    Attributes:
        name: Of the model.
        status: ``cached`` (they were on disk), ``downloaded``, ``not needed`` (they come from
            elsewhere, or there are none) or ``failed``.
        reason: Why they failed, in one sentence.
        path: Of the file; None unless it is on disk.
        size: Of the file, in bytes.
        seconds: It took.
        attempts: At downloading.
        disk_full: Whether they failed because the disk takes no more, and not for what they are.
    """

    name: str
    status: FetchStatus
    reason: str = ""
    path: Path | None = None
    size: int = 0
    seconds: float = 0.0
    attempts: int = 0
    disk_full: bool = False


class _DamagedError(Exception):
    """What has arrived is not what was published."""


@dataclass(frozen=True)
class Fetcher:
    """How weights come to disk.

    Attributes:
        find: Where a model's weights come from, by its name; None where nothing is downloaded.
        cache: Where they go, with its limit.
        retry: What to do about transient errors and damaged files.
        offline: Only look at what is on disk.
    """

    find: Callable[[str], WeightsSource | None]
    cache: WeightsCache = field(default_factory=WeightsCache)
    retry: Retry = field(default_factory=Retry)
    offline: bool = False

    def fetch(self, name: str, kept: ExitStack) -> Fetched:
        """Fetch weights under a lease that `kept` takes over; a failure is a result.

        Raises:
            CacheFullError: If there is no room, now.
        """
        start = time.monotonic()
        try:
            source = self.find(name)
            if source is None:
                return Fetched(name, "not needed")
            with ExitStack() as lease:
                if isinstance(source, HubWeights):
                    lease.enter_context(self.cache.using(source.repo))
                path, attempts = self.bring(source)
                kept.push(lease.pop_all())
            status: FetchStatus = "downloaded" if attempts else "cached"
            seconds = time.monotonic() - start
            return Fetched(name, status, "", path, path.stat().st_size, seconds, attempts)
        except CacheFullError:
            raise
        except Exception as error:  # a full disk, say: the models that follow may still be there
            reason = str(error)
            if not isinstance(error, LieDerivError):
                said = f"{type(error).__name__}: {printable(error)}"
                reason = f"Weights of {name} cannot be fetched: {said}"
            seconds = time.monotonic() - start
            return Fetched(name, "failed", reason, seconds=seconds, disk_full=disk_is_full(error))

    def bring(self, source: WeightsSource) -> tuple[Path, int]:
        """Bring the published weights of one model to disk, whole.

        Returns:
            The file, and the number of attempts at downloading it; 0 if it was on disk.

        Raises:
            ModelError: If the weights do not exist, cannot be reached, or stay damaged.
            LieDerivError: If they do not fit into the cache's limit.
        """
        path = source.on_disk(self.cache)
        wrong = "" if path is None else check_file(path)
        if path is not None and not wrong:
            return path, 0
        if self.offline or hub_is_offline():
            state = f"are damaged ({wrong})" if wrong else "are not cached here"
            raise ModelError(f"Weights {source.label} {state} and the hub is offline: {REMEDY}.")
        with download_errors(source.label):
            return self._insist(source, again=bool(wrong))

    def _insist(self, source: WeightsSource, again: bool) -> tuple[Path, int]:
        """Download, again after transient errors and damage; the path and how many attempts."""
        longer = wait_exponential(self.retry.wait, max=self.retry.longest)

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(longer(state), _passing(error)[1])

        attempts = Retrying(
            retry=retry_if_exception(lambda error: bool(_passing(error)[0])),
            stop=stop_after_attempt(self.retry.times + 1),
            wait=pause,
            reraise=True,
        )
        damaged: Path | None = None
        try:
            for attempt in attempts:
                with attempt:
                    path, checksum = source.download(self.cache, again or damaged is not None)
                    if wrong := check_file(path, checksum):
                        damaged = path
                        raise _DamagedError(f"the file arrives damaged: {wrong}")
            return path, attempts.statistics["attempt_number"]
        except Exception as error:
            if damaged is not None:  # nobody must load it
                damaged.resolve().unlink(missing_ok=True)
                damaged.unlink(missing_ok=True)
            reason, _ = _passing(error)
            if not reason:
                raise
            raise ModelError(
                f"Weights {source.label} cannot be downloaded in {self.retry.times + 1} attempts "
                f"({reason}): {REMEDY}."
            ) from error


def _passing(error: BaseException | None) -> tuple[str, float]:
    """Why a later attempt may succeed, empty if not; and the wait that the server asks for."""
    from huggingface_hub import errors

    for cause in causes(error):
        reason = first_line(cause)
        if isinstance(cause, errors.HfHubHTTPError | HTTPError):
            answer: Any = cause if isinstance(cause, HTTPError) else cause.response
            status = answer.code if isinstance(cause, HTTPError) else answer.status_code
            asked = answer.headers.get("Retry-After") or ""
            return reason if status in TRANSIENT else "", float(asked) if asked.isdecimal() else 0.0
        if isinstance(cause, errors.OfflineModeIsEnabled | LieDerivError):
            break
        transport = type(cause).__module__.partition(".")[0] in TRANSPORTS
        if transport or isinstance(
            cause, _DamagedError | URLError | ConnectionError | TimeoutError | HTTPException
        ):
            return reason, 0.0
        if type(cause) is OSError and "Consistency check failed" in str(cause):
            return "fewer bytes arrive than were announced", 0.0
    return "", 0.0
