"""All sources of models: who reads a name, and `load`, one door to every model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import described

from ..weights.origin import WeightsSource
from .checkpoint_names import CheckpointFile
from .factories import Factory
from .rapidash_models import RapidashModel
from .source import ModelEntry, Source
from .timm_models import HubModel, LocalFolder, TimmModel

__all__ = [
    "SOURCES",
    "list_models",
    "load",
    "modules_of_source",
    "register_source",
    "source_of",
    "weights_source",
]

SOURCES: list[type[Source]] = [
    HubModel,
    LocalFolder,
    Factory,
    CheckpointFile,
    RapidashModel,
    TimmModel,
]
"""In the order in which they are asked whether a name is theirs; the last knows what is left."""


def register_source(kind: type[Source]) -> type[Source]:
    """Let models of another origin be named wherever models are; may decorate the class.

    It is asked before those that are there. A scan's worker processes import the module that holds
    the class, so that it must not be a script.

    Raises:
        LieDerivError: if a prefix is taken or cannot be one.
    """
    taken = {prefix for known in SOURCES for prefix in known.prefixes}
    for prefix in kind.prefixes:
        if prefix in taken or re.fullmatch(r"[A-Za-z][\w-]+", prefix) is None:
            what = "is taken" if prefix in taken else "is no word of letters, digits, - and _"
            raise LieDerivError(f"prefix {prefix!r} of {kind.__name__} {what}; choose another.")
    SOURCES.insert(0, kind)
    return kind


def source_of(name: str) -> Source:
    """Read a model's name.

    Raises:
        ModelError: if it is no text.
    """
    if not isinstance(name, str):
        raise ModelError(
            f"`name`={described(name)} must name a model, e.g. 'tf_efficientnet_lite0'."
        )
    return next(kind for kind in SOURCES if kind.accepts(name))(name)


def modules_of_source(name: str) -> tuple[str, ...]:
    """The module whose import registers a model's source, for other processes; none for ours.

    Raises:
        LieDerivError: if it is registered by a script, which other processes do not run.
    """
    kind = type(source_of(name))
    if kind.__module__ == "__main__":
        raise LieDerivError(
            f"the source {kind.__name__} is registered in a script, which a scan's processes do "
            "not run; move the class to a module that can be imported."
        )
    return () if kind.__module__.startswith("liederiv.") else (kind.__module__,)


def load(
    name: str, checkpoint: str | Path | None = None, pretrained: bool = True, **options: Any
) -> Any:
    """Load a model by name and prepare it for measuring.

    Args:
        name: a timm name with or without tag ("vit_small_patch16_224.augreg_in1k"), a deprecated
            one, "hf-hub:org/name", "local-dir:/path", a checkpoint file that names its
            architecture, the user's own "package.module:factory", or a network on point clouds
            ("rapidash_sen_r3s2").
        checkpoint: file with the weights, which then count instead of the pretrained ones.
            Nothing in it is executed.
        pretrained: take the published weights; False gives random ones. Ignored with `checkpoint`
            and for the user's own factory.
        options: what else its source takes: of models of images num_classes, img_size, crop_pct,
            mean, std, interpolation, model_kwargs and seed (see `ImageSource.load`), of networks
            on point clouds seed and regular_grid (see `RapidashModel.load`).

    Returns:
        A `LoadedModel`, or a `LoadedPointModel` for a network on point clouds.

    Raises:
        ModelError: if the name, an argument, the checkpoint or the download fails.

    Example:
        >>> load("rapidash_tn_r3", pretrained=False).variant.symmetry.name
        'T(3)'
    """
    source = source_of(name)
    given = {k: v for k, v in options.items() if v is not None and v != {}}
    for option in sorted(set(given) - set(source.options())):
        others = [kind.inputs for kind in reversed(SOURCES) if option in kind.options()]
        if others:
            raise ModelError(f"`{option}` is for models on {others[0]}; leave it out for {name!r}.")
        raise ModelError(
            f"`{option}` is no option of {name!r}; it takes {', '.join(source.options())}."
        )
    return source.load(checkpoint, pretrained, **given)


def list_models(pattern: str = "*", pretrained: bool = False) -> list[ModelEntry]:
    """List the models that `load` knows by name: timm's, then networks on point clouds and others.

    Args:
        pattern: shell wildcard that the name, with or without a tag, must match.
        pretrained: keep only those with pretrained weights.
    """
    kinds: list[type[Source]] = [TimmModel, *(kind for kind in SOURCES if kind is not TimmModel)]
    return [entry for kind in kinds for entry in kind.entries(pattern, pretrained)]


def weights_source(name: str) -> WeightsSource | None:
    """Where a model's weights are downloaded from, see `Source.download`."""
    return source_of(name).download()
