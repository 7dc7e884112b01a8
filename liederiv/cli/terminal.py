"""The streams of the command line: nothing that is printed can end the command or move the cursor.

Standard output and error are kept under file descriptors of our own, so that a model which closes,
redirects or replaces them changes nothing. A reader that has gone (``| head``) is no error: what is
left is computed and written to files, and not shown. A disk that is full under redirected output
is remembered, see `Streams.failure`. What an encoding lacks is written as its escape.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from liederiv.foreign import printable

__all__ = ["SafeConsole", "Streams", "own_streams", "safe_warnings", "say", "streams_in_use"]


class _Kept(io.FileIO):
    """A file descriptor of our own, whose failures are remembered, not raised."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write what can be written; claim to have written the rest."""
        try:
            return super().write(data) or 0
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


class _Lasting(io.TextIOWrapper):
    """A stream that nobody closes, as a progress bar may be writing to it."""

    @property
    def failure(self) -> OSError | None:
        """Why something could not be written; None if all was."""
        raw = self.buffer.raw  # type: ignore[attr-defined]
        return raw.failure if isinstance(raw, _Kept) else None

    def close(self) -> None:
        """Write what is buffered."""
        if not self.buffer.closed:
            self.flush()


class Streams:
    """Our standard output and error, whatever becomes of those of the process."""

    def __init__(self) -> None:
        for number in range(3):  # a stream closed by `>&-` must not become somebody's data file
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
        given = (sys.stdout, sys.stderr)
        self._encodings = [getattr(s, "encoding", None) or "utf-8" for s in given]
        self._numbers = [os.dup(number) for number in (1, 2)]
        self._raw = [_Kept(number) for number in self._numbers]
        self._own = [self._stream(place) for place in (0, 1)]

    def _stream(self, place: int) -> TextIO:
        raw = self._raw[place]
        return _Lasting(
            io.BufferedWriter(raw),
            encoding=self._encodings[place],
            errors="backslashreplace",
            line_buffering=place == 1 or raw.isatty(),
        )

    @property
    def failure(self) -> OSError | None:
        """Why standard output could not be written; a reader that has gone is no reason."""
        error = self._raw[0].failure
        return None if error is None or error.errno == errno.EPIPE else error

    def restore(self) -> None:
        """Make them `sys.stdout` and `sys.stderr`, again if somebody has changed that."""
        for place, name in enumerate(("stdout", "stderr")):
            if self._own[place].closed:  # below, through its buffer
                lost = self._raw[place].failure
                self._raw[place] = _Kept(self._numbers[place])
                self._raw[place].failure = lost
                self._own[place] = self._stream(place)
            setattr(sys, name, self._own[place])

    def flush(self) -> None:
        """Write what is buffered."""
        for stream in self._own:
            with suppress(OSError, ValueError):
                stream.flush()


_streams: list[Streams] = []


@contextmanager
def own_streams() -> Iterator[Streams | None]:
    """Print through `Streams`; None, and no change, where a program has put others in place."""
    taken = sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__
    if taken or _streams:
        yield None
        return
    before = sys.stdout, sys.stderr
    streams = Streams()
    _streams.append(streams)
    streams.restore()
    try:
        yield streams
    finally:
        streams.flush()
        _streams.clear()
        sys.stdout, sys.stderr = before


def streams_in_use() -> Streams | None:
    """Those of `own_streams`, while they are."""
    return _streams[0] if _streams else None


def say(text: object, *, error: bool = False) -> None:
    """Print a line of plain text, which may hold anything."""
    for streams in _streams:
        streams.restore()
    stream = sys.stderr if error else sys.stdout
    with suppress(ValueError):  # closed by somebody else's code
        print(printable(text), file=stream, flush=error)


class SafeConsole(Console):
    """A console for text that is not ours: no markup, no emoji codes, control characters visible.

    Styles are given by `rich.text.Text` and by the styles of tables, never within the text.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        for streams in _streams:
            streams.restore()
        super().__init__(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """The text as it will be seen, before anything is laid out by its width."""
        return super().render_str(printable(text), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Whatever comes in as `Text`, which is not parsed, is made safe at the end."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


@contextmanager
def safe_warnings() -> Iterator[None]:
    """Warnings, which may quote a model, as printable text."""
    plain = warnings.formatwarning

    def visible(*arguments: Any, **named: Any) -> str:
        return printable(plain(*arguments, **named))

    warnings.formatwarning = visible
    try:
        yield
    finally:
        warnings.formatwarning = plain
