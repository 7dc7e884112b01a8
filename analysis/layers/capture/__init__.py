"""Reading a network from inside: its calls, its tensors' layouts, tangents and gradient edges.

The same image runs three times through a copy of the model that shares its weights:

1. `scout` lists the calls of all modules, which tensors depend on the image and their layouts;
2. `TangentReader` returns the tensors at the chosen places as further outputs, so that any engine
   of `liederiv.differentiation` gives their tangents;
3. `record_edges` builds the backward graph. Every tensor that enters a measured module is cloned,
   so that the gradient at the clone is the gradient *through that module alone*, without parallel
   branches; `separable` says for which modules that is possible.

Besides, `replays` keeps what enters single modules, so that they can be run again alone.

All hooks live in context managers on the copy.
"""

from .calls import Call, Plan
from .edges import Edge, Recording, record_edges
from .hooks import as_leaf, check_same, measured_copy, module_hooks, same
from .leaks import separable
from .replay import Replay, replays
from .scouting import scout
from .tangents import TangentReader

__all__ = [
    "Call",
    "Edge",
    "Plan",
    "Recording",
    "Replay",
    "TangentReader",
    "as_leaf",
    "check_same",
    "measured_copy",
    "module_hooks",
    "record_edges",
    "replays",
    "same",
    "scout",
    "separable",
]
