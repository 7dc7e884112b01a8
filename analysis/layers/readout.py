"""What is measured at the end of the network: its output as one vector, and the group's action."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from liederiv.actions import Action
from liederiv.base_representation import class_axis
from liederiv.domains import domain_of
from liederiv.errors import ModelError
from liederiv.metrics.finite import act_finite
from liederiv.metrics.local import NOT_ONE_TENSOR
from liederiv.representations import OutputSpec, declared
from liederiv.resolution import resolve_output
from liederiv.structures import Part, match_outputs

__all__ = ["OutputReader"]


class OutputReader:
    """Reads a model's output as one vector [D].

    Args:
        model: whose output it is; may declare how that transforms.
        example: output of the model for one image or cloud.
        output_type: ``"probs"``, or another for the output as it is.
        output: how the group acts on that, see `liederiv.representations.OutputSpec`. What is
            declared None is left out.
        x: the input, one image or cloud.

    Raises:
        ModelError: for probabilities of an output that is not one tensor of class scores.
        UnknownLayoutError: if it is not known how the group acts on the output.
        NotDifferentiableError: if something that is to be measured is no floating tensor.
    """

    def __init__(
        self, model: nn.Module, example: Any, output_type: str, output: OutputSpec, x: Any
    ) -> None:
        self.softmax = output_type == "probs"
        if self.softmax and not isinstance(example, Tensor):
            raise ModelError(NOT_ONE_TENSOR.format(kind=type(example).__name__))
        self._output = declared(model, output)
        parts = match_outputs(self._output, example)
        self._shapes = [tuple(v.shape) for v in parts.tensors]
        bound = domain_of(x).bind((), x, "bspline")
        self._resolved = []
        for i, (spec, y) in enumerate(zip(parts.specs, parts.tensors, strict=True)):
            alone = model if isinstance(example, Tensor) else Part(model, self._output, i)
            self._resolved.append(resolve_output(alone, x, spec, y, bound))
        if self.softmax:
            self._axis = class_axis(example, self._resolved[0].representation)
        self._low_rank = self.softmax and example.ndim == 2 and len(example) == 1

    def __call__(self, out: Any) -> Tensor:
        """The output as [D]."""
        leaves = match_outputs(self._output, out).tensors
        self._shapes = [tuple(v.shape) for v in leaves]  # clouds differ in size
        if self.softmax:
            leaves = [leaves[0].softmax(self._axis)]
        return torch.cat([v.reshape(-1) for v in leaves])

    def act(self, action: Action, y: Tensor) -> Tensor:
        """X_out y for the output as [D]: [K, D]."""
        parts = y.split([torch.Size(s).numel() for s in self._shapes])
        acted = [
            r.representation.act(action, v.reshape(s)).reshape(len(action), -1)
            for r, v, s in zip(self._resolved, parts, self._shapes, strict=True)
        ]
        return torch.cat(acted, 1)

    def move(self, element: Any, y: Tensor) -> Tensor:
        """ρ_g y for the output as [D] and a finite transform g."""
        parts = y.split([torch.Size(s).numel() for s in self._shapes])
        moved = [
            act_finite(r.representation, element, v.reshape(s)).reshape(-1)
            for r, v, s in zip(self._resolved, parts, self._shapes, strict=True)
        ]
        return torch.cat(moved)

    @staticmethod
    def label(output_type: str, output: OutputSpec) -> str:
        """What is measured, for results: the type, or how the group acts where that was said."""
        said = output_type == "output" and not (isinstance(output, str) and output == "auto")
        return str(output) if said else output_type

    def probabilities(self, y: Tensor) -> Tensor | None:
        """The class probabilities in float64, if y is the softmax of one row of logits."""
        return y.detach().double() if self._low_rank else None
