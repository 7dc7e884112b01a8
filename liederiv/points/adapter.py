"""`PointModel`: any network on points, however it wants its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from liederiv.points.cloud import PointCloud
from liederiv.representations import OutputSpec

__all__ = ["PointModel"]


class PointModel(nn.Module):
    """Calls a network with the parts of a `PointCloud` that it takes, and says what comes out.

    A network that takes a `PointCloud` needs no adapter, only an attribute
    ``output_representation`` if the caller should not have to say it.

    Args:
        model: the network.
        call: ``(model, cloud) -> output``; None calls the network with the dict of all tensors,
            see `PointCloud.to_dict`.
        output: how its output transforms: ``"scalars"``, ``"vectors"``, ``"positions"``, a
            representation of `liederiv.points`, or a dict, list or tuple of those.

    Example:
        >>> import torch
        >>> from liederiv import PointCloud, lie_derivative
        >>> mass = nn.Linear(1, 1, bias=False)
        >>> call = lambda m, c: m(c.scalars["mass"]) * c.pos
        >>> model = PointModel(mass, call, output="positions")
        >>> cloud = PointCloud(torch.rand(4, 3), scalars={"mass": torch.ones(4)})
        >>> lie_derivative(model, cloud, "rotation").abs().max() < 1e-6
        tensor(True)
    """

    def __init__(
        self,
        model: nn.Module,
        call: Callable[[Any, PointCloud], Any] | None = None,
        *,
        output: OutputSpec = "auto",
    ) -> None:
        super().__init__()
        self.model = model
        self._call = call
        self.output_representation = output
        self.train(model.training)

    def forward(self, cloud: PointCloud) -> Any:
        """The network's output."""
        if self._call is None:
            return self.model(cloud.to_dict())
        return self._call(self.model, cloud)
