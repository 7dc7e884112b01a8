"""Text of others on its way to the terminal: shown as it is, and it moves no cursor."""

from __future__ import annotations

import io
import unicodedata
import warnings
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from liederiv.analysis.report.data import safe_json
from liederiv.analysis.report.tables import interactive, plain
from liederiv.cli.failures import sentence
from liederiv.cli.tables import console, headline, new_table
from liederiv.cli.terminal import say
from liederiv.foreign import figure_label
from liederiv.spreadsheets import printable_frame
from liederiv.testing.junit import write_junit
from liederiv.testing.limits import Verdict

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


@given(HOSTILE, HOSTILE)
def test_text_in_a_figure(title, label):
    figure = Figure()
    axes = figure.subplots()
    axes.set_title(figure_label(title))
    axes.set_xticks([0], [figure_label(label)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*missing from", UserWarning)  # of the font
        figure.savefig(io.BytesIO(), dpi=10)


@pytest.mark.parametrize("text", ["$", "$$", "a $x_1$ b", r"\$", r"\$x$", "$\\frac$", "{$"])
def test_a_dollar_is_a_dollar(text):
    drawn, _ = Figure().text(0, 0, figure_label(text))._preprocess_math(figure_label(text))
    assert drawn == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(HOSTILE, HOSTILE)
def test_text_in_junit(tmp_path, model, reason):
    states = ("kept", "broken", "not measured")
    verdicts = [Verdict(model, s, 1.0, None, None, 2.0, "1", reason) for s in states]
    path = write_junit(tmp_path / "gate.xml", model, verdicts, 1.0)
    root = ElementTree.fromstring(path.read_bytes())
    assert len(root.findall(".//testcase")) == 3
    assert len(root.findall(".//failure")) == len(root.findall(".//error")) == 1


@settings(deadline=None)
@given(HOSTILE | st.sampled_from(["</script><b>", "\u2028", "<!--", "&lt;"]))
def test_text_in_the_pages_tables_and_data(text):
    cells = {"model": [text, 1], "lee": [float("nan"), 1.0]}
    frame = printable_frame(pd.DataFrame(cells, dtype=object))
    page = plain(frame) + safe_json({"name": text, text: [float("nan"), float("inf")]})
    page.encode("utf-8")
    assert "</script" not in page
    assert "\u2028" not in page
    assert "NaN" not in page.replace(text, "")


@pytest.mark.parametrize("text", ["</script><b>x", "<!--<script>", "\u2028", "\ud800", "\x1b[2J"])
def test_text_in_the_pages_interactive_table(text):
    frame = pd.DataFrame({"model": [text], "lee": [1.0]}, dtype=object)
    page = interactive(printable_frame(frame), "t")
    page.encode("utf-8")
    scripts = page.lower().split("<script")
    assert all(part.count("</script>") <= 1 for part in scripts)
    assert "<b>x" not in page
    assert "\u2028" not in page
    assert "\x1b" not in page
