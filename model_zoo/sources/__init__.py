"""Where models come from: a name, read once, becomes a `Source` that knows all that follows.

`register_source` adds one: models of another library, of a database, of anything with names.
"""

from typing import TYPE_CHECKING

from liederiv.late import import_late

if TYPE_CHECKING:
    from liederiv.model_zoo.sources.exports import *
    from liederiv.model_zoo.sources.exports import __all__ as __all__
else:
    import_late(__name__, "liederiv.model_zoo.sources.exports")
