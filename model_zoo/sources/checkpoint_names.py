"""A checkpoint file as a model's name, where the file says which architecture it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from liederiv.errors import ModelError
from liederiv.foreign import at_home, described

from ..weights.checkpoints import read_checkpoint
from ..weights.files import shown
from .contents import hash_of
from .image_source import Built, ImageSource, Wanted
from .timm_models import TimmModel

__all__ = ["CheckpointFile"]

ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pth.tar")


class CheckpointFile(ImageSource):
    """A file as timm's training script writes it, with the name of its architecture inside.

    ``FILE#KEY`` takes a part of it, as `read_checkpoint` does.
    """

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Any path that ends as checkpoints do."""
        return name.endswith(ENDINGS) or name.rpartition("#")[0].endswith(ENDINGS)

    def build(self, wanted: Wanted) -> Built:
        """See `ImageSource.build`."""
        if wanted.checkpoint is not None:
            raise ModelError(
                f"{self.name!r} and `checkpoint` {shown(wanted.checkpoint.path)} are both files "
                "with weights; give the architecture's name with one of them."
            )
        file = read_checkpoint(self.name)
        if file.arch is None:
            raise ModelError(
                f"{self.name!r} is a checkpoint that does not say of which architecture; give its "
                "name as the model, and the file with `checkpoint` (--checkpoint)."
            )
        if not wanted.pretrained:
            raise ModelError(
                f"{self.name!r} is a file with weights; without them (--no-pretrained), name the "
                f"architecture {described(file.arch)}."
            )
        return TimmModel(file.arch).build(replace(wanted, checkpoint=file))

    def identity(self, pretrained: bool) -> dict[str, Any]:
        """See `Source.identity`: the content of the file."""
        path = at_home(self.name)
        if not path.is_file():
            path = Path(at_home(self.name.rpartition("#")[0]))
        return {"checkpoint": hash_of(path) if path.is_file() else ""}
