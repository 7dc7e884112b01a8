"""Measure many models unattended: isolated, resumable, on one machine or a cluster.

`select_models` says which, `make_plan` what is left to do, `Scan` does it with an engine:
`LocalEngine` (processes on this machine) or `RayEngine` (a cluster). Results lie in a
`liederiv.model_zoo.scan.store.Store`.
"""

from typing import TYPE_CHECKING

from liederiv.late import import_late

if TYPE_CHECKING:
    from .exports import *
    from .exports import __all__ as __all__
else:
    import_late(__name__, f"{__name__}.exports")
