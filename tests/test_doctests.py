"""Every example in a docstring runs and says what comes out; only modules with examples count."""

import doctest
import importlib
import re

import pytest
from sources import modules

EXAMPLE = re.compile(r"^\s*>>> ", re.MULTILINE)
COUNTS = {name: len(EXAMPLE.findall(path.read_text())) for name, path in modules().items()}
WITH_EXAMPLES = [name for name, count in COUNTS.items() if count]


def examples(name: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    found = examples(name)
    assert sum(len(test.examples) for test in found) == COUNTS[name], "an example is out of reach"
    for test in found:
        assert any(example.want for example in test.examples), f"{test.name} asserts nothing"
        assert doctest.DocTestRunner().run(test).failed == 0


def test_examples_are_found():
    assert len(WITH_EXAMPLES) >= 40


def test_an_example_that_fails_is_seen():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1
