"""Fetch the weights of many models: all beforehand, or the next ones while others are measured."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import ExitStack, contextmanager

from liederiv.errors import LieDerivError
from liederiv.foreign import printable

from .cache import CacheFullError, WeightsCache
from .disk import disk_is_full
from .download import Fetched, Retry, fetch_weights
from .origin import WeightsSource

__all__ = ["Find", "Prefetcher", "prefetch"]

Find = Callable[[str], WeightsSource | None]
"""Where a model's weights come from, by its name; None where nothing is to be downloaded."""

_POLL = 0.05  # seconds between two looks for room


class _PostponedError(Exception):
    """Nobody waits for these weights yet, and somebody does for others."""


def prefetch(
    names: Sequence[str],
    find: Find,
    *,
    cache: WeightsCache | None = None,
    retry: Retry | None = None,
) -> Iterator[Fetched]:
    """Fetch the weights of all models, one after the other, and keep them all.

    Args:
        names: Of the models.
        find: Where their weights come from.
        cache: See `fetch_weights`. What was fetched earlier in the same call is not evicted for
            what comes later; that fails instead.
        retry: See `fetch_weights`.

    Yields:
        What became of each, in order; failures have status ``failed``.
    """
    cache = cache or WeightsCache()
    with ExitStack() as kept, _silent_hub():
        for name in dict.fromkeys(names):
            yield _fetch_and_keep(name, find, cache, retry, kept, offline=False)


class Prefetcher:
    """Fetches weights in the background, a few models ahead of their use.

    Downloads run in one thread, in the order in which models are asked for. What is fetched stays
    on disk until it has been used, or until its room is needed for a model that somebody waits for.

    Args:
        names: Models in the order of their use.
        find: Where their weights come from.
        cache: See `fetch_weights`. With a limit, a download waits until there is room.
        retry: See `fetch_weights`.
        ahead: How many models to fetch before their turn; 0 fetches each when it is used.
        offline: Only look at what is on disk.
        patience: How long to wait for room for a model that is needed, in seconds.
    """

    def __init__(
        self,
        names: Sequence[str],
        find: Find,
        *,
        cache: WeightsCache | None = None,
        retry: Retry | None = None,
        ahead: int = 1,
        offline: bool = False,
        patience: float = 3600.0,
    ) -> None:
        self._names, self._find = list(dict.fromkeys(names)), find
        self._cache = cache or WeightsCache()
        self._retry, self._offline = retry, offline
        self._ahead, self._patience = ahead, patience
        self._queue: queue.SimpleQueue[tuple[str, Future[Fetched]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._futures: dict[str, Future[Fetched]] = {}
        self._kept: dict[str, ExitStack] = {}
        self._wanted: dict[str, int] = {}
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
        while (got := self.poll(name)) is None:
            wait([self._submit(name)], timeout=1.0)
        fetched, kept = got
        with kept:
            yield fetched

    def request(self, name: str) -> None:
        """Ask for the weights of one model now, and for the next ones after it."""
        with self._lock:
            self._wanted[name] = self._wanted.get(name, 0) + 1
        self._submit(name)
        if name in self._names:
            first = self._names.index(name) + 1
            for following in self._names[first : first + self._ahead]:
                self._submit(following)

    def poll(self, name: str) -> tuple[Fetched, ExitStack] | None:
        """What became of a request, without waiting; None as long as it is under way.

        The weights stay on disk until the returned stack is closed.
        """
        future = self._submit(name)
        if not future.done():
            return None
        with self._lock:
            if self._futures.get(name) is future:
                del self._futures[name]
            kept = self._kept.pop(name, None)
        try:
            fetched = future.result()
        except _PostponedError:
            return None  # it is wanted by now, and will be tried again
        except CancelledError:
            fetched = Fetched(name, "failed", "the scan was stopped")
        if kept is None and fetched.status in ("cached", "downloaded"):
            return None  # dropped to make room, or another user of the same model has the lease
        with self._lock:
            self._wanted[name] -= 1
            if not self._wanted[name]:
                del self._wanted[name]
        return fetched, kept or ExitStack()

    def close(self, *, at_once: bool = False) -> None:
        """Give up what has not begun; wait for the download that runs, unless `at_once`."""
        with self._lock:
            self._closed = True
            for future in self._futures.values():
                future.cancel()
        self._queue.put(None)
        if not at_once:
            self._thread.join()
        with self._lock:
            leases = list(self._kept.values())
            self._kept.clear()
        for lease in leases:
            lease.close()
        self._silence.close()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _submit(self, name: str) -> Future[Fetched]:
        with self._lock:
            if name not in self._futures:
                future: Future[Fetched] = Future()
                self._futures[name] = future
                if self._closed:
                    future.cancel()
                else:
                    self._queue.put((name, future))
            return self._futures[name]

    def _serve(self) -> None:
        """Runs in the background thread."""
        while (item := self._queue.get()) is not None:
            name, future = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._fetch(name))
                except BaseException as error:  # to be raised where somebody waits
                    future.set_exception(error)

    def _fetch(self, name: str) -> Fetched:
        deadline = time.monotonic() + self._patience
        while True:
            kept = ExitStack()
            try:
                fetched = _fetch_and_keep(
                    name,
                    self._find,
                    self._cache,
                    self._retry,
                    kept,
                    offline=self._offline,
                    full_is_error=True,
                )
            except CacheFullError as error:
                kept.close()
                if self._closed or time.monotonic() > deadline:
                    return Fetched(name, "failed", str(error))
                self._wait_for_room(name)
                continue
            with self._lock:
                if fetched.status in ("cached", "downloaded"):
                    self._kept[name] = kept
            return fetched

    def _wait_for_room(self, name: str) -> None:
        """Drop what nobody waits for; step back where only others are waited for."""
        with self._lock:
            idle = [n for n in self._kept if n not in self._wanted]
            if name in self._wanted:
                if idle:
                    self._futures.pop(idle[-1], None)
                    self._kept.pop(idle[-1]).close()
                    return
            elif self._wanted.keys() - self._kept.keys():
                raise _PostponedError
        time.sleep(_POLL)


def _fetch_and_keep(
    name: str,
    find: Find,
    cache: WeightsCache,
    retry: Retry | None,
    kept: ExitStack,
    *,
    offline: bool,
    full_is_error: bool = False,
) -> Fetched:
    """Fetch weights under a lease that `kept` holds; a failure is a result."""
    start = time.monotonic()
    try:
        source = find(name)
        if source is None:
            return Fetched(name, "not needed")
        lease = ExitStack()
        with lease:
            if source.repo:
                lease.enter_context(cache.using(source.repo))
            fetched = fetch_weights(source, cache=cache, retry=retry, offline=offline)
            kept.push(lease.pop_all())
        return fetched
    except CacheFullError as error:
        if full_is_error:
            raise
        return Fetched(name, "failed", str(error), seconds=time.monotonic() - start)
    except Exception as error:  # a full disk, say: the models that follow may still be there
        reason = f"Weights of {name} cannot be fetched: {type(error).__name__}: {printable(error)}"
        return Fetched(
            name,
            "failed",
            str(error) if isinstance(error, LieDerivError) else reason,
            seconds=time.monotonic() - start,
            disk_full=disk_is_full(error),
        )


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
