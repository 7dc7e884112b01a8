"""The networks, by what is awkward about them."""

from __future__ import annotations

from ..awkward import Awkward
from . import (
    ambient,
    batches,
    clouds,
    degenerate,
    dropped,
    forces,
    functions,
    hidden,
    inplace,
    inputs,
    norms,
    operators,
    outputs,
    precision,
    state,
    wrappers,
)

MODULES = (
    inplace,
    dropped,
    hidden,
    functions,
    forces,
    norms,
    operators,
    batches,
    state,
    wrappers,
    precision,
    ambient,
    outputs,
    clouds,
    degenerate,
    inputs,
)


def _networks() -> dict[str, type[Awkward]]:
    """All of them by name, in order."""
    found: dict[str, type[Awkward]] = {}
    for module in MODULES:
        kind = module.__name__.rsplit(".", 1)[1]
        for cls in vars(module).values():
            own = isinstance(cls, type) and cls.__module__ == module.__name__
            if own and issubclass(cls, Awkward) and not cls.__name__.startswith("_"):
                assert cls.__name__ not in found, cls.__name__
                cls.kind = kind
                found[cls.__name__] = cls
    return found


NETWORKS = _networks()
