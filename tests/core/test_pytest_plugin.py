"""The fixture that the pytest plugin offers."""

import configparser
import importlib
import subprocess
import sys
from pathlib import Path

import pytest_liederiv

ROOT = Path(pytest_liederiv.__file__).parent


def test_the_fixture_passes_and_fails(pytester):
    pytester.makepyfile(
        """
        import torch

        def test_good(assert_equivariant):
            assert_equivariant(lambda x: x.mean((2, 3)), torch.rand(1, 1, 4, 4), "translation")

        def test_bad(assert_equivariant):
            x = torch.arange(16.0).reshape(1, 1, 4, 4)
            assert_equivariant(lambda x: x.flip(-1), x, "translation", output="NCHW")
        """
    )
    result = pytester.runpytest_inprocess("-p", "pytest_liederiv", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: not equivariant under translation_x (rtol *"])


def test_it_is_listed_with_its_purpose(pytester):
    result = pytester.runpytest_inprocess("-p", "pytest_liederiv", "--fixtures")
    result.stdout.fnmatch_lines(["assert_equivariant*", "*liederiv.testing.assert_equivariant*"])


def test_the_entry_point_leads_to_it():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    name, module = config["options.entry_points"]["pytest11"].strip().split(" = ")
    assert importlib.import_module(module) is pytest_liederiv
    assert name == "pytest_liederiv"
    assert config["options"]["py_modules"].split() == [module]


def test_the_plugin_is_light():
    code = "import pytest_liederiv, sys; assert not {'torch', 'liederiv'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
