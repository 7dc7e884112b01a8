"""Bound the disk space of downloaded weights: the least recently used go first, none in use.

The hub's client knows what lies in its cache and how to delete a revision. What it does not know is
kept beside its own locks, in CACHE/.locks/liederiv: one folder per repository, with the files that
were downloaded through here, and a lock file per process that uses them. Only these count towards a
limit and are ever removed: what other programs keep in the same cache, even in the same repository,
stays. The lock of a process that has died does not hold.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from liederiv.errors import LieDerivError
from liederiv.files import write_json

__all__ = ["CacheFullError", "CachedWeights", "WeightsCache", "parse_size", "readable_size"]

_BOOK = "entry.json"
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
    """What was downloaded from one repository.

    Attributes:
        repo: On the hub.
        commits: By commit, the names of the files and their sizes in bytes, on disk or expected.
        used: Time of last use, in seconds since 1970.
        in_use: Whether a living process uses it.
    """

    repo: str
    commits: Mapping[str, Mapping[str, int]]
    used: float
    in_use: bool

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(sum(files.values()) for files in self.commits.values())


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
            self._touch(repo)
            path = self._shelf(repo) / f"{uuid.uuid4().hex}.lock"
            lock = filelock.FileLock(path, thread_local=False)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError, LieDerivError), self._locked():  # a full disk: nothing is lost
                path.unlink(missing_ok=True)
                self._touch(repo)

    def reserve(self, repo: str, commit: str, files: Mapping[str, int]) -> None:
        """Enter files that are about to be downloaded, and make room for them.

        A revision of which something was there before belongs to another program: it is not
        entered.

        Args:
            repo: On the hub.
            commit: Of the revision.
            files: Their sizes in bytes, by name.

        Raises:
            LieDerivError: If they are larger than the limit.
            CacheFullError: If what fills the cache is in use, or cannot be deleted.
        """
        size = sum(files.values())
        if self.limit is not None and size > self.limit:
            raise LieDerivError(
                f"`cache_limit`={readable_size(self.limit)} (--cache-limit) is less than the "
                f"weights of {repo} alone ({readable_size(size)}); raise it."
            )
        with self._locked():
            entries = {entry.repo: entry for entry in self._entries()}
            own = dict(entries[repo].commits) if repo in entries else {}
            if self._strange(repo, commit, own.get(commit, {})):
                return
            own[commit] = files
            mine = CachedWeights(repo, own, time.time(), True)
            if self._make_room([*({**entries, repo: mine}.values())]):
                write_json(self._shelf(repo) / _BOOK, {"repo": repo, "commits": own})
                return
        raise CacheFullError(
            f"`cache_limit`={readable_size(self.limit or 0)} (--cache-limit) is taken up by "
            f"weights in use or undeletable, and {repo} needs {readable_size(size)}; raise it, or "
            "use fewer workers."
        )

    def _entries(self) -> list[CachedWeights]:
        found = []
        for path in self._books.glob(f"*/{_BOOK}"):
            with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):  # not ours
                book = json.loads(path.read_text(encoding="utf-8"))
                repo, in_use = str(book["repo"]), self._in_use(path.parent)
                sizes = {c: {n: int(b) for n, b in f.items()} for c, f in book["commits"].items()}
                if in_use or self._repo(repo).exists():
                    found.append(CachedWeights(repo, sizes, path.stat().st_mtime, in_use))
        return sorted(found, key=lambda e: e.used)

    def _make_room(self, entries: list[CachedWeights]) -> bool:
        """Remove what is least recently used until the rest is within the limit."""
        excess = sum(e.size for e in entries) - (self.limit or 0)
        free = [e for e in entries if not e.in_use]
        if self.limit is None or excess <= 0:
            return True
        if excess > sum(e.size for e in free):
            return False  # not even by removing everything: then remove nothing
        for entry in free:
            if excess > 0 and self._remove(entry):
                excess -= entry.size
        return excess <= 0

    def _remove(self, entry: CachedWeights) -> bool:
        """Delete what was downloaded, and say whether it is gone."""
        from huggingface_hub import scan_cache_dir

        folder = self._repo(entry.repo)
        cache = scan_cache_dir(self.folder)
        repos = [r for r in cache.repos if r.repo_path.name == folder.name]
        ours = {c for c, files in entry.commits.items() if not self._strange(entry.repo, c, files)}
        present = ours & {revision.commit_hash for r in repos for revision in r.revisions}
        # Of this repository alone: a renamed one lies there under both names with the same commits.
        replace(cache, repos=frozenset(repos)).delete_revisions(*present).execute()
        if any((folder / "snapshots" / commit).exists() for commit in ours):
            return False
        (self._shelf(entry.repo) / _BOOK).unlink(missing_ok=True)
        return True

    def _strange(self, repo: str, commit: str, files: Mapping[str, int]) -> bool:
        """Whether a revision on disk holds anything but these files."""
        snapshot = self._repo(repo) / "snapshots" / commit
        found = (path for path in snapshot.rglob("*") if not path.is_dir())
        return any(path.relative_to(snapshot).as_posix() not in files for path in found)

    def _in_use(self, shelf: Path) -> bool:
        for path in shelf.glob("*.lock"):
            lock = filelock.FileLock(path, timeout=0)
            try:
                lock.acquire()
            except filelock.Timeout:
                return True
            lock.release()  # its process has died
            path.unlink(missing_ok=True)
        return False

    def _touch(self, repo: str) -> None:
        """Note the time of use, finer than the file system's own clock."""
        with suppress(FileNotFoundError):
            os.utime(self._shelf(repo) / _BOOK, ns=(time.time_ns(), time.time_ns()))

    def _repo(self, repo: str) -> Path:
        """The folder that the hub's client gives a repository."""
        return self.folder / f"models--{repo.replace('/', '--')}"

    def _shelf(self, repo: str) -> Path:
        """The folder of its book and locks."""
        shelf = self._books / repo.replace("/", "--")
        shelf.mkdir(parents=True, exist_ok=True)
        return shelf

    def _writable(self) -> bool:
        with suppress(OSError):
            self._books.mkdir(parents=True, exist_ok=True)
        return os.access(self._books, os.W_OK)

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


def readable_size(size: int) -> str:
    """A number of bytes in words, such as "12.3 MB" (powers of 1000)."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
