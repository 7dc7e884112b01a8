"""Bound the disk space of downloaded weights: the least recently used go first, none in use.

The books lie beside the hub's own locks, in CACHE/.locks/liederiv: one folder per repository that
was downloaded through here, with its size, and a lock file per process that uses it. Only what is
in these books counts towards a limit and is ever removed: what other programs keep in the same
cache stays. The lock of a process that has died does not hold.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from liederiv.errors import LieDerivError

__all__ = ["CacheFullError", "CachedWeights", "WeightsCache", "parse_size", "readable_size"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class CacheFullError(LieDerivError):
    """No room for more weights: what fills the cache is in use."""


def parse_size(text: str, argument: str = "--cache-limit") -> int:
    """Read a size such as "20GB", "512MiB" or "1e9" as a number of bytes.

    Args:
        text: A number and, optionally, a unit: K, M, G, T (powers of 1000) or Ki, Mi, Gi, Ti.
        argument: Named in the error.

    Raises:
        LieDerivError: If it is not a size.

    Example:
        >>> parse_size("1.5GB"), parse_size("2 MiB")
        (1500000000, 2097152)
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = match[2].upper().removesuffix("B") if match else ""
    factor = {**_UNITS, **_BINARY}.get(unit)
    try:
        size = int(float(match[1]) * factor) if match and factor else 0
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise LieDerivError(f"{argument}={text!r} is no size; write for example 20GB or 512MiB.")
    return size


@dataclass(frozen=True)
class CachedWeights:
    """One repository in the books.

    Attributes:
        repo: On the hub.
        size: In bytes, on disk or expected.
        used: Time of last use, in seconds since 1970.
        in_use: Whether a living process uses it.
    """

    repo: str
    size: int
    used: float
    in_use: bool


class WeightsCache:
    """The hub's cache with books about what was downloaded through it.

    Args:
        limit: Largest total size of what is in the books, in bytes; None for no limit.
        folder: Of the hub's cache; by default the one that the hub's client uses.
    """

    def __init__(self, limit: int | None = None, folder: str | Path | None = None) -> None:
        from huggingface_hub import constants

        self.limit = limit
        self.folder = Path(folder or constants.HF_HUB_CACHE)
        self._books = self.folder / ".locks" / "liederiv"

    def entries(self) -> list[CachedWeights]:
        """What is in the books, the least recently used first."""
        with self._locked():
            return self._entries()

    @contextmanager
    def using(self, repo: str) -> Iterator[None]:
        """Keep a repository from being removed while inside the context.

        A cache that cannot be written to keeps no books, and nobody removes anything from it.
        """
        if not self._writable():
            yield
            return
        with self._locked():
            lock = self._take(repo)
        try:
            yield
        finally:
            self._give_back(repo, lock)

    def reserve(self, repo: str, size: int) -> None:
        """Enter a repository that is about to be downloaded, and make room for it.

        Args:
            repo: On the hub.
            size: Of its weights, in bytes.

        Raises:
            LieDerivError: If it is larger than the limit.
            CacheFullError: If what fills the cache is in use.
        """
        if self.limit is not None and size > self.limit:
            raise LieDerivError(
                f"`cache_limit`={readable_size(self.limit)} (--cache-limit) is less than the "
                f"weights of {repo} alone ({readable_size(size)}); raise it."
            )
        with self._locked():
            if self._make_room(size, repo):
                self._write(repo, size)
                return
        raise CacheFullError(
            f"`cache_limit`={readable_size(self.limit or 0)} (--cache-limit) is taken up by "
            f"weights in use, and {repo} needs {readable_size(size)}; raise it, or use fewer "
            "workers."
        )

    def forget(self, repo: str) -> None:
        """Strike a repository from the books, whose download has failed."""
        with self._locked():
            (self._book(repo) / "entry.json").unlink(missing_ok=True)

    def _entries(self) -> list[CachedWeights]:
        found = []
        for path in self._books.glob("*/entry.json"):
            with suppress(OSError, ValueError, KeyError):  # a half-written or foreign file
                entry = json.loads(path.read_text(encoding="utf-8"))
                repo, size = str(entry["repo"]), int(entry["size"])
                found.append(CachedWeights(repo, size, path.stat().st_mtime, self._in_use(repo)))
        return sorted(found, key=lambda e: e.used)

    def _make_room(self, size: int, repo: str) -> bool:
        """Remove what is least recently used until `size` more bytes fit."""
        if self.limit is None:
            return True
        others = [e for e in self._entries() if e.repo != repo]
        excess = sum(e.size for e in others) + size - self.limit
        free = [e for e in others if not e.in_use]
        if excess > sum(e.size for e in free):
            return False  # not even by removing everything: then remove nothing
        for entry in free:
            if excess <= 0:
                break
            self._remove(entry.repo)
            excess -= entry.size
        return True

    def _remove(self, repo: str) -> None:
        from huggingface_hub import scan_cache_dir

        cached = scan_cache_dir(self.folder).repos if self.folder.is_dir() else ()
        found = [r for r in cached if r.repo_id == repo and r.repo_type == "model"]
        for item in found:
            commits = [revision.commit_hash for revision in item.revisions]
            scan_cache_dir(self.folder).delete_revisions(*commits).execute()
        (self._book(repo) / "entry.json").unlink(missing_ok=True)

    def _take(self, repo: str) -> filelock.BaseFileLock:
        book = self._book(repo)
        book.mkdir(parents=True, exist_ok=True)
        entry = book / "entry.json"
        _touch(entry)
        lock = filelock.FileLock(book / f"{uuid.uuid4().hex}.lock", thread_local=False)
        lock.acquire()
        return lock

    def _give_back(self, repo: str, lock: filelock.BaseFileLock) -> None:
        lock.release()
        with self._locked():
            Path(lock.lock_file).unlink(missing_ok=True)
            _touch(self._book(repo) / "entry.json")

    def _in_use(self, repo: str) -> bool:
        for path in self._book(repo).glob("*.lock"):
            lock = filelock.FileLock(path, timeout=0)
            try:
                lock.acquire()
            except filelock.Timeout:
                return True
            lock.release()  # its process has died
            path.unlink(missing_ok=True)
        return False

    def _write(self, repo: str, size: int) -> None:
        book = self._book(repo)
        book.mkdir(parents=True, exist_ok=True)
        draft = book / f"{uuid.uuid4().hex}.draft"
        draft.write_text(json.dumps({"repo": repo, "size": size}), encoding="utf-8")
        os.replace(draft, book / "entry.json")

    def _writable(self) -> bool:
        with suppress(OSError):
            self._books.mkdir(parents=True, exist_ok=True)
        return os.access(self._books, os.W_OK)

    def _book(self, repo: str) -> Path:
        return self._books / repo.replace("/", "--")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._books.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LieDerivError(
                f"the cache {str(self.folder)!r} cannot be written to ({error.strerror}); set "
                "HF_HUB_CACHE to a folder that can."
            ) from error
        with filelock.FileLock(self._books / "books.lock"):
            yield


def _touch(path: Path) -> None:
    """Note the present time, finer than the file system's own clock."""
    if path.exists():
        now = time.time_ns()
        os.utime(path, ns=(now, now))


def readable_size(size: int) -> str:
    """A number of bytes in words, such as "12.3 MB" (powers of 1000)."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
