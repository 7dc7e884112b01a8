"""Laws that finite transforms of every kind of input obey: images, clouds, whatever is registered.

Inputs are pytrees of float64 tensors. Each law takes what `liederiv.transforms.transform` takes,
and the tangents of the domain that the input belongs to.
"""

from typing import Any

import torch
from tolerances import COMPUTED, Tolerance, assert_close
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.domains import domain_of
from liederiv.transforms import transform

__all__ = ["assert_alike", "assert_generates", "assert_group", "assert_identity", "distance"]

_SLOPES = (1e-3, 1e-5)  # steps of difference quotients
_ROUNDING = 1e-9  # of a quotient over the smaller step: 1e-16 of x over 1e-5, and some margin


def assert_alike(got: Any, want: Any, within: dict[torch.dtype, Tolerance] = COMPUTED) -> None:
    """Two inputs are close, tensor by tensor."""
    for u, v in zip(tree_flatten(got)[0], tree_flatten(want)[0], strict=True):
        assert_close(u, v, within)


def distance(a: Any, b: Any) -> float:
    """‖a − b‖ / ‖b‖ over all tensors of an input."""
    pairs = list(zip(tree_flatten(a)[0], tree_flatten(b)[0], strict=True))
    above = sum(float((u - v).square().sum()) for u, v in pairs)
    return (above / sum(float(v.square().sum()) for _, v in pairs)) ** 0.5


def assert_identity(x: Any, name: str, scheme: str = "bspline") -> None:
    """T_0 x = x, to the bit."""
    still = tree_flatten(transform(x, name, 0.0, scheme))[0]
    assert all(torch.equal(u, v) for u, v in zip(still, tree_flatten(x)[0], strict=True))


def assert_group(x: Any, name: str, s: float, t: float, scheme: str = "bspline") -> None:
    """T_s T_t x = T_{s+t} x, and T_{−t} undoes T_t."""
    moved = transform(x, name, t, scheme)
    assert_alike(transform(moved, name, s, scheme), transform(x, name, s + t, scheme))
    assert_alike(transform(moved, name, -t, scheme), x)


def assert_generates(x: Any, name: str, scheme: str = "bspline", of: str = "") -> None:
    """(T_t x − x)/t tends to X x, and the difference shrinks with t.

    Args:
        x: the input.
        name: of the generator that moves it.
        scheme: of interpolation.
        of: generator whose tangent is X x; the same if empty.
    """
    tangents = domain_of(x).action(of or name, x, scheme).tangents(x)
    Xx = tree_map(lambda v: v[0], tangents)
    large, small = (
        distance(tree_map(lambda u, v, t=t: (u - v) / t, transform(x, name, t, scheme), x), Xx)
        for t in _SLOPES
    )
    assert large < 1, (name, scheme, large)
    assert small <= max(0.02 * large, _ROUNDING), (name, scheme, large, small)
