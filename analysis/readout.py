"""What is measured at the end of the network: its output as one vector, and the group's action."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from liederiv.actions import ImageAction
from liederiv.errors import ModelError, UnknownLayoutError
from liederiv.metrics.local import NOT_ONE_TENSOR, class_axis
from liederiv.representations import OutputSpec, resolve

__all__ = ["OutputReader"]


class OutputReader:
    """Reads a model's output as one vector [D].

    Args:
        example: output of the model for one image.
        output: ``"probs"``, ``"logits"``, ``"features"``, ``"output"``, or how the group acts on
            the output as it is; see `liederiv.representations.OutputSpec`.
        image_size: height and width of the input in pixels.

    Raises:
        ModelError: for probabilities of an output that is not one tensor.
        UnknownLayoutError: if it is not known how the group acts on the output.
    """

    def __init__(self, example: Any, output: OutputSpec, image_size: tuple[int, int]) -> None:
        self.softmax = isinstance(output, str) and output == "probs"
        if self.softmax and not isinstance(example, Tensor):
            raise ModelError(NOT_ONE_TENSOR.format(kind=type(example).__name__))
        if isinstance(output, str) and output in ("probs", "logits", "features", "output"):
            output = "auto"
        leaves = _tensors(example)
        several = isinstance(output, dict | list | tuple)
        specs = tree_flatten(output)[0] if several else [output] * len(leaves)
        if len(specs) != len(leaves):
            raise UnknownLayoutError(
                f"output lists {len(specs)} representations, but the model returns {len(leaves)} "
                "tensors; give one for each, in the same structure."
            )
        self._shapes = [tuple(v.shape) for v in leaves]
        self._resolved = [resolve(s, v, image_size) for s, v in zip(specs, leaves, strict=True)]
        self._low_rank = self.softmax and leaves[0].ndim == 2

    def __call__(self, out: Any) -> Tensor:
        """The output as [D]."""
        leaves = _tensors(out)
        if self.softmax:
            leaves = [leaves[0].softmax(class_axis(leaves[0]))]
        return torch.cat([v.reshape(-1) for v in leaves])

    def act(self, action: ImageAction, y: Tensor) -> Tensor:
        """X_out y for the output as [D]: [K, D]."""
        parts = y.split([torch.Size(s).numel() for s in self._shapes])
        acted = [
            r.representation.act(action, v.reshape(s)).reshape(len(action), -1)
            for r, v, s in zip(self._resolved, parts, self._shapes, strict=True)
        ]
        return torch.cat(acted, 1)

    def probabilities(self, y: Tensor) -> Tensor | None:
        """The class probabilities in float64, if y is the softmax of one row of logits."""
        return y.detach().double() if self._low_rank else None


def _tensors(out: Any) -> list[Tensor]:
    return [v for v in tree_flatten(out)[0] if isinstance(v, Tensor) and v.is_floating_point()]
