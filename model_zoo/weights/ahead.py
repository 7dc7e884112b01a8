"""Fetch the weights of many models: all beforehand, or the next ones while others are measured."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from .cache import CacheFullError
from .download import Fetched, Fetcher

__all__ = ["Prefetcher", "prefetch"]

_PAUSE = 2.0  # seconds until a full cache is looked at again for room that another process has left


def prefetch(names: Sequence[str], how: Fetcher) -> Iterator[Fetched]:
    """Fetch the weights of all models, one after the other, and keep them all.

    What was fetched earlier in the same call is not evicted for what comes later; that fails.

    Yields:
        What became of each, in order; failures have status ``failed``.
    """
    with ExitStack() as kept, _silent_hub():
        for name in dict.fromkeys(names):
            try:
                yield how.fetch(name, kept)
            except CacheFullError as error:
                yield Fetched(name, "failed", str(error))


class Prefetcher:
    """Fetches weights in the background, a few models ahead of their use.

    One thread downloads what is asked for, in that order, and then what comes next. What is fetched
    stays on disk until it has been used, or until its room is needed for a model that somebody
    waits for.

    Args:
        names: Models in the order of their use.
        how: They come to disk. Where the cache has a limit, a download waits until there is room.
        ahead: How many models to fetch before their turn; 0 fetches each when it is used.
        patience: How long to wait for room for a model that is needed, in seconds.
    """

    def __init__(
        self,
        names: Sequence[str],
        how: Fetcher,
        *,
        ahead: int = 1,
        patience: float = 3600.0,
    ) -> None:
        self._names, self._how = list(dict.fromkeys(names)), how
        self._ahead, self._patience = ahead, patience
        self._changed = threading.Condition()
        self._changes = 0
        self._asked: Counter[str] = Counter()  # by how many who have not got it yet
        self._next: dict[str, None] = {}
        self._ready: dict[str, tuple[Fetched, ExitStack]] = {}
        self._closed = False
        self._silence = ExitStack()
        self._silence.enter_context(_silent_hub())
        # A daemon: the end of the program does not wait for a download.
        self._thread = threading.Thread(target=self._serve, name="prefetch", daemon=True)
        self._thread.start()

    @contextmanager
    def using(self, name: str) -> Iterator[Fetched]:
        """Wait for the weights of one model, and keep them on disk while inside the context.

        Yields:
            What became of them; a failure has status ``failed`` and its reason.
        """
        self.request(name)
        with self._changed:
            while (got := self.poll(name)) is None:
                self._changed.wait(1.0)
        fetched, kept = got
        with kept:
            yield fetched

    def request(self, name: str) -> None:
        """Ask for the weights of one model now, and for the next ones after it."""
        with self._changed:
            self._asked[name] += 1
            if name in self._names:
                first = self._names.index(name) + 1
                self._next |= dict.fromkeys(self._names[first : first + self._ahead])
            self._tell()

    def poll(self, name: str) -> tuple[Fetched, ExitStack] | None:
        """What became of a request, without waiting; None as long as it is under way.

        The weights stay on disk until the returned stack is closed.
        """
        with self._changed:
            if name not in self._ready:
                stopped = Fetched(name, "failed", "the scan was stopped")
                return (stopped, ExitStack()) if self._closed else None
            self._asked -= Counter([name])
            self._next.pop(name, None)
            self._tell()  # another may wait for the same model
            return self._ready.pop(name)

    def close(self, *, at_once: bool = False) -> None:
        """Give up what has not begun; wait for the download that runs, unless `at_once`."""
        with self._changed:
            self._closed = True
            self._tell()
        if not at_once:
            self._thread.join()
        with self._changed:
            leases = [lease for _, lease in self._ready.values()]
            self._ready.clear()
        for lease in leases:
            lease.close()
        self._silence.close()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _tell(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _missing(self) -> list[str]:
        """What is to be fetched, the most urgent first."""
        return [name for name in (*self._asked, *self._next) if name not in self._ready]

    def _serve(self) -> None:
        """Runs in the background thread; nobody waits for it once it has ended."""
        try:
            self._work()
        finally:
            with self._changed:
                self._closed = True
                self._tell()

    def _work(self) -> None:
        full_since: dict[str, float] = {}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._missing())
                if self._closed:
                    return
                name, seen = self._missing()[0], self._changes
            kept = ExitStack()
            kept.callback(self._tell)  # there is room again
            try:
                fetched = self._how.fetch(name, kept)
            except CacheFullError as error:
                waited = time.monotonic() - full_since.setdefault(name, time.monotonic())
                if name not in self._asked or waited <= self._patience:
                    self._wait_for_room(name, seen)
                    continue
                fetched = Fetched(name, "failed", str(error))
            full_since.pop(name, None)
            with self._changed:
                if self._closed:
                    kept.close()
                else:
                    self._ready[name] = fetched, kept
                self._tell()

    def _wait_for_room(self, name: str, seen: int) -> None:
        """Drop what nobody has asked for, if somebody has for this; else wait for news."""
        with self._changed:
            idle = [n for n in self._ready if n not in self._asked]
            if name in self._asked and idle:
                self._ready.pop(idle[-1])[1].close()
            else:
                self._changed.wait_for(lambda: self._changes != seen, _PAUSE)


@contextmanager
def _silent_hub() -> Iterator[None]:
    """The hub client's own progress bars would break into ours."""
    from huggingface_hub import utils

    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
