"""The check of links sees what is broken, and nothing is."""

import importlib.util
import json

import pytest
from sources import ROOT

SPEC = importlib.util.spec_from_file_location("links", ROOT / "docs" / "links.py")
links = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(links)


def test_nothing_is_broken():
    assert links.check(ROOT) == []


@pytest.fixture
def site(tmp_path):
    """A small documentation whose links all lead somewhere."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "liederiv").mkdir()
    (tmp_path / "liederiv" / "a.py").write_text('"""See docs/a.md#two-words."""\n')
    (tmp_path / "README.md").write_text("[docs](docs/index.md)\n")
    (tmp_path / "docs" / "index.md").write_text(
        "# Index\n[a](a.md#two-words), ![f](f.png), [up](../README.md), [n](../notebooks/n.ipynb), "
        '[out](https://example.org/x#y), `[no](link.md)`, [title](a.md "of a")\n'
        "```text\n[no](link.md)\n```\n"
    )
    (tmp_path / "docs" / "a.md").write_text(
        "# `A`\n## Two words\n## Two words\n[x](#two-words-1)\n"
    )
    (tmp_path / "docs" / "f.png").touch()
    cell = {"cell_type": "markdown", "source": ["[a](../docs/a.md#a)"]}
    (tmp_path / "notebooks" / "n.ipynb").write_text(json.dumps({"cells": [cell]}))
    return tmp_path


def test_sound_links_pass(site):
    assert links.check(site) == []


@pytest.mark.parametrize(
    ("page", "text", "fault"),
    [
        ("docs/a.md", "[x](b.md)", "docs/a.md: b.md does not exist"),
        ("docs/a.md", "[x](index.md#nowhere)", "docs/a.md: index.md#nowhere has no heading for"),
        ("docs/a.md", "[x](#two-words-2)", "docs/a.md: #two-words-2 has no heading for"),
        ("docs/a.md", "![x](g.png)", "docs/a.md: g.png does not exist"),
        ("docs/a.md", "[x]: g.md", "docs/a.md: g.md does not exist"),
        ("docs/a.md", '<img src="g.png">', "docs/a.md: g.png does not exist"),
        ("docs/a.md", "[x](../../elsewhere.md)", "docs/a.md: ../../elsewhere.md leaves the"),
        ("docs/alone.md", "# Alone", "docs/alone.md: is not reachable from docs/index.md"),
        ("liederiv/a.py", '"""See docs/b.md."""', "liederiv/a.py: docs/b.md does not exist"),
        ("liederiv/a.py", '"""docs/a.md#b."""', "liederiv/a.py: docs/a.md#b has no heading for #b"),
    ],
)
def test_each_fault_is_seen(site, page, text, fault):
    with (site / page).open("a") as file:
        file.write(f"\n{text}\n")
    (found,) = links.check(site)
    assert found.startswith(fault)


def test_a_broken_link_of_a_notebook_is_seen(site):
    cell = {"cell_type": "markdown", "source": ["[a](../docs/b.md)"]}
    (site / "notebooks" / "n.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert links.check(site) == ["notebooks/n.ipynb: ../docs/b.md does not exist"]
