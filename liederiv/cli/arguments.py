"""What no command can use, refused before any runs, whatever the argument is for.

Zero bytes, numbers that are none, seeds out of range; paths that are no files of this machine, that
the system refuses to look at, or that would block whoever opens them. Paths become absolute: the
model's code may change the folder.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from liederiv.errors import LieDerivError
from liederiv.foreign import shortened

__all__ = ["as_given", "checked", "checked_path"]

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|\\\\")  # s3:// (of which a Path keeps one slash)
_MAY_BE_INFINITE = ("timeout",)
_OWN_CHECK = ("crop_pct",)  # whose message says more
_OPEN_ALREADY = ("/dev/fd/", "/dev/stdin", "/proc/")  # the shell's <(…), and pipes into the command


def checked(command: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command, each looked at by its type.

    Raises:
        LieDerivError: naming the first one that no command can use.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    return {
        name: _checked(_flag(name, parameters.get(name)), name, value)
        for name, value in given.items()
    }


def _flag(name: str, parameter: inspect.Parameter | None) -> str:
    """How the user gives it: --name, or NAME."""
    for info in () if parameter is None else get_args(parameter.annotation)[1:]:
        if type(info).__name__ == "ArgumentInfo":
            return str(info.metavar or name.upper())
        given = (getattr(info, "default", None), *(getattr(info, "param_decls", None) or ()))
        long = [d for d in given if isinstance(d, str) and d.startswith("--")]
        if long:
            return str(long[0])
    return "--" + name.strip("_").replace("_", "-")


def _checked(flag: str, name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_checked(flag, name, item) for item in value)
    if isinstance(value, str | Path) and "\0" in str(value):
        raise LieDerivError(f"{flag}={_shown(value)} holds a zero byte; leave it out.")
    if isinstance(value, Path):
        return checked_path(flag, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if name in _OWN_CHECK:
        return value
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value) or name not in _MAY_BE_INFINITE:
            raise LieDerivError(f"{flag}={value} must be a finite number.")
    elif name == "seed" and not 0 <= value < 2**32:
        raise LieDerivError(f"{flag}={_digits(value)} must be a whole number from 0 to 2³² − 1.")
    elif isinstance(value, int) and abs(value) >= 2**31:
        raise LieDerivError(f"{flag}={_digits(value)} is far too large; give a smaller number.")
    return value


def checked_path(flag: str, path: Path) -> Path:
    """An absolute path that can be looked at and, if it is there, opened without waiting.

    Raises:
        LieDerivError: for a remote address, a pipe, a socket, a device, and for a path that the
            system refuses (too long, no permission, a circle of links).
    """
    if _REMOTE.match(str(path)) and os.name != "nt":
        raise LieDerivError(
            f"{flag}={_shown(path)} is an address, not a path of this machine; copy it here, or "
            "mount it, and name the file."
        )
    full = Path(os.path.abspath(os.path.expanduser(path)))
    try:
        kind = os.stat(full).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return full  # for the command to say, or to make
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise LieDerivError(
            f"{flag}={_shown(path)} cannot be used: {words}; check the path and its permissions."
        ) from error
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or str(full).startswith(_OPEN_ALREADY)):
        what = "a pipe" if stat.S_ISFIFO(kind) else "a socket or device"
        raise LieDerivError(f"{flag}={_shown(path)} is {what}; name a file or a folder.")
    return full


def as_given(path: Path) -> str:
    """A path in a message: relative where it lies in the current folder, as it was typed."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)


def _shown(value: object) -> str:
    return repr(shortened(str(value), 120))


def _digits(value: float) -> str:
    try:
        return shortened(str(value), 60)
    except ValueError:  # of numbers with thousands of digits, which Python does not print
        return "(thousands of digits)"
