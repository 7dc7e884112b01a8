"""What a representation is, and the two that need no grid: trivial, and given by the user."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from liederiv.actions import Action, ImageAction
from liederiv.errors import UnknownLayoutError

__all__ = ["Custom", "Invariant", "Representation", "on_images"]


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
