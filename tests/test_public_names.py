"""The rule of CONTRIBUTING on what is private, held: in the code, the guides, the notebooks."""

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from sources import ROOT, modules

MODULES = modules()
FENCE = re.compile(r"^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
GUIDES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")]


def exported(tree: ast.Module, package: str) -> set[str] | None:
    """What ``__all__`` lists, here or where all names are taken from; None if there is none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            return exports(f"{package}.{node.module}" if node.level else node.module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


@cache
def exports(module: str) -> set[str] | None:
    return exported(ast.parse(MODULES[module].read_text()), module)


def own_imports(tree: ast.Module, module: str = "", is_package: bool = False) -> Iterator:
    """(module, name) of every name of ours that the tree imports, relative imports resolved."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = module.split(".")[: len(module.split(".")) - node.level + is_package]
        source = ".".join([*parts, node.module or ""]).strip(".") if node.level else node.module
        if source.split(".")[0] == "liederiv":
            yield from ((source, alias.name) for alias in node.names)


def private(source: str, name: str) -> bool:
    """Whether the rule keeps the name within its own module."""
    if name in ("*", "__all__"):
        return False
    if f"{source}.{name}" in MODULES:
        return name.startswith("_") and name != "_version"
    listed = exports(source)
    return name.startswith("_") if listed is None else name not in listed


def test_no_private_name_leaves_its_module():
    taken = []
    for module, path in MODULES.items():
        imports = own_imports(ast.parse(path.read_text()), module, path.stem == "__init__")
        taken += [
            f"{module} takes {source}.{name}" for source, name in imports if private(source, name)
        ]
    assert taken == []


def code_of(path: Path) -> list[str]:
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return [textwrap.dedent(code) for code in FENCE.findall(path.read_text())]


def test_guides_use_no_private_name():
    taken = []
    for path in GUIDES:
        pairs = [pair for code in code_of(path) for pair in own_imports(ast.parse(code))]
        taken += [f"{path.name} takes {s}.{n}" for s, n in pairs if private(s, n)]
    assert taken == []


def test_private_names_are_seen():
    tree = ast.parse(
        "from liederiv.measurement.bootstrap import _nothing\nfrom .generators import _linear"
    )
    found = list(own_imports(tree, "liederiv.actions"))
    assert found == [
        ("liederiv.measurement.bootstrap", "_nothing"),
        ("liederiv.generators", "_linear"),
    ]
    assert all(private(*pair) for pair in found)
    assert not private("liederiv.generators", "siblings")
