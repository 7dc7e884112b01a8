"""What a representation is, the two that need no grid, and what is left of a pushforward: L f."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from liederiv.actions import Action, ImageAction
from liederiv.errors import ModelError, UnknownLayoutError

__all__ = [
    "Acts",
    "Custom",
    "Invariant",
    "Representation",
    "beyond",
    "class_axis",
    "lie_value",
    "on_images",
    "softmax_pushforward",
]


class Representation(ABC):
    """How generators act on one output tensor.

    Attributes:
        may_be_classes: whether the entries may be scores of classes, so that a softmax makes sense.
    """

    may_be_classes: ClassVar[bool] = True

    @abstractmethod
    def act(self, action: Action, y: Tensor) -> Tensor:
        """X_out y.

        Args:
            action: the K generators, bound to the input.
            y: output tensor, batch first.

        Returns:
            [K, *y.shape].

        Raises:
            UnknownLayoutError: if y cannot have this representation.
        """

    def class_axis(self, ndim: int) -> int | None:
        """The axis of a tensor of so many axes on which scores of classes stand, if they can.

        The last of [B, n] and [B, tokens, n], the second of a dense [B, n, h, w].
        """
        if not self.may_be_classes or not 2 <= ndim <= 4:
            return None
        return 1 if ndim == 4 else -1


def on_images(action: Action, representation: Representation) -> ImageAction:
    """The action, if it is one on images.

    Raises:
        UnknownLayoutError: if it is not.
    """
    if not isinstance(action, ImageAction):
        raise UnknownLayoutError(
            f"output={representation} has places in an image, but the input is none; declare how "
            "the output of point clouds transforms: 'scalars', 'vectors' or 'positions'."
        )
    return action


@dataclass(frozen=True)
class Invariant(Representation):
    """The trivial representation: class scores, probabilities, pooled features. X_out = 0."""

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        return y.new_zeros(()).expand(len(action), *y.shape)


@dataclass(frozen=True)
class Custom(Representation):
    """A representation given by the user.

    Attributes:
        function: ``(action, y) -> [K, *y.shape]``, the generators applied to the output.
        finite: ``(element, y) -> [*y.shape]``, a finite transform applied to the output (see
            `liederiv.metrics.finite.GroupElement`); None if finite metrics are not wanted.
    """

    function: Callable[[Any, Tensor], Tensor]
    finite: Callable[[Any, Tensor], Tensor] | None = None

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        out = self.function(action, y)
        if out.shape != (len(action), *y.shape):
            raise UnknownLayoutError(
                f"output=Custom(…) returned shape {list(out.shape)}; expected one generator "
                f"after another, {[len(action), *y.shape]}."
            )
        return out


class Acts(Protocol):
    """Whatever knows how generators act on a tensor: a representation, a layout, a reader."""

    def act(self, action: Action, y: Tensor, /) -> Tensor:
        """X y for the K generators of the action: [K, *y.shape]."""


def lie_value(rho: Acts, action: Action, y: Tensor, jv: Tensor) -> Tensor:
    """L f = J X x − X_out f from the output y = f(x) and its pushforward: [K, *y.shape]."""
    return beyond(jv, rho.act(action, y))


def beyond(jv: Tensor, moved: Tensor) -> Tensor:
    """J X x − X_out f. Never in place: both may share their memory with other tensors."""
    return jv - moved


def softmax_pushforward(y: Tensor, jv: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Probabilities p = softmax(y) along ``dim`` and their pushforward (diag p − ppᵀ) jv."""
    p = y.softmax(dim)
    weighted = jv * p
    return p, weighted - p * weighted.sum(dim if dim < 0 else dim + 1, keepdim=True)


def class_axis(y: Tensor, rho: Representation, argument: str = "output_type") -> int:
    """The axis of an output on which the scores of classes stand.

    Args:
        y: the output.
        rho: how the group acts on it.
        argument: by which a softmax was asked for, for messages.

    Raises:
        ModelError: if there are none to normalise by a softmax: entries that turn or move, a single
            logit per item, or no axis of classes at all.
    """
    axis = rho.class_axis(y.ndim)
    if axis is None:
        raise ModelError(
            f"{argument}='probs' needs scores of classes, but the output of shape "
            f"{list(y.shape)} is {rho}; pass {argument}='output'."
        )
    if y.shape[axis] < 2:
        raise ModelError(
            f"{argument}='probs' needs scores of two classes or more, but the output has shape "
            f"{list(y.shape)}: the softmax of one logit is 1; pass {argument}='output', or a "
            "model that ends in a sigmoid."
        )
    return axis
