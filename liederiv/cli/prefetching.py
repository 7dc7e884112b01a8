"""`liederiv scan --prefetch`: all weights first."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from liederiv.cli.command import Leave
from liederiv.cli.terminal import say
from liederiv.model_zoo.scan import WeightsPolicy
from liederiv.model_zoo.sources.registry import weights_source
from liederiv.model_zoo.weights.ahead import prefetch
from liederiv.model_zoo.weights.cache import WeightsCache, readable_size
from liederiv.model_zoo.weights.download import Fetcher

__all__ = ["fetch_all"]


def fetch_all(names: Sequence[str], weights: WeightsPolicy, *, plain: bool = False) -> None:
    """Download the weights of all models; a line for each that fails.

    Args:
        names: of the models.
        weights: with the limit of the cache.
        plain: no bar.

    Raises:
        Leave: with code 1 if any has failed.
    """
    count: Counter[str] = Counter()
    size = 0
    found = prefetch(names, Fetcher(weights_source, WeightsCache(weights.cache_limit)))
    quiet = plain or not sys.stderr.isatty()
    with tqdm(found, total=len(names), unit="model", desc="weights", disable=quiet) as bar:
        for fetched in bar:
            count[fetched.status] += 1
            size += fetched.size
            bar.set_postfix_str(readable_size(size))
            if fetched.status == "failed":
                bar.write(f"{fetched.name}: {fetched.reason}", file=sys.stderr)
            elif plain and fetched.status == "downloaded":
                about = f"{readable_size(fetched.size)} in {fetched.seconds:.1f} s"
                print(f"{fetched.name}: {about}", file=sys.stderr)
    order = ("downloaded", "cached", "not needed", "failed")
    states = ", ".join(f"{count[state]} {state}" for state in order if count[state])
    say(f"weights of {len(names)} models: {states}; {readable_size(size)} on disk")
    if count["failed"]:
        raise Leave(1)
