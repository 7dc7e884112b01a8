"""The pytest plugin of liederiv: a fixture `assert_equivariant`.

pytest imports this module in every session, so it lies outside the package `liederiv`, and nothing
heavy is imported until a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

__all__ = ["assert_equivariant"]


@pytest.fixture(scope="session")
def assert_equivariant() -> Callable[..., None]:
    """`liederiv.testing.assert_equivariant`, loaded when a test first asks for it."""
    from liederiv.testing.assertions import assert_equivariant as function

    return function
