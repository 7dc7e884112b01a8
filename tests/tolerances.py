"""How near two numbers are that should be equal: one table by dtype, for tests of every kind.

What is not mere rounding (a difference quotient, a random estimate, another program's table) states
its own tolerance beside its reason.
"""

from typing import Any, NamedTuple

import pytest
import torch

__all__ = ["COMPUTED", "EXACT", "ROUNDING", "Tolerance", "assert_close", "close"]


class Tolerance(NamedTuple):
    """|got − want| ≤ absolute + relative · |want|, entry by entry."""

    relative: float
    absolute: float


ROUNDING = {torch.float64: Tolerance(1e-13, 1e-13), torch.float32: Tolerance(1e-6, 1e-6)}
"""The same formula in another order: some hundred roundings of numbers of order 1."""

COMPUTED = {torch.float64: Tolerance(1e-10, 1e-12), torch.float32: Tolerance(1e-4, 1e-6)}
"""The same quantity by another way: through a network, an interpolation, a matrix function."""


EXACT = {torch.float64: Tolerance(0.0, 0.0), torch.float32: Tolerance(0.0, 0.0)}
"""To the bit."""


def assert_close(got: Any, want: Any, within: dict[torch.dtype, Tolerance] = ROUNDING) -> None:
    """Tensors, or what becomes one, of one shape and dtype are close; NaN is close to nothing."""
    got, want = torch.as_tensor(got), torch.as_tensor(want)
    relative, absolute = within[want.dtype]
    torch.testing.assert_close(got, want, rtol=relative, atol=absolute)


def close(want: Any, within: dict[torch.dtype, Tolerance] = ROUNDING) -> Any:
    """To compare a Python number (or a list of them) with: ``assert value == close(want)``.

    Relative alone: a score of 1e-9 is not close to one of 2e-9.
    """
    return pytest.approx(want, rel=within[torch.float64].relative, abs=0)
