"""What a scan says while it runs: a bar over models on a terminal, a line per finished model."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TextIO

from tqdm import tqdm

from liederiv.errors import LieDerivError
from liederiv.foreign import one_line, printable

from .selection import Candidate

__all__ = ["Reporter"]


@contextmanager
def _heard(stream: TextIO) -> Iterator[None]:
    """A scan ends where its words no longer arrive; what it has stored stays.

    The command line's own streams raise nothing and have a `failure` instead.
    """
    try:
        yield
        failure = getattr(stream, "failure", None)
        if isinstance(failure, OSError):
            raise failure
    except OSError as error:
        raise LieDerivError(
            f"nobody takes what the scan prints ({printable(error)}); what is measured is stored: "
            "run the same command to go on, with its output to a file."
        ) from error


class Reporter:
    """Tells the user about a scan.

    Args:
        stream: where to; standard error if None.
        plain: no bar, lines with the time, as where the stream is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, plain: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._plain = plain or not self._stream.isatty()
        self._bar: tqdm | None = None
        self._names: list[str] = []
        self._done = self._failed = self._total = 0

    def start(self, total: int) -> None:
        """There are so many models to measure."""
        self._total = total
        if not self._plain and total:
            form = "{desc}: {n_fmt}/{total_fmt} |{bar}| {rate_fmt}, {remaining} left{postfix}"
            self._bar = tqdm(
                total=total, unit="model", file=self._stream, bar_format=form, dynamic_ncols=True
            )
            self._refresh()

    def begin(self, name: str) -> None:
        """A model is being measured."""
        self._names.append(name)
        self._refresh()

    def finish(self, candidate: Candidate, outcomes: Mapping[str, str], seconds: float) -> None:
        """A model is done with; outcomes by measurement."""
        failures = {m: text for m, text in outcomes.items() if text != "measured"}
        self._failed += bool(failures)
        good = [m for m in outcomes if m not in failures]
        parts = [", ".join(good) + " measured"] if good else []
        parts += [f"{m} FAILED, {text}" for m, text in failures.items()]
        size = "" if candidate.parameters is None else f" ({candidate.parameters / 1e6:.1f} M)"
        self._one_more(candidate.name)
        count = f"{self._done}/{self._total}"
        self.note(f"{count} {candidate.name}{size}, {seconds:.1f} s: {'; '.join(parts)}")

    def elsewhere(self, name: str) -> None:
        """Another scan has measured this model in the meantime."""
        self._one_more(name)
        self.note(f"{self._done}/{self._total} {name}: measured by another scan")

    def give_up(self, name: str) -> None:
        """A model is no longer being measured, and not done either."""
        self._names.remove(name)
        self._refresh()

    def note(self, text: str) -> None:
        """Print a line, which may hold a model's own words."""
        text = printable(text)
        with _heard(self._stream):
            if self._bar is not None:
                self._bar.write(text, file=self._stream)
                return
            stamp = datetime.now(timezone.utc).strftime("%H:%M:%SZ ") if self._plain else ""
            print(stamp + text, file=self._stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with suppress(OSError):  # where nobody listens, there is no bar to take away
                self._bar.close()
            self._bar = None

    def _one_more(self, name: str) -> None:
        if name in self._names:
            self._names.remove(name)
        self._done += 1
        if self._bar is not None:
            with _heard(self._stream):
                self._bar.update()
        self._refresh()

    def _refresh(self) -> None:
        if self._bar is None:
            return
        with _heard(self._stream):
            more = f" + {len(self._names) - 1}" if len(self._names) > 1 else ""
            name = one_line(self._names[0]) if self._names else "scanning"
            self._bar.set_description(name + more)
            self._bar.set_postfix_str(f"{self._failed} failed")
