"""What data loaders deliver, as images (or another kind of input) and class labels.

Tensors, ``(images, labels, …)``, dictionaries as of Hugging Face's data sets, lists of images as
for detection. What cannot be class labels (a regression's targets, boxes, masks, captions) is left
out and said; what cannot be images is refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liederiv.domains import domain_of, is_input, known_domains
from liederiv.errors import ImageError, LieDerivError
from liederiv.foreign import described, one_line, shortened
from liederiv.foreign_code import what_was_raised

__all__ = ["Batch", "as_one", "check_layout", "deliver", "unpack"]

IMAGE_KEYS = ("pixel_values", "images", "image", "img", "inputs", "input", "x", "data")
LABEL_KEYS = ("labels", "label", "targets", "target", "class", "y")


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        x: Images [B, C, H, W], a `PointCloud` or another input, not checked yet.
        labels: Class indices [B], int64, or None.
        note: Why there are no labels though something was given for them; else empty.
    """

    x: Any
    labels: Tensor | None = None
    note: str = ""


def deliver(batches: Any) -> Iterator[Batch]:
    """Batches of whatever a user passes as such, one at a time.

    Args:
        batches: A tensor, a `PointCloud`, a dictionary, a pair of images and labels, or an
            iterable of such.

    Raises:
        LieDerivError: If it cannot be iterated over, or fails while it delivers.
    """
    if is_input(batches) or isinstance(batches, Mapping | np.ndarray) or _is_pair(batches):
        yield unpack(batches)
        return
    several = any(hasattr(batches, name) for name in ("__iter__", "__getitem__"))
    if isinstance(batches, str | bytes) or not several:
        raise ImageError(
            f"batches={described(batches)} must be a tensor of images [N, C, H, W], a PointCloud, "
            "or an iterable of batches such as a DataLoader (for a folder, "
            "liederiv.model_zoo.load_images(folder).batches(8))."
        )
    iterator = _guarded("could not start", lambda: iter(batches))
    number = 0
    while True:
        item = _guarded(f"failed at batch {number}", lambda: next(iterator, _END))
        if item is _END:
            return
        yield unpack(item)
        number += 1


def as_one(batches: Any) -> Any:
    """All that `deliver` reads as one input, checked: for what is computed on one batch.

    Raises:
        LieDerivError: If there is nothing, or several batches that do not make one tensor.
    """
    found = [batches] if is_input(batches) else [batch.x for batch in deliver(batches)]
    if not found:
        raise ImageError("`batches` delivers nothing; pass at least one image.")
    for x in found:
        domain_of(x).check(x, "batches")
        check_layout(x)
    if len(found) == 1:
        return found[0]
    if not all(isinstance(x, Tensor) for x in found) or len({x.shape[1:] for x in found}) > 1:
        raise LieDerivError(
            f"`batches` delivers {len(found)} batches that do not make one tensor; pass one at a "
            "time."
        )
    return torch.cat(found)


_END = object()


def _guarded(what: str, call: Any) -> Any:
    """Call a loader of the user's; its errors become one sentence."""
    try:
        return call()
    except LieDerivError:
        raise
    except Exception as error:  # data sets and their transforms raise anything
        text = one_line(error)
        remedy = "see the error before this one"
        if "PIL" in text:
            remedy = "give the data set a transform that makes normalised tensors (ToTensor)"
        elif "stack" in text or "equal size" in text:
            remedy = "resize and crop all images to one size"
        raise LieDerivError(
            f"`batches` {what}: {shortened(what_was_raised(error)).rstrip('.')}; {remedy}."
        ) from error


def _is_pair(batches: Any) -> bool:
    """Whether something is one batch (images, labels, …) rather than a sequence of batches."""
    if not isinstance(batches, tuple | list) or len(batches) < 2:
        return False
    return _has_images(batches[0], deep=False) and not _has_images(batches[1])


def _has_images(item: Any, deep: bool = True) -> bool:
    """Whether something may be a batch: images, or (`deep`) a container that begins with them."""
    if isinstance(item, np.ndarray):
        return item.ndim == 4
    if any(domain.accepts(item) for domain in known_domains()):
        return True
    if isinstance(item, Mapping):
        return deep and _under(item, IMAGE_KEYS) is not None
    if isinstance(item, tuple | list):
        return deep and len(item) > 0 and (_has_images(item[0]) or _all_images(item))
    return False


def unpack(item: Any) -> Batch:
    """Read one batch.

    Args:
        item: Images, ``(images, labels, …)``, or a dictionary with images under a usual key.

    Returns:
        Images as one tensor, if they were a list of images of one size.

    Raises:
        ImageError: If no images are found, or they cannot be one tensor.
        LieDerivError: If there are labels for another number of images.
    """
    given: Any = None
    if is_input(item):
        x = item
    elif isinstance(item, Mapping):
        x = _under(item, IMAGE_KEYS)
        if x is None:
            listed = ", ".join(one_line(repr(k))[:40] for k in list(item)[:8]) or "nothing"
            raise ImageError(
                f"`batches` delivers dictionaries with {listed}; put the images under "
                "'pixel_values' or 'images'."
            )
        given = _under(item, LABEL_KEYS)
    elif isinstance(item, tuple | list) and not _all_images(item):
        if not item:
            raise ImageError("`batches` delivers an empty list; pass batches with images.")
        x, given = item[0], item[1] if len(item) > 1 else None
    else:
        x = item
    x = _as_images(x)
    if isinstance(x, Tensor) and (x.is_nested or not domain_of(x).accepts(x)):
        return Batch(x)  # what is wrong with it is said by the domain
    labels, note = _as_labels(given, len(x))
    return Batch(x, labels, note)


def _under(item: Mapping[Any, Any], keys: Sequence[str]) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _all_images(items: Sequence[Any]) -> bool:
    """Whether a list is one of single images: [C, H, W] each, with as many channels."""
    shapes = {item.shape[0] if isinstance(item, Tensor) and item.ndim == 3 else 0 for item in items}
    return len(items) > 0 and len(shapes) == 1 and shapes != {0}


def _as_images(x: Any) -> Any:
    """One tensor of a list of images; what no kind of input accepts is refused."""
    if is_input(x):
        return x
    if isinstance(x, tuple | list) and x and all(isinstance(one, Tensor) for one in x):
        shapes = {tuple(one.shape) for one in x}
        if len(shapes) > 1:
            listed = ", ".join(" × ".join(map(str, shape)) for shape in sorted(shapes)[:3])
            raise ImageError(
                f"`batches` delivers images of several sizes together ({listed}); resize and crop "
                "all images to one size."
            )
        return torch.stack(list(x))
    first = x[0] if isinstance(x, tuple | list) and x else x
    kind = f"{type(first).__module__.partition('.')[0]}.{type(first).__name__}"
    if isinstance(first, np.ndarray):
        last = first.shape[-1] if first.ndim else 0
        order = ".movedim(-1, -3)" if last in (1, 3, 4) and first.ndim >= 3 else ""
        remedy = f"convert with torch.as_tensor(x){order}.float() after the model's normalisation"
    elif kind.startswith("PIL"):
        remedy = "give the data set a transform that makes normalised tensors (ToTensor)"
    else:
        remedy = "deliver tensors [B, C, H, W], (images, labels), or dictionaries with such"
    raise ImageError(f"`batches` delivers {kind} and must be a tensor of images; {remedy}.")


def check_layout(x: Any) -> None:
    """Refuse images whose channels are evidently last.

    Raises:
        ImageError: With the remedy.
    """
    if isinstance(x, Tensor) and x.ndim == 4 and x.shape[3] in (3, 4) and min(x.shape[1:3]) >= 8:
        raise ImageError(
            f"`batches` delivers images of shape {list(x.shape)}, with channels last as it seems; "
            "pass x.permute(0, 3, 1, 2), [B, C, H, W]."
        )


def _as_labels(given: Any, count: int) -> tuple[Tensor | None, str]:
    """Class indices [B], or None and why."""
    if given is None:
        return None, ""
    labels = _numbers(given)
    if labels is None:
        kind = type(given[0] if isinstance(given, tuple | list) and given else given).__name__
        return None, f"no accuracy: labels are of type {kind}, not class indices"
    if labels.ndim == 0 or (labels.ndim == 2 and labels.shape[1] == 1):
        labels = labels.reshape(-1)
    if labels.ndim and len(labels) != count:
        raise LieDerivError(
            f"`batches` delivers {len(labels)} labels for {count} images; give one for each."
        )
    if labels.ndim == 2 and _one_hot(labels):
        return labels.int().argmax(1), ""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        kind = "truth values" if labels.dtype == torch.bool else "a regression's or soft labels"
        return None, f"no accuracy: labels are {labels.dtype} numbers ({kind}), not class indices"
    if labels.ndim != 1:
        shape = list(labels.shape)
        return None, f"no accuracy: labels of shape {shape} are not one class for each image"
    labels = labels.long()
    if bool((labels < 0).any()):
        return None, "no accuracy: labels are negative in part, so not class indices"
    return labels, ""


def _numbers(given: Any) -> Tensor | None:
    if isinstance(given, Tensor):
        return given.detach()
    if isinstance(given, Mapping | str | bytes):
        return None
    try:
        if isinstance(given, Sequence) and all(isinstance(one, Tensor) for one in given):
            return torch.stack([one.detach() for one in given])
        return torch.as_tensor(np.asarray(given))
    except (RuntimeError, TypeError, ValueError):
        return None


def _one_hot(labels: Tensor) -> bool:
    zeros_and_ones = bool(((labels == 0) | (labels == 1)).all())
    return zeros_and_ones and labels.shape[1] > 1 and bool((labels.sum(1) == 1).all())
