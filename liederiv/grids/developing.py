"""Functions that take images take photographs, too, and a camera in place of a scheme's name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from liederiv.grids.camera import Camera
from liederiv.grids.photographs import Photographs

__all__ = ["developed", "takes_photographs"]

P = ParamSpec("P")
T = TypeVar("T")


def developed(batches: Any, scheme: Any) -> tuple[Any, Any]:
    """Images in place of photographs, and the scheme that moves them.

    Args:
        batches: anything; what is not `Photographs` is left as it is.
        scheme: a name or a scheme. ``auto`` is the camera for photographs that are all large
            enough, ``bspline`` otherwise.

    Raises:
        ImageError: for the camera with photographs that are too small.
    """
    if not isinstance(batches, Photographs):
        return batches, "bspline" if scheme == "auto" else scheme
    if scheme == "auto":
        scheme = "bspline" if batches.too_small else "camera"
    images: Any = batches.images
    if batches.labels is not None:
        images = (images, torch.tensor(batches.labels))
    return images, Camera(batches) if scheme == "camera" else scheme


def takes_photographs(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of ``batches`` and ``scheme`` take `Photographs`, and ``scheme="camera"``."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> T:
        bound = signature.bind_partial(*args, **given)
        if "batches" not in bound.arguments:
            return function(*args, **given)  # which says what is missing
        given_batches = bound.arguments["batches"]
        default = signature.parameters["scheme"].default
        batches, scheme = developed(given_batches, bound.arguments.get("scheme", default))
        if isinstance(given_batches, Photographs) and "image_names" in signature.parameters:
            bound.arguments.setdefault("image_names", given_batches.names)
        bound.arguments.update(batches=batches, scheme=scheme)
        return function(*bound.args, **bound.kwargs)

    return call
