"""What to measure: models with their weights and data config, and the images to feed them.

`load` takes a timm name, a hub id, a local folder or the user's own factory, and a checkpoint;
`load_images` takes the built-in photographs, a folder or a timm data set. Neither executes
anything that a file contains, and both work offline with the `samples` extra.
"""

from typing import TYPE_CHECKING

from liederiv.late import import_late, names_moved

if TYPE_CHECKING:
    from .exports import *
    from .exports import __all__ as __all__
else:
    import_late(__name__, f"{__name__}.exports")
    names_moved(f"{__name__}.store", {"Store": f"{__name__}.scan.store.Store"})
    names_moved(f"{__name__}.clouds", {"load_clouds": f"{__name__}.load_clouds"})
    names_moved(f"{__name__}.point_models", {"load_point_model": f"{__name__}.load"})
