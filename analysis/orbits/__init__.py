"""What a model answers along whole orbits: see `orbit`.

* ``units``: px, degrees, per cent; ``response``: ρ_t⁻¹ f(T_t x) and its derivative;
* ``curves``: change, decisions, loss, LEE(t), path length; ``periods`` (and ``periodogram``): where
  the answer to a shift repeats; ``worst``: the worst transform of a box;
* ``results`` holds what was found, ``measuring`` puts it together.
"""

from .measuring import KINDS, orbit
from .results import Estimate, OrbitCurve, Orbits, Period, Worst
from .units import Readable, ranges_of, readable

__all__ = [
    "KINDS",
    "Estimate",
    "OrbitCurve",
    "Orbits",
    "Period",
    "Readable",
    "Worst",
    "orbit",
    "ranges_of",
    "readable",
]
