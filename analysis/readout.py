"""What is measured at the end of the network: its output as one vector, and the group's action."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from liederiv.actions import Action
from liederiv.domains import domain_of
from liederiv.errors import ModelError, UnknownLayoutError
from liederiv.metrics.local import NOT_ONE_TENSOR, class_axis
from liederiv.representations import OutputSpec, declared

__all__ = ["OutputReader"]


class OutputReader:
    """Reads a model's output as one vector [D].

    Args:
        model: whose output it is; may declare how that transforms.
        example: output of the model for one image or cloud.
        output: ``"probs"``, ``"logits"``, ``"features"``, ``"output"``, or how the group acts on
            the output as it is; see `liederiv.representations.OutputSpec`.
        x: the input, one image or cloud.

    Raises:
        ModelError: for probabilities of an output that is not one tensor of class scores.
        UnknownLayoutError: if it is not known how the group acts on the output.
    """

    def __init__(self, model: object, example: Any, output: OutputSpec, x: Any) -> None:
        self.softmax = isinstance(output, str) and output == "probs"
        if self.softmax and not isinstance(example, Tensor):
            raise ModelError(NOT_ONE_TENSOR.format(kind=type(example).__name__))
        if isinstance(output, str) and output in ("probs", "logits", "features", "output"):
            output = "auto"
        output = declared(model, output)
        leaves = _tensors(example)
        several = isinstance(output, dict | list | tuple)
        specs = tree_flatten(output)[0] if several else [output] * len(leaves)
        if len(specs) != len(leaves):
            raise UnknownLayoutError(
                f"output lists {len(specs)} representations, but the model returns {len(leaves)} "
                "tensors; give one for each, in the same structure."
            )
        self._shapes = [tuple(v.shape) for v in leaves]
        domain = domain_of(x)
        bound = domain.bind((), x, "bspline")
        pairs = zip(specs, leaves, strict=True)
        self._resolved = [domain.resolve(s, v, bound) for s, v in pairs]
        if self.softmax and not self._resolved[0].representation.may_be_classes:
            raise ModelError(
                f"output='probs' needs scores of classes, but the output is "
                f"{self._resolved[0].representation}; pass output='output'."
            )
        self._low_rank = self.softmax and leaves[0].ndim == 2 and len(leaves[0]) == 1

    def __call__(self, out: Any) -> Tensor:
        """The output as [D]."""
        leaves = _tensors(out)
        self._shapes = [tuple(v.shape) for v in leaves]  # clouds differ in size
        if self.softmax:
            leaves = [leaves[0].softmax(class_axis(leaves[0]))]
        return torch.cat([v.reshape(-1) for v in leaves])

    def act(self, action: Action, y: Tensor) -> Tensor:
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
