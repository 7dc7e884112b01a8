"""Derivatives of whole networks along many tangents: engines, their guards, and their witness.

`pushforward` runs the first engine that works; `verified_pushforward`, which every measurement
uses, the first that the witness passes on the very model at hand.

* ``engines``: the ways to compute J v; ``tangent_rules`` and ``gradient_rules`` make them lean and
  sound; ``differences`` is the one that needs no recorded derivative.
* ``cuts``: where a model itself decides about its derivative.
* ``guards``: what is switched off meanwhile; ``models``: the modules behind a function.
* ``witness`` judges a result, ``verification`` is what it says and what is remembered of it.
"""

from liederiv.differentiation.cuts import Cuts
from liederiv.differentiation.differentiate import (
    ForwardModeWarning,
    Pushforward,
    check_batch,
    forward_engine,
    inner_pushforward,
    pushforward,
    verified_pushforward,
    verify_product,
)
from liederiv.differentiation.engines import ENGINES, double_backward_jvp
from liederiv.differentiation.guards import forward_mode, sound_numerics
from liederiv.differentiation.verification import Verification, forget

__all__ = [
    "ENGINES",
    "Cuts",
    "ForwardModeWarning",
    "Pushforward",
    "Verification",
    "check_batch",
    "double_backward_jvp",
    "forget",
    "forward_engine",
    "forward_mode",
    "inner_pushforward",
    "pushforward",
    "sound_numerics",
    "verified_pushforward",
    "verify_product",
]
