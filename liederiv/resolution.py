"""How the group acts on what a model returns: declared, or recognised and seen, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from liederiv.actions import Action
from liederiv.domains import domain_of
from liederiv.errors import UnknownLayoutError
from liederiv.grids.placement import misplacement
from liederiv.representations import FeatureMap, OutputSpec, Resolved, declared

__all__ = ["resolve_output"]

_SEEN: WeakKeyDictionary[nn.Module, dict[Any, str]] = WeakKeyDictionary()


def resolve_output(
    f: Callable[[Any], Any],
    x: Any,
    output: OutputSpec,
    y: Tensor,
    action: Action,
) -> Resolved:
    """Decide how the group acts on the output of f at x.

    A map that only its shape speaks for is looked at (see `liederiv.grids.placement`): six forward
    passes of one image, once for each module, size and dtype.

    Args:
        f: the model, with one tensor as output; what it declares counts where output is ``"auto"``.
        x: the input.
        output: see `liederiv.representations.OutputSpec`; for one tensor.
        y: f(x), or f at one item of x.
        action: any action on x.

    Raises:
        UnknownLayoutError: if it is not known.
    """
    if isinstance(output, Resolved):
        return output
    found = domain_of(x).resolve(declared(f, output), y, action)
    rho = found.representation
    if found.status != "recognised" or not isinstance(rho, FeatureMap) or rho.places(y) == (1, 1):
        return found
    seen = _SEEN.setdefault(f, {}) if isinstance(f, nn.Module) else {}
    key = (rho, tuple(y.shape[1:]), tuple(x.shape[1:]), x.dtype)
    if key not in seen:
        seen[key] = misplacement(f, x, rho.to_maps)
    if seen[key]:
        raise UnknownLayoutError(
            f"the output of shape {list(y.shape)} has the size of a map of the image, but "
            f"{seen[key]}; declare what it is: output='invariant', output={rho.layout!r} for a map "
            "that does cover the image, FeatureMap(extent=…, offset=…) for one of a part of it, …"
        )
    return found
