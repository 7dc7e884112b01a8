"""Fixtures of the model zoo's tests."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """For all tests of this folder."""
