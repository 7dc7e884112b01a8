"""Equivariance as a test: `assert_equivariant` in a suite, limits in a build."""

from liederiv.testing.assertions import (
    RTOL,
    GeneratorError,
    assert_equivariant,
    equivariance_errors,
)

__all__ = ["RTOL", "GeneratorError", "assert_equivariant", "equivariance_errors"]
