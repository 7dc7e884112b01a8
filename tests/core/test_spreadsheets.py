"""CSV files of ours: no cell is a formula, numbers stay numbers, and they can be read back."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liederiv.foreign import for_spreadsheets, printable
from liederiv.spreadsheets import csv_text, unquoted, write_csv

ANY_TEXT = st.text(st.characters(exclude_categories=()))
FORMULA = st.builds(str.__add__, st.sampled_from(["=", "+", "-", "@", "\t", "\r", "'="]), ANY_TEXT)


@given(st.lists(ANY_TEXT | FORMULA, min_size=1), st.floats(allow_nan=False))
def test_no_text_is_a_formula_and_all_of_it_comes_back(texts, value):
    frame = pd.DataFrame({"=name": pd.Series(texts, dtype=object), "value": [value] * len(texts)})
    text = csv_text(frame)
    text.encode("utf-8")
    back = pd.read_csv(io.StringIO(text), dtype={0: str}, keep_default_na=False)
    assert list(back.columns) == ["'=name", "value"]
    assert back["value"].tolist() == frame["value"].tolist()
    cells = back["'=name"].tolist()
    assert not [c for c in cells if c[:1] in {"=", "+", "-", "@", "\t", "\r"}]
    assert [unquoted(c) for c in cells] == [printable(t) for t in texts]


@pytest.mark.parametrize("value", [-1.5, -3, None, float("inf"), True])
def test_what_is_no_text_is_left_alone(value):
    assert for_spreadsheets(value) is value


def test_a_file_of_mixed_columns(tmp_path):
    frame = pd.DataFrame({"a": ["-x", None], "b": [-1.0, 2.0], "c": [pd.NA, 3]})
    write_csv(tmp_path / "a.csv", frame)
    assert (tmp_path / "a.csv").read_bytes() == b"a,b,c\n'-x,-1.0,\n,2.0,3\n"
