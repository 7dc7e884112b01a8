"""Files of results: checked before anything is computed, and nothing computed is lost after it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from liederiv.cli.command import Leave
from liederiv.cli.failures import complain, sentence
from liederiv.errors import LieDerivError
from liederiv.foreign import shortened

__all__ = ["Saving", "writable"]


def writable(*paths: Path | None) -> None:
    """Check before a long run that results can be written after it, by writing a file.

    Raises:
        LieDerivError: naming the file, why it cannot be written, and what to do.
    """
    for path in paths:
        if path is not None:
            _check(path)


def _check(path: Path) -> None:
    shown = repr(shortened(str(path), 300))
    folder = repr(shortened(str(path.parent), 300))
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    except (OSError, ValueError) as error:
        if not isinstance(error, NotADirectoryError | PermissionError):
            words = getattr(error, "strerror", None) or str(error)
            raise LieDerivError(
                f"cannot write {shown}: {words}; choose another name or folder."
            ) from error
        kind = stat.S_IFREG
    if stat.S_ISDIR(kind):
        raise LieDerivError(f"cannot write {shown}: it is a folder; name a file.")
    if not stat.S_ISREG(kind):
        raise LieDerivError(f"cannot write {shown}: it is a pipe or a device; name a file.")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".liederiv-")
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise LieDerivError(
            f"cannot write {shown}: {folder} is no writable folder; create it or choose another "
            f"({error.strerror})."
        ) from error


class Saving:
    """Writes files after a measurement. One that cannot be written goes to a temporary folder.

    Attributes:
        lost: something could be written nowhere, and should be printed at least.
    """

    def __init__(self) -> None:
        self.lost = False
        self._failed = False
        self._folder: Path | None = None

    def __call__(self, path: Path | None, write: Callable[[Path], Any]) -> None:
        """Let ``write`` write the file, atomically, or else one of the same ending elsewhere."""
        if path is None:
            return
        try:
            write(path)
        except (LieDerivError, OSError, UnicodeError) as error:
            self._failed = True
            why = sentence(error).rstrip(".")
            try:
                complain(f"{why}; it was written to {str(self._rescue(path, write))!r} instead.")
            except (LieDerivError, OSError, UnicodeError):
                self.lost = True
                complain(f"{why}; nor can it be written elsewhere, so results are printed only.")

    def finish(self) -> None:
        """Leave with code 2 if a file is not where it should be; it has been said."""
        if self._failed:
            raise Leave(2)

    def _rescue(self, path: Path, write: Callable[[Path], Any]) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="liederiv-results-"))
        stem = path.stem if len(os.fsencode(path.name)) < 200 else "results"
        place = self._folder / f"{stem}{path.suffix}"
        write(place)
        return place
