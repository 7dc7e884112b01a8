"""Weights of a scan's models: on disk before a worker loads them, and kept while it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..sources.registry import weights_source
from ..weights.ahead import Prefetcher
from ..weights.cache import WeightsCache
from ..weights.download import Fetched, Fetcher

__all__ = ["WeightsPolicy", "fetched_weights"]


@dataclass(frozen=True)
class WeightsPolicy:
    """How published weights come to disk.

    Attributes:
        offline: only from disk; nothing is downloaded.
        cache_limit: bytes that downloaded weights may take up; None for no limit.
    """

    offline: bool = False
    cache_limit: int | None = None

    def prefetcher(self, names: Sequence[str], ahead: int) -> Prefetcher:
        """Fetches weights in the background.

        Args:
            names: models in the order of their use.
            ahead: how many models to fetch before their turn.
        """
        cache = WeightsCache(self.cache_limit)
        return Prefetcher(names, Fetcher(weights_source, cache, offline=self.offline), ahead=ahead)


@contextmanager
def fetched_weights(name: str, policy: WeightsPolicy) -> Iterator[Fetched]:
    """The weights of one model, on the machine that measures it, while inside the context."""
    with policy.prefetcher([name], 0) as fetcher, fetcher.using(name) as fetched:
        yield fetched
