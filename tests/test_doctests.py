"""Every example in a docstring runs."""

import configparser
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

CONFIG = configparser.ConfigParser()
CONFIG.read(Path(__file__).parents[1] / "setup.cfg")
PACKAGES = CONFIG["options"]["packages"].split()


def modules() -> list[str]:
    found = set(PACKAGES)
    for name in PACKAGES:
        package = importlib.import_module(name)
        found |= {m.name for m in pkgutil.iter_modules(package.__path__, f"{name}.")}
    return sorted(found)


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_examples_are_found():
    count = 0
    for name in modules():
        count += doctest.testmod(importlib.import_module(name)).attempted
    assert count >= 5
