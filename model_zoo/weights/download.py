"""Bring the published weights of a model to disk: retried, checked, and within a bound of space.

What is fetched loads without asking the hub again (`HF_HUB_OFFLINE=1`), which its rate limits make
worth while when there are hundreds of models.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign_code import causes

from .cache import WeightsCache
from .hub import REMEDY, download_errors, hub_is_offline
from .origin import WeightsSource, check_file

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

    Example:
        >>> [Retry(wait=2, longest=10).pause(i, None) for i in range(4)]
        [2, 4, 8, 10]
    """

    times: int = 5
    wait: float = 2.0
    longest: float = 120.0

    def pause(self, repetition: int, asked: float | None) -> float:
        """Seconds to wait before repetition number 0, 1 and so on."""
        return max(min(self.wait * 2**repetition, self.longest), asked or 0)


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
            path, attempts = _insist(remote, retry or Retry(), damaged=bool(wrong))
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
        # Asked for on its own, the metadata comes or fails at once: waiting is up to us.
        if self.source.config:
            get_hf_file_metadata(hf_hub_url(repo, "config.json", revision=revision))
        for file in self.source.files:
            try:
                metadata = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision))
                break
            except errors.EntryNotFoundError:
                if file == self.source.files[-1]:
                    raise
        self.cache.reserve(repo, metadata.size or 0)
        try:
            if self.source.config:
                hf_hub_download(repo, "config.json", revision=revision, cache_dir=self.cache.folder)
            path = hf_hub_download(
                repo, file, revision=revision, cache_dir=self.cache.folder, force_download=again
            )
        except BaseException:
            self.cache.forget(repo)
            raise
        return Path(path), metadata.etag or ""


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


def _insist(remote: _Repository | _Address, retry: Retry, damaged: bool) -> tuple[Path, int]:
    """Download, again after transient errors and damage; the path and the number of attempts."""
    for attempt in range(retry.times + 1):
        asked = None
        try:
            path, checksum = remote.download(again=damaged)
        except Exception as error:  # sorted into transient ones and others
            reason, asked = _transient(error)
            if not reason:
                raise
            cause: Exception | None = error
        else:
            wrong = check_file(path, checksum)
            if not wrong:
                return path, attempt + 1
            damaged, cause, reason = True, None, f"the file arrives damaged: {wrong}"
        if attempt < retry.times:
            time.sleep(retry.pause(attempt, asked))
    if damaged:  # nobody must load it
        path = remote.on_disk() or path
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    raise ModelError(
        f"Weights {remote.label} cannot be downloaded in {retry.times + 1} attempts ({reason}): "
        f"{REMEDY}."
    ) from cause


def _transient(error: BaseException | None) -> tuple[str, float | None]:
    """Why a later attempt may succeed, empty if not; and the wait that the server asks for."""
    from huggingface_hub import errors

    for cause in causes(error):
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
        local = isinstance(cause, errors.LocalEntryNotFoundError)
        if isinstance(cause, errors.EntryNotFoundError) and not local:
            return "", None
        if isinstance(cause, errors.HfHubHTTPError):
            asked = cause.response.headers.get("Retry-After", "")
            passing = cause.response.status_code in TRANSIENT
            return reason if passing else "", float(asked) if asked.isdecimal() else None
        if isinstance(cause, errors.OfflineModeIsEnabled | LieDerivError):
            return "", None
        if isinstance(cause, HTTPError):
            return reason if cause.code in TRANSIENT else "", None
        transport = type(cause).__module__.partition(".")[0] in TRANSPORTS
        if transport or isinstance(cause, URLError | TimeoutError | HTTPException):
            return reason, None
        if isinstance(cause, ConnectionError) and not local:
            return reason, None
        if type(cause) is OSError and "Consistency check failed" in str(cause):
            return "fewer bytes arrive than were announced", None
    return "", None
