"""liederiv: how equivariant is this network really, and which layer breaks it?

The package measures Lie derivatives of PyTorch models under continuous symmetries of their input.
`lie_derivative` is the kernel, `measure` turns it into scores with confidence intervals,
`liederiv.model_zoo` loads what is to be measured and `liederiv.analysis` says what it means.
"""

from typing import TYPE_CHECKING

from liederiv._version import __version__ as __version__
from liederiv.late import import_late

if TYPE_CHECKING:
    from liederiv.exports import *
    from liederiv.exports import __all__ as __all__
else:
    import_late(__name__, "liederiv.exports")
