"""The map of the code, read from its imports: who may know whom, and what is said only once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "liederiv": "liederiv",
    "liederiv.model_zoo": "model_zoo",
    "liederiv.analysis": "analysis",
}
OUTER = ("liederiv.model_zoo", "liederiv.analysis", "liederiv.cli")


def modules(root=ROOT, packages=PACKAGES):
    """Source files by the name under which they are imported."""
    found = {}
    for package, folder in packages.items():
        for path in (root / folder).rglob("*.py"):
            parts = path.relative_to(root / folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            found[name] = path
    return found


def imports(known):
    """Which modules a module imports anywhere in it, functions and TYPE_CHECKING included."""
    graph = {}
    for name, path in known.items():
        here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = here[: len(here) - node.level + 1] if node.level else []
                base = ".".join([*base, *([node.module] if node.module else [])])
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    wanted.add(inner if inner in known else base)
        graph[name] = {w for w in wanted if w in known and w != name}
    return graph


def cycles(graph):
    """Modules that reach themselves."""

    def reached(start):
        seen, ahead = set(), list(graph[start])
        while ahead:
            here = ahead.pop()
            if here not in seen:
                seen.add(here)
                ahead += graph[here]
        return seen

    return sorted(name for name in graph if name in reached(name))


def strays(graph):
    """Imports of a wing, or of the command line, by the core."""
    return sorted(
        (name, other)
        for name, others in graph.items()
        for other in others
        if not name.startswith(OUTER) and name != "liederiv.__main__" and other.startswith(OUTER)
    )


@pytest.fixture(scope="module")
def graph():
    return imports(modules())


def test_the_core_knows_neither_wing_nor_the_command_line(graph):
    assert len(graph) > 150
    assert strays(graph) == []


def test_the_wings_do_not_know_the_command_line(graph):
    for name, others in graph.items():
        if not name.startswith("liederiv.cli") and name != "liederiv.__main__":
            assert not any(other.startswith("liederiv.cli") for other in others), name


def unreached(graph, doors):
    """Modules that no user comes to from these, packages on the way included."""
    seen, ahead = set(), list(doors)
    while ahead:
        here = ahead.pop()
        if here and here not in seen:
            seen.add(here)
            ahead += [*graph.get(here, ()), here.rpartition(".")[0]]
    return sorted(set(graph) - seen)


def test_what_is_installed_is_reached_from_a_public_name_or_a_command():
    """Studies that only their own `python -m` would start lie in benchmarks/."""
    known = modules() | {"pytest_liederiv": ROOT / "pytest_liederiv.py"}
    graph = imports(known)
    doors = [n for n in graph if n.endswith(".exports")]
    doors += ["liederiv", "liederiv.__main__", "liederiv.cli", "pytest_liederiv"]
    assert unreached(graph, doors) == []
    study = {"liederiv.study": {"liederiv.cli"}, "liederiv.study.part": set()}
    assert unreached(graph | study, doors) == sorted(study)


def test_no_modules_import_each_other(graph):
    assert cycles(graph) == []


def rooms(graph, wing, folders):
    """The same graph of a wing's folders; what stands outside of them is left out."""

    def room(name):
        return next((f for f in folders if name.startswith(f"{wing}.{f}.")), None)

    found = {folder: set() for folder in folders}
    for name, others in graph.items():
        for other in others:
            if room(name) and room(other) and room(name) != room(other):
                found[room(name)].add(room(other))
    return found


def folders_of(wing):
    return sorted(path.parent.name for path in (ROOT / PACKAGES[wing]).glob("*/__init__.py"))


def test_no_rooms_of_the_zoo_import_each_other(graph):
    wing = "liederiv.model_zoo"
    found = rooms(graph, wing, folders_of(wing))
    assert {"inputs", "sources", "requests", "scan"} <= set(found)
    assert cycles(found) == []


def test_faults_that_are_planted_are_found(tmp_path):
    """The tests above see imports in functions, for types, relative ones and of whole modules."""
    files = {
        "liederiv/__init__.py": "",
        "liederiv/kernel.py": "def f():\n    from liederiv.analysis import plots\n",
        "liederiv/one.py": "if TYPE_CHECKING:\n    import liederiv.two\n",
        "liederiv/two.py": "from .three import x\n",
        "liederiv/three.py": "from . import one\n",
        "analysis/__init__.py": "",
        "analysis/plots.py": "from liederiv import kernel\nfrom ..model_zoo import names\n",
        "model_zoo/__init__.py": "",
        "model_zoo/names.py": "from .one.x import y\n",
        "model_zoo/one/__init__.py": "",
        "model_zoo/one/x.py": "def f():\n    from ..two import z\n",
        "model_zoo/two/__init__.py": "",
        "model_zoo/two/z.py": "from ..one import w\n",
        "model_zoo/one/w.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = imports(modules(tmp_path))
    assert strays(graph) == [("liederiv.kernel", "liederiv.analysis.plots")]
    mutual = [
        "liederiv.analysis.plots",
        "liederiv.kernel",
        *(f"liederiv.{n}" for n in ("one", "three", "two")),
    ]
    assert cycles(graph) == mutual
    assert "liederiv.model_zoo.names" in graph["liederiv.analysis.plots"]
    assert cycles(rooms(graph, "liederiv.model_zoo", ["one", "two"])) == ["one", "two"]


def hidden(root=ROOT, packages=PACKAGES):
    """Modules that nobody sees: their package has a function or class of the same name."""
    known, found = modules(root, packages), []
    for name, path in known.items():
        if path.name == "__init__.py":
            inner = {m.rpartition(".")[2] for m in known if m.rpartition(".")[0] == name}
            found += [f"{name}.{n}" for n in sorted(taken(path, known) & inner)]
    return found


def taken(path, known):
    """Names that a package imports from modules, those of its ``exports`` included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*":  # of a module beside it, or by its full name
                    beside = path.with_name(f"{node.module}.py")
                    names |= taken(beside if node.level else known[node.module], known)
                else:
                    names.add(alias.asname or alias.name)
    return names


def test_no_module_hides_behind_what_its_package_exports(tmp_path):
    (tmp_path / "liederiv").mkdir()
    (tmp_path / "liederiv/__init__.py").write_text("from liederiv.gate import gate, limit\n")
    (tmp_path / "liederiv/gate.py").write_text("")
    assert hidden(tmp_path, {"liederiv": "liederiv"}) == ["liederiv.gate"]
    assert hidden() == []


def absolute_imports(source, wing):
    """Lines of a wing's module that import from the wing by its installed name."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and not node.level
        and f"{node.module}.".startswith(f"{wing}.")
    ]


@pytest.mark.parametrize("wing", ["liederiv.analysis", "liederiv.model_zoo"])
def test_a_wing_imports_itself_relatively(wing):
    assert absolute_imports(f"from {wing} import a\nfrom .b import c", wing) == [1]
    found = {n: absolute_imports(p.read_text("utf-8"), wing) for n, p in modules().items()}
    assert not [n for n, lines in found.items() if n.startswith(f"{wing}.") and lines]


def lie_formulas(source):
    """Differences whose right side is what a group does to something: … − ρ.act(…)."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Sub)
        and any(
            isinstance(part, ast.Call)
            and isinstance(part.func, ast.Attribute)
            and part.func.attr == "act"
            for part in ast.walk(node.right)
        )
    ]


def test_what_is_left_of_a_pushforward_is_written_once():
    assert lie_formulas("y = jv - layout.act(action, y)[0]") == [1]
    found = {name for name, path in modules().items() if lie_formulas(path.read_text("utf-8"))}
    assert found == set()  # `lie_value` gives both sides to `beyond`


def names_in(source):
    """String constants that are the name of a metric."""
    from liederiv.metrics.registry import METRICS

    return {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in METRICS
    } - {"lee", "reference"}  # the default of many commands; a word


def test_the_name_of_a_metric_stands_once():
    """Beside its class, only what makes numbers of one metric may know a name."""
    assert names_in("f(x, 'eq_t')") == {"eq_t"}
    known = {name: names_in(path.read_text("utf-8")) for name, path in modules().items()}
    found = {name: names for name, names in known.items() if names}
    metrics = {n for n in found if n.startswith("liederiv.metrics.")}
    assert set(found) - metrics <= {
        "liederiv.names",  # families
        "liederiv.grids.domain",  # names of independent random numbers
        "liederiv.points.domain",
        *(f"liederiv.analysis.{n}" for n in ("aliasing.trials", "plots.trajectory", "report.data")),
        "liederiv.cli.tracking",  # studies and pages of certain metrics
    }
    assert not {"liederiv.metrics.registry", "liederiv.metrics.base"} & metrics
