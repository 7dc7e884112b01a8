"""What models are fed: images and point clouds, as they expect them, and kinds that are added.

`register_inputs` adds one: where its inputs come from, what they are called, how they are batched.
"""

from typing import TYPE_CHECKING

from liederiv.late import import_late

if TYPE_CHECKING:
    from liederiv.model_zoo.inputs.exports import *
    from liederiv.model_zoo.inputs.exports import __all__ as __all__
else:
    import_late(__name__, "liederiv.model_zoo.inputs.exports")
