"""Text that is not ours: made safe where it enters, before it is printed, stored or compared.

Names of files, messages of exceptions and fields of checkpoints come from others. They may hold
half a surrogate pair (which no encoder takes), a terminal's escape sequences, or marks that turn
the direction of writing; none of that may reach a terminal, a table, a page or a store.
"""

from __future__ import annotations

import unicodedata

__all__ = ["one_line", "printable"]

# Control characters, surrogates, and the marks that reverse or hide what stands around them.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
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
    except Exception:
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
