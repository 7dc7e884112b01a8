"""Models of images: what may be asked of their preprocessing, once for all their sources."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liederiv.errors import ModelError
from liederiv.foreign import described

from ..inputs.data_config import DataConfig
from ..inputs.kinds import inputs_of_kind
from ..weights.checkpoints import Checkpoint, read_checkpoint
from .construction import seed_generators
from .loaded import Loaded, LoadedModel
from .source import Source

__all__ = ["Built", "ImageSource", "Wanted", "checked_classes"]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a model of images.

    Attributes:
        checkpoint: Whose weights count, or None.
        pretrained: Take the published weights where there is no checkpoint.
        num_classes: Explicit size of the classifier, or None.
        img_size: Input size in pixels, or None.
        model_kwargs: Arguments of the constructor.
        seed: Of what is random; the generators are seeded with it when a model is built.
    """

    checkpoint: Checkpoint | None
    pretrained: bool
    num_classes: int | None
    img_size: int | Sequence[int] | None
    model_kwargs: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Built:
    """A model, and in words where its weights come from.

    Attributes:
        model: The model.
        weights: Where they come from.
        data_config: How images are prepared for it, where nothing else is asked for; None for a
            model that takes something else.
        kind: Of its inputs, see `liederiv.model_zoo.inputs.register_inputs`.
    """

    model: nn.Module
    weights: str
    data_config: DataConfig | None
    kind: str = "images"


class ImageSource(Source):
    """Models of images of one origin; `build` makes one."""

    @abstractmethod
    def build(self, wanted: Wanted) -> Built:
        """Build the model and give it its weights.

        Raises:
            ModelError: If arguments, weights and architecture do not go together.
        """

    def load(
        self,
        checkpoint: str | Path | None = None,
        pretrained: bool = True,
        *,
        num_classes: int | None = None,
        img_size: int | Sequence[int] | None = None,
        crop_pct: float | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        interpolation: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Loaded:
        """Load the model and prepare it for measuring.

        Args:
            checkpoint: File with the weights, which then count instead of the pretrained ones.
                Nothing in it is executed.
            pretrained: Take the published weights; False gives random ones. Ignored with
                `checkpoint` and for the user's own factory.
            num_classes: Size of the classifier; 0 removes it. By default what the weights have.
            img_size: Height and width of the input in pixels, or one number for both.
            crop_pct: Fraction of the resized image that the crop keeps.
            mean: Mean per channel that is subtracted, in units of the range [0, 1].
            std: Standard deviation per channel that is divided by.
            interpolation: Resampling filter: "bilinear", "bicubic", …
            model_kwargs: Further arguments of the model's constructor, such as
                `features_only=True`.
            seed: Seed of whatever is random in the model; the global random state is unchanged.

        Returns:
            The model in evaluation mode, with its data config and provenance.

        Raises:
            ModelError: If the name, the tag, an argument, the checkpoint or the download fails.
        """
        kwargs, classes = dict(model_kwargs or {}), checked_classes(num_classes)
        file = None if checkpoint is None else read_checkpoint(checkpoint)
        wanted = Wanted(file, pretrained, classes, img_size, kwargs, seed)
        with _seeded(seed):
            built = self.build(wanted)
        given: dict[str, Any] = {"img_size": img_size, "crop_pct": crop_pct, "mean": mean}
        given |= {"std": std, "interpolation": interpolation}
        model = built.model.eval().requires_grad_(False)
        if built.data_config is None:
            return self._of_other_inputs(replace(built, model=model), given)
        config = built.data_config.override(**given, in_chans=kwargs.get("in_chans"))
        if img_size is not None:
            _check_img_size(model, self.name, config)
        classes = getattr(model, "num_classes", None)
        return LoadedModel(model, self.full_name, self.name, built.weights, config, classes)

    def _of_other_inputs(self, built: Built, given: Mapping[str, Any]) -> Loaded:
        """A model that has turned out to take something else than images."""
        title = inputs_of_kind(built.kind).title
        for option in (name for name, value in given.items() if value is not None):
            raise ModelError(
                f"`{option}` is for models on images, but {self.name!r} takes {title}; leave it "
                "out."
            )
        return Loaded(built.model, self.full_name, self.name, built.weights, kind=built.kind)


def checked_classes(num_classes: Any) -> int | None:
    """A number of classes, or None, as it is given.

    Raises:
        ModelError: If it is anything else.
    """
    if num_classes is not None and (
        not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0
    ):
        raise ModelError(
            f"`num_classes`={described(num_classes)} must be 0 (no classifier) or a number of "
            "classes."
        )
    return num_classes


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of a seed inside; the global random state is unchanged."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        seed_generators(seed)
        yield


def _check_img_size(model: nn.Module, name: str, config: DataConfig) -> None:
    """Run a zero image through a model whose input size was changed."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, *config.input_size))
    except Exception as error:  # a user's model may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"`img_size` {config.input_size[1:]} is not supported by {name!r}: {reason}; leave it "
            "out or choose a size that the architecture takes."
        ) from error
