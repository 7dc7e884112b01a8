"""Text that is not ours: made safe where it enters, before it is printed, stored or compared.

Names of files, messages of exceptions and fields of checkpoints come from others. They may hold
half a surrogate pair (which no encoder takes), a terminal's escape sequences, or marks that turn
the direction of writing; none of that may reach a terminal, a table, a page or a store.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from pathlib import Path
from typing import TypeVar

__all__ = [
    "at_home",
    "described",
    "figure_label",
    "first_line",
    "for_spreadsheets",
    "one_line",
    "printable",
    "shortened",
    "unblocking",
]

# Control characters, surrogates, and the marks that reverse or hide what stands around them.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_FORMULA = tuple("=+-@\t＝＋－＠")  # with which a spreadsheet's formula may begin
T = TypeVar("T")
_DIRECTION_MARKS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def _visible(character: str) -> str:
    r"""The escape that stands for one unsafe character: `\x1b`, `\ud800`; a raw byte as itself."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python spells a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: object, *, keep: str = "\n\t") -> str:
    """`str(text)` as valid Unicode without control characters, each shown as its escape.

    Applying it twice changes nothing more. An object whose own `__str__` fails is described by its
    type: the message of somebody's exception is a piece of their code too.

    Args:
        text: anything; usually a string, a path or an exception.
        keep: control characters that stay as they are; "" for what must be one line.

    Returns:
        A string that every UTF-8 encoder takes and that moves no cursor.
    """
    try:
        string = str(text)
    except (Exception, SystemExit, GeneratorExit):
        string = f"<{type(text).__name__} that cannot be printed>"
    if string.isascii() and string.isprintable():
        return string
    return "".join(
        character
        if character in keep
        or (
            unicodedata.category(character) not in _UNSAFE_CATEGORIES
            and character not in _DIRECTION_MARKS
        )
        else _visible(character)
        for character in string
    )


def one_line(text: object) -> str:
    """`printable` text on one line, white space folded: for a cell, a sentence, a file's name."""
    return " ".join(printable(text).split())


def first_line(error: BaseException) -> str:
    """What an error says first, without its full stop; the name of its class if nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def at_home(path: str | os.PathLike[str]) -> Path:
    """A path whose ``~`` is the home folder; that of a user who does not exist stays as it is."""
    return Path(os.path.expanduser(path))


def unblocking(path: Path) -> Path:
    """The path, if nobody waits who opens it: a pipe may never be written to.

    Raises:
        OSError: for a pipe, a socket or a device.
    """
    kind = path.stat().st_mode if path.exists() else stat.S_IFREG
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    return path


def shortened(text: str, length: int = 200) -> str:
    """The text without its middle where it is longer than that."""
    if len(text) <= length:
        return text
    head, tail = (length - 1) * 2 // 3, (length - 1) // 3
    return f"{text[:head]}…{text[len(text) - tail :]}"


def described(value: object) -> str:
    """The `repr` of something of the user's in one short line; its type where that fails."""
    try:
        return shortened(one_line(repr(value)))
    except (Exception, SystemExit, GeneratorExit):
        return f"a {type(value).__name__}"


def figure_label(text: object) -> str:
    """Text for a figure of matplotlib, where ``$`` begins a formula: it is shown as it is."""
    return printable(text, keep="\n").replace("$", r"\$")


def for_spreadsheets(cell: T) -> T | str:
    """A cell of a CSV file: text that a spreadsheet would run as a formula gets an apostrophe.

    Numbers stay numbers; other text is made `printable`.

    Example:
        >>> for_spreadsheets("=1+1"), for_spreadsheets(-1.5), for_spreadsheets("resnet18")
        ("'=1+1", -1.5, 'resnet18')
    """
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text  # so it can be undone
