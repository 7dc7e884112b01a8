"""Text of others on its way to the terminal: shown as it is, and it moves no cursor."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from liederiv.cli.failures import sentence
from liederiv.cli.tables import console, headline, new_table
from liederiv.cli.terminal import say

ANY_TEXT = st.text(st.characters(exclude_categories=()))
MARKUP = st.sampled_from(
    ["[/b]", "[bold red]", "[/]", ":smile:", "\x1b[2J", "\r", "\ud800", "[link=x]"]
)
HOSTILE = st.lists(MARKUP | ANY_TEXT, max_size=4).map("".join)


def shown(*items):
    """What a console prints of renderables on a stream of that encoding."""
    out = console()
    out.file = io.StringIO()
    for item in items:
        out.print(item)
    return out.file.getvalue()


@given(HOSTILE, HOSTILE)
def test_text_on_its_way_to_the_terminal(first, second):
    table = new_table(first)
    table.add_column(first)
    table.add_row(second)
    table.add_row(Text(first))
    text = shown(table, first, Text(second), headline(first, second))
    text.encode("utf-8")
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]


@pytest.mark.parametrize(
    "text", ["[/b]", "[bold red]x[/]", ":smile:", "a[0]", "[link=http://x]y[/link]"]
)
def test_markup_is_text(text):
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    assert shown(table).count(text) == 3
    assert shown(text) == f"{text}\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE)
def test_lines(capsys, text):
    say(text)
    say(text, error=True)
    out, err = capsys.readouterr()
    assert not [c for c in out + err if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]


@given(
    st.sampled_from(
        [OSError, ValueError, MemoryError, RecursionError, UnicodeError, RuntimeError, KeyError]
    ),
    HOSTILE,
)
def test_any_error_is_one_sentence(kind, text):
    line = sentence(kind(text))
    assert len(line.splitlines()) == 1
    line.encode()
    numbered = sentence(OSError(28, "No space left on device", text))
    assert "No space left on device" in numbered
