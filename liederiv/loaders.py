"""What data loaders of the field deliver, as images (or clouds) and class labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from liederiv.errors import ImageError
from liederiv.foreign import described, one_line

__all__ = ["batch_of"]

_INPUTS = ("pixel_values", "image", "images", "img", "x", "input", "inputs")
_LABELS = ("labels", "label", "target", "targets", "y")


def batch_of(item: Any) -> tuple[Any, Tensor | None]:
    """Images and class labels of one batch; labels of another kind count as none.

    Args:
        item: images [B, C, H, W] (or clouds); a tuple or list ``(images, labels, …)``; a dictionary
            as of transformers, ``{"pixel_values": images, "labels": …}``. Images may be a list of
            tensors [C, H, W] of one size.

    Returns:
        the images as they are, and integer labels [B] or None: boxes, masks and regression targets
        are no classes.

    Raises:
        ImageError: for a dictionary without images, or a list of images that have several sizes or
            are no tensors.
    """
    if isinstance(item, Mapping):
        x, labels = _of_mapping(item)
    elif isinstance(item, tuple | list) and item and not _is_list_of_images(item):
        x, labels = item[0], item[1] if len(item) > 1 else None
    else:
        x, labels = item, None
    if isinstance(x, tuple | list):
        x = _stacked(x)
    return x, _classes(labels, x)


def _of_mapping(item: Mapping[Any, Any]) -> tuple[Any, Any]:
    name = next((k for k in _INPUTS if k in item), None)
    if name is None:
        keys = ", ".join(one_line(k) for k in list(item)[:8]) or "none"
        raise ImageError(
            f"batches: a dictionary with the keys {keys} has none of {', '.join(_INPUTS)}; pass "
            "the tensor of images."
        )
    return item[name], next((item[k] for k in _LABELS if k in item), None)


def _is_list_of_images(item: Sequence[Any]) -> bool:
    """Whether a list is one of images [C, H, W] rather than a batch and its labels."""
    return all(isinstance(v, Tensor) and v.ndim == 3 for v in item)


def _stacked(images: Sequence[Any]) -> Tensor:
    if not images or not all(isinstance(v, Tensor) for v in images):
        kind = described(images[0]) if images else "nothing"
        raise ImageError(
            f"batches: a list of images holds {kind}; convert each to a tensor [C, H, W] "
            "normalised as the model expects it."
        )
    sizes = {tuple(v.shape) for v in images}
    if len(sizes) > 1:
        a, b = sorted(sizes)[:2]
        raise ImageError(
            f"batches: images of several sizes ({list(a)} and {list(b)}) in one batch; resize them "
            "to one size."
        )
    return torch.stack(list(images))


def _classes(labels: Any, x: Any) -> Tensor | None:
    """Integer labels [B], or None for what is no class per image."""
    if isinstance(labels, list | tuple):
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in labels):
            return None
        labels = torch.tensor(labels)
    plain = isinstance(labels, Tensor) and labels.ndim == 1 and len(labels) == len(x)
    if not plain or labels.is_floating_point() or labels.dtype == torch.bool:
        return None
    return labels
