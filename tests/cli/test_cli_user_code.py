"""The exit code is ours, whatever the user's code raises; its failure is one sentence."""

from __future__ import annotations

import unicodedata

import pytest
from hostile_code import COMMANDS, MODELED, arguments_of


@pytest.mark.parametrize("kind", ["exit", "quit", "interrupt", "generator", "own", "typer"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_factory_that_ends_the_program(end, few, hostile, tmp_path, command, kind):
    (tmp_path / "epoch-1.pth").write_bytes(b"x")
    line = arguments_of(command, f"{hostile}:factory", few, tmp_path, [f"kind={kind}"])
    code, _, err = end(*line)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "raised" in err
    assert "\x1b" not in err


@pytest.mark.parametrize("after", [0, 1, 3, 6])
@pytest.mark.parametrize("kind", ["exit", "interrupt", "typer"])
@pytest.mark.parametrize("command", MODELED)
def test_a_forward_that_ends_the_program(end, few, hostile, tmp_path, command, kind, after):
    junit = tmp_path / "gate.xml"
    more = ("--junit", junit) if command == "gate" else ()
    kwargs = [f"kind={kind}", f"after={after}"]
    line = arguments_of(command, f"{hostile}:forward", few, tmp_path, kwargs)
    code, _, err = end(*line, *more)
    if after == 6 and code == 0:
        pytest.skip("called less often than that")
    assert code == 2
    assert len(err.splitlines()) == 1
    if command == "gate":
        assert "<error" in junit.read_text(encoding="utf-8")
        assert "system-out" not in junit.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["hostile_exits", "hostile_raises"])
@pytest.mark.parametrize("command", MODELED)
def test_an_import_that_ends_the_program(end, few, hostile, tmp_path, command, module):
    code, _, err = end(*arguments_of(command, f"{module}:build", few, tmp_path))
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"Module '{module}' raised" in err


def test_a_module_of_pythons_own(end, few, hostile, tmp_path):
    code, _, err = end(*arguments_of("gate", "sys:exit", few, tmp_path))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "Model factory 'sys:exit' raised SystemExit()" in err


@pytest.mark.parametrize(
    "name", ["data_config", "output_representation", "num_classes", "training"]
)
def test_an_attribute_that_ends_the_program(end, few, hostile, tmp_path, name):
    kwargs = ["kind=exit", f"name={name}"]
    code, _, err = end(*arguments_of("gate", f"{hostile}:attribute", few, tmp_path, kwargs))
    assert (code, len(err.splitlines())) in ((2, 1), (0, 0))
    assert code == 2 or name in ("training", "num_classes")


def test_a_representation_that_ends_the_program(end, few, hostile, tmp_path):
    line = arguments_of("gate", f"{hostile}:representation", few, tmp_path, ["kind=exit"])
    code, _, err = end(*line)
    assert (code, len(err.splitlines())) == (2, 1)


def test_results_lie_where_the_command_began(end, few, hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = ("--json", "a.json", "--csv", "a.csv", "--per-image", "a.parquet")
    code, _, err = end(*arguments_of("score", f"{hostile}:moves", few, tmp_path), *files)
    assert code == 0, err
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "a.csv", "a.parquet"}


CONFIGS = [
    "5",
    "[]",
    "{'input_size': 5}",
    "{'input_size': (3,)}",
    "{'mean': 'abc'}",
    "{'std': (1e-300,)*3}",
    "{'std': (float('nan'),)*3}",
    "{'mean': (float('nan'),)*3}",
    "{'mean': (1e300,)*3}",
    "{'std': 10**5000}",
    "{'crop_pct': float('inf')}",
    "{'crop_pct': 'x'}",
    "{'input_size': (3, 2**70, 2)}",
    "{'interpolation': 7}",
    "{'interpolation': []}",
    "{'input_size': None, 'mean': object()}",
]


@pytest.mark.parametrize("value", CONFIGS)
def test_a_data_config_of_any_kind(end, few, hostile, tmp_path, value):
    line = arguments_of("check", f"{hostile}:config", few, tmp_path)
    code, _, err = end(*line, "--model-kwargs", f"value={value!r}")
    assert (code, len(err.splitlines())) in ((2, 1), (0, 0))


@pytest.mark.parametrize(
    "text", ["[/b] :smile: [bold red]x", "\x1b[2J\x07", "a\rb\x00", "\ud800", "x" * 10**5]
)
def test_a_models_message(end, few, hostile, tmp_path, text):
    line = arguments_of("check", f"{hostile}:named", few, tmp_path)
    code, _, err = end(*line, "--model-kwargs", f"text={text!r}")
    assert (code, len(err.splitlines())) == (2, 1)
    assert len(err) < 3000
    assert not [c for c in err[:-1] if unicodedata.category(c) in ("Cc", "Cs")]
    if "[/b]" in text:
        assert text in err


@pytest.mark.parametrize("name", ["[/b]", "$x$", "\x1b[2J", "\ud800", "a\nb", "=1", "x" * 300])
def test_a_modules_name(end, few, hostile, tmp_path, name):
    line = arguments_of("layers", f"{hostile}:odd", few, tmp_path, [f"name={name!r}"])
    files = ("--json", tmp_path / "a.json", "--parquet", tmp_path / "a.parquet")
    code, out, err = end(*line, *files, "--plot", tmp_path / "a.png", "--aliasing", "--finite")
    assert code == 0, err
    assert len(list(tmp_path.iterdir())) == 3
    assert "\x1b[2J" not in out + err
    assert "[/b]" in out or name != "[/b]"
