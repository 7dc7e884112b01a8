"""Writing files: whole or not at all, as JSON and text that everybody can read."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from liederiv.errors import LieDerivError
from liederiv.foreign import printable

__all__ = ["json_ready", "json_text", "writable_text", "write_atomically", "write_json"]


def write_json(path: Path, data: Any) -> Path:
    """Write plain data, see `json_ready`, to a .json file, atomically."""
    text = json_text(data)
    return write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def json_text(data: Any) -> str:
    """Plain data, see `json_ready`, as JSON."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_atomically(
    path: Path, write: Callable[[Path], Any], *, scratch: Path | None = None
) -> Path:
    """Let ``write`` fill a temporary file, then rename it.

    Args:
        path: of the file; its folder must exist.
        write: fills the file whose path it is given.
        scratch: folder of the temporary file, on the same file system; beside path if None.

    Returns:
        path.

    Raises:
        LieDerivError: if the folder does not exist or cannot be written to.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=scratch or path.parent, suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise LieDerivError(
            f"cannot write {str(path)!r} ({error.strerror}); choose an existing, writable folder."
        ) from error
    try:
        try:
            write(Path(temporary))
        except OSError as error:
            raise LieDerivError(
                f"cannot write {str(path)!r} ({error.strerror or error}); free space, or choose "
                "another folder."
            ) from error
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def json_ready(data: Any) -> Any:
    """Plain data that JSON can hold: NaN and ∞ become None, tuples lists, text printable."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, Mapping):
        return {printable(k): json_ready(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [json_ready(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return writable_text(data) if isinstance(data, str) else data


def writable_text(text: str) -> str:
    """The text, or its `printable` form where it is no valid Unicode and no file could hold it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return printable(text)
    return text
