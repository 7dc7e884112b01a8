"""The kinds of input that come with liederiv, and those that are registered."""

from __future__ import annotations

from typing import Any

from liederiv.errors import ModelError
from liederiv.foreign import described

from .base import INPUTS, Inputs
from .clouds import CloudSet
from .images import ImageSet

__all__ = ["inputs_of_kind"]

_OURS = (ImageSet, CloudSet)  # registered by being imported


def inputs_of_kind(kind: Any) -> type[Inputs]:
    """The class of a kind of input.

    Raises:
        ModelError: if there is no such kind.
    """
    if not isinstance(kind, str) or kind not in INPUTS:
        raise ModelError(
            f"`input_kind`={described(kind)} of the model is unknown; choose one of "
            f"{', '.join(INPUTS)}, or register a class for it with register_inputs."
        )
    return INPUTS[kind]
