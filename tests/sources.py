"""The source files of the distribution, by module name, as setup.cfg says."""

import configparser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def packages() -> dict[str, Path]:
    """Every package of the distribution and its folder, the innermost name first."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    roots = dict(
        tuple(part.strip() for part in line.split("="))
        for line in config["options"]["package_dir"].strip().splitlines()
    )
    found = {}
    for name in config["options"]["packages"].split():
        parent = max((r for r in roots if name == r or name.startswith(f"{r}.")), key=len)
        rest = name[len(parent) :].lstrip(".").split(".")
        found[name] = ROOT.joinpath(roots[parent], *filter(None, rest))
    return found


def modules() -> dict[str, Path]:
    """Every module of the distribution, packages by their ``__init__``, and its file."""
    found = {}
    for name, folder in packages().items():
        for path in sorted(folder.glob("*.py")):
            found[name if path.stem == "__init__" else f"{name}.{path.stem}"] = path
    return found
