"""Text of others: whatever it holds, what comes out can be encoded and moves no cursor."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liederiv.foreign import one_line, printable

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates and controls included


@given(ANY_TEXT)
def test_any_text_becomes_encodable_and_harmless(text: str) -> None:
    safe = printable(text)
    safe.encode("utf-8")
    assert not [
        c for c in safe if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c not in "\n\t"
    ]
    assert printable(safe) == safe


@given(ANY_TEXT)
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – ünïcode 漢字 🙂", "plain – ünïcode 漢字 🙂"),
        (b"caf\xff".decode("utf-8", "surrogateescape"), "caf\\xff"),
        ("half \ud800 pair", "half \\ud800 pair"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("abc\u202etxt.exe", "abc\\u202etxt.exe"),
    ],
)
def test_what_is_unsafe_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_an_object_that_cannot_be_printed_is_described() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even its message")

    assert printable(UnprintableError()) == "<UnprintableError that cannot be printed>"
