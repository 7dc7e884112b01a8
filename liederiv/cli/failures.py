"""The one place where an exception becomes a sentence: what it was, and what to do about it."""

from __future__ import annotations

import os
import traceback

from liederiv.cli.terminal import say
from liederiv.errors import LieDerivError
from liederiv.foreign import one_line, printable, shortened
from liederiv.foreign_code import is_about_memory, what_was_raised

__all__ = ["DEBUG", "complain", "report_failure", "sentence"]

DEBUG = "LIEDERIV_DEBUG"
_LENGTH = 2000  # of a sentence; a model's message may hold a megabyte


def complain(text: object, *, who: str = "liederiv") -> None:
    """Print one line on standard error."""
    say(f"{who}: {shortened(one_line(text), _LENGTH)}", error=True)


def report_failure(error: BaseException) -> None:
    """Print an exception as one line; under LIEDERIV_DEBUG=1 its traceback before that."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        say("".join(traceback.format_exception(error)).rstrip(), error=True)
    complain(sentence(error))


def sentence(error: BaseException) -> str:
    """What an exception means to the user of the command line.

    Ours are sentences already. Those of the system are completed by what can be done; any other is
    a fault that nobody has foreseen, in liederiv or in the model's code.
    """
    if isinstance(error, LieDerivError):
        return one_line(error)
    if is_about_memory(error):
        return (
            f"out of memory ({_reason(error)}); use a smaller --batch-size, fewer images, or a "
            "smaller --img-size or --max-img-size."
        )
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, RecursionError):
        return (
            "something is nested too deeply (a RecursionError, in a file, an argument or the "
            f"model's code); give it flatter, or see where with {DEBUG}=1."
        )
    if isinstance(error, UnicodeError):
        return (
            f"some text cannot be read or written ({_reason(error)}); files must be UTF-8, see "
            f"where it is with {DEBUG}=1."
        )
    return (
        f"unexpected {shortened(what_was_raised(error), 500).rstrip('.')}; this is a fault of "
        f"liederiv's or of the model's code: run it again with {DEBUG}=1 to see where, and report "
        "it with what that prints."
    )


def _of_the_system(error: OSError) -> str:
    """Of files, devices and connections: the name and the system's own words."""
    names = [n for n in (error.filename, error.filename2) if n is not None]
    words = error.strerror or _reason(error) or type(error).__name__
    if not names:
        return f"the system refused: {words}; check files, permissions, free space and network."
    texts = (printable(os.fsdecode(n) if isinstance(n, bytes) else n, keep="") for n in names)
    what = " and ".join(f"'{shortened(text)}'" for text in texts)
    return f"{what} cannot be read or written: {words}; check the path and its permissions."


def _reason(error: BaseException) -> str:
    return shortened(one_line(error), 300).rstrip(".;")
