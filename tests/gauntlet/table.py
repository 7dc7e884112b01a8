"""The table of verdicts: kinds by verdict, and entry points by verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .kinds import NETWORKS
from .verdicts import CHANGED, NEEDLESS, REFUSED, RIGHT, WRONG, Verdict

COLUMNS = (RIGHT, REFUSED, NEEDLESS, WRONG, CHANGED)


def _rows(title: str, keys: Iterable[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    count = Counter(pairs)
    lines = [f"{title:<20}" + "".join(f"{c:>10}" for c in COLUMNS)]
    return lines + [
        f"{key:<20}" + "".join(f"{count[key, c]:>10}" for c in COLUMNS)
        for key in dict.fromkeys(keys)
    ]


def summary(verdicts: Sequence[Verdict]) -> str:
    """Counts of verdicts by kind and by entry point, and in all."""
    kinds = [(NETWORKS[v.network].kind, v.verdict) for v in verdicts]
    entries = [(v.entry, v.verdict) for v in verdicts]
    total = [("all calls", v.verdict) for v in verdicts]
    lines = [*_rows("kind", (k for k, _ in kinds), kinds), ""]
    lines += [*_rows("entry point", (k for k, _ in entries), entries), ""]
    networks = len({v.network for v in verdicts})
    return "\n".join(lines + _rows(f"{networks} networks", ["all calls"], total))
