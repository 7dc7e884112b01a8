"""Help, completion and wrong options are answered before torch could be imported."""

import json
import os
import subprocess
import sys

import pytest

import liederiv
from liederiv import names
from liederiv.analysis.models.leaderboard import ABOUT
from liederiv.derivatives import SCHEMES
from liederiv.metrics.registry import families
from liederiv.model_zoo.scan import columns, presets
from liederiv.representations import NAMED

HEAVY = ("torch", "timm", "pandas", "pyarrow", "matplotlib", "numpy")
COMMANDS = ("score", "layers", "orbit", "compare", "scan", "results", "report", "gate", "track",
            "check", "models", "info")  # fmt: skip
WATCH = f"""
import contextlib, io, json, sys
from liederiv.cli import app, main
found = [[c.callback.__name__ for c in app.registered_commands]]
for line in json.loads(sys.argv[1]):
    sys.argv = ["liederiv", *line]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    found.append([code, out.getvalue(), heavy])
print(json.dumps(found))
"""


def fresh(code, *arguments, **environment):
    """What a new process prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_and_wrong_options_need_no_torch():
    lines = [["--help"], ["--misspelt"], ["scroe"]]
    lines += [[c, o] for c in COMMANDS for o in ("--help", "--misspelt")]
    lines += [["score", "x", "--num-images", "many"], ["gate", "x", "--junit", "a.txt"]]
    commands, *found = json.loads(fresh(WATCH, json.dumps(lines)))
    assert sorted(commands) == sorted(COMMANDS)
    for line, (code, text, heavy) in zip(lines, found, strict=True):
        assert heavy == [], line
        assert code == (0 if "--help" in line else 2), line
        if line == ["score", "--help"]:
            assert ", ".join(families()) in " ".join(text.replace("│", " ").split())
        assert ("Usage" in text) if "--help" in line else text.startswith("liederiv"), line


def test_the_watch_sees_what_is_imported():
    code = WATCH.replace("'torch'", "'rich'")
    (_, (code, _, heavy)) = json.loads(fresh(code, json.dumps([["--help"]])))
    assert (code, heavy) == (0, ["rich"])


def test_completion_needs_no_torch():
    code = f"""
import sys
from liederiv.cli import main
sys.argv = ["liederiv"]
try:
    main()
except SystemExit:
    print([name for name in {HEAVY!r} if name in sys.modules])
"""
    words = {"COMP_WORDS": "liederiv score --sch", "COMP_CWORD": "2"}
    text = fresh(code, _LIEDERIV_COMPLETE="complete_bash", **words)
    assert text.split() == ["--scheme", "[]"]


def test_importing_the_package_imports_neither_torch_nor_timm():
    code = f"""
import sys, liederiv
print([name for name in {HEAVY!r} if name in sys.modules])
from liederiv import measure
print("timm" in sys.modules, "torch" in sys.modules, liederiv.__version__)
"""
    assert fresh(code).split() == ["[]", "False", "True", liederiv.__version__]


@pytest.mark.slow
def test_any_module_may_be_the_first():
    code = """
import os, torch
from importlib import import_module
for first in ("differentiation", "lie_derivatives", "points.domain", "model_zoo.sources.registry"):
    child = os.fork()
    if not child:
        import_module(f"liederiv.{first}")
        import liederiv
        from liederiv.domains import domain_of, known_domains
        x = torch.rand(1, 3, 8, 8)
        L = liederiv.lie_derivative(lambda x: x.mean((2, 3)), x, "rotation")
        with liederiv.forward_mode():
            print(first, tuple(L.shape), domain_of(x).item, [d.item for d in known_domains()])
        break
    assert os.waitpid(child, 0)[1] == 0
"""
    lines = fresh(code).splitlines()
    assert [line.partition(" ")[0] for line in lines] == [
        "differentiation", "lie_derivatives", "points.domain", "model_zoo.sources.registry"
    ]  # fmt: skip
    assert all(line.endswith("(1, 1, 3) image ['image', 'cloud']") for line in lines)


def test_unknown_names_are_told():
    with pytest.raises(AttributeError, match="'liederiv' has no attribute 'mesure'"):
        liederiv.mesure  # noqa: B018
    assert set(liederiv.__all__) <= set(dir(liederiv))


def test_names_are_those_of_what_they_name():
    assert [f for f in names.FAMILIES if f in families()] == [f for f in families() if f != "all"]
    assert tuple(SCHEMES) == names.SCHEMES
    assert tuple(NAMED) == names.REPRESENTATIONS
    assert columns.MEASUREMENTS == names.MEASUREMENTS
    assert set(names.GROUPS) <= set(ABOUT)
    for name in names.PRESETS:
        assert next(iter(presets.preset(name))).name
