"""Bring the published weights of a model to disk: retried, checked, and within a bound of space.

What is fetched loads without asking the hub again (`HF_HUB_OFFLINE=1`), which its rate limits make
worth while when there are hundreds of models.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError, URLError

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign_code import causes

from .cache import WeightsCache
from .hub import REMEDY, download_errors, hub_is_offline
from .origin import WeightsSource, check_file

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

__all__ = ["Fetched", "Retry", "fetch_weights"]

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


def fetch_weights(
    source: WeightsSource,
    *,
    cache: WeightsCache | None = None,
    retry: Retry | None = None,
    offline: bool = False,
) -> Fetched:
    """Bring the published weights of one model to disk, whole.

    Args:
        source: Of the weights.
        cache: Where they go, with its limit; by default the hub client's, without a limit.
        retry: What to do about transient errors and damaged files.
        offline: Only look at what is on disk.

    Returns:
        What became of it, with status ``cached`` or ``downloaded``.

    Raises:
        ModelError: If the weights do not exist, cannot be reached, or stay damaged.
        LieDerivError: If they do not fit into the cache's limit.
    """
    start = time.monotonic()
    remote = _Address(source) if source.url else _Repository(source, cache or WeightsCache())
    path, attempts = remote.on_disk(), 0
    wrong = "" if path is None else check_file(path)
    if path is None or wrong:
        if offline or hub_is_offline():
            state = f"are damaged ({wrong})" if wrong else "are not cached here"
            raise ModelError(f"Weights {remote.label} {state} and the hub is offline: {REMEDY}.")
        with download_errors(remote.label):
            path, attempts = _insist(remote, retry or Retry(), again=bool(wrong))
    seconds = time.monotonic() - start
    status: FetchStatus = "downloaded" if attempts else "cached"
    return Fetched(source.name, status, "", path, path.stat().st_size, seconds, attempts)


@dataclass(frozen=True)
class _Repository:
    """Weights in a repository of the hub."""

    source: WeightsSource
    cache: WeightsCache

    @property
    def label(self) -> str:
        return f"hf-hub:{self.source.repo}"

    def on_disk(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        def cached(file: str) -> Path | None:
            repo, revision = self.source.repo, self.source.revision
            found = try_to_load_from_cache(repo, file, self.cache.folder, revision)
            return Path(found) if isinstance(found, str) else None

        if self.source.config and cached("config.json") is None:
            return None
        return next((p for p in map(cached, self.source.files) if p is not None), None)

    def download(self, again: bool) -> tuple[Path, str]:
        """The file and the checksum that the hub states."""
        from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

        repo, revision = self.source.repo, self.source.revision

        def about(file: str) -> HfFileMetadata:
            # Asked for on its own, it comes or fails at once: waiting is up to us.
            return get_hf_file_metadata(hf_hub_url(repo, file, revision=revision))

        def fetch(file: str, again: bool = False) -> Path:
            where = self.cache.folder
            path = hf_hub_download(
                repo, file, revision=revision, cache_dir=where, force_download=again
            )
            return Path(path)

        sizes = {"config.json": about("config.json").size or 0} if self.source.config else {}
        for file in self.source.files:
            try:
                metadata = about(file)
                break
            except errors.EntryNotFoundError:
                if file == self.source.files[-1]:
                    raise
        self.cache.reserve(repo, metadata.commit_hash or "", sizes | {file: metadata.size or 0})
        for small in sizes:
            fetch(small)
        return fetch(file, again), metadata.etag or ""


@dataclass(frozen=True)
class _Address:
    """Weights at an address outside the hub, which torch.hub keeps; they count towards no limit."""

    source: WeightsSource

    @property
    def label(self) -> str:
        return self.source.url

    def on_disk(self) -> Path | None:
        return self.source.url_target if self.source.url_target.is_file() else None

    def download(self, again: bool) -> tuple[Path, str]:
        """The file; its name may carry a checksum."""
        import torch

        target = self.source.url_target
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(self.source.url, str(target), progress=False)
        return target, ""


class _DamagedError(Exception):
    """What has arrived is not what was published."""


def _insist(remote: _Repository | _Address, retry: Retry, again: bool) -> tuple[Path, int]:
    """Download, again after transient errors and damage; the path and the number of attempts."""
    longer = wait_exponential(retry.wait, max=retry.longest)
    attempts = Retrying(
        retry=retry_if_exception(lambda error: bool(_passing(error)[0])),
        stop=stop_after_attempt(retry.times + 1),
        wait=lambda state: max(
            longer(state), _passing(state.outcome and state.outcome.exception())[1]
        ),
        reraise=True,
    )
    damaged: Path | None = None
    try:
        for attempt in attempts:
            with attempt:
                path, checksum = remote.download(again or damaged is not None)
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
            f"Weights {remote.label} cannot be downloaded in {retry.times + 1} attempts "
            f"({reason}): {REMEDY}."
        ) from error


def _passing(error: BaseException | None) -> tuple[str, float]:
    """Why a later attempt may succeed, empty if not; and the wait that the server asks for."""
    from huggingface_hub import errors

    for cause in causes(error):
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
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
