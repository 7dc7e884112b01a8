"""The third pass: a backward graph with an edge at every tensor of a measured call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.differentiation.gradient_rules import gradient_rules

from .calls import Plan, Walk
from .hooks import module_hooks, plain_checkpointing

__all__ = ["Edge", "Recording", "record_edges"]


@dataclass(frozen=True)
class Edge:
    """A place in the backward graph where a measured call begins or ends.

    Attributes:
        call: number of the call.
        slot: the tensor there.
        sign: −1 where the call begins, +1 where it ends.
        edge: where autograd delivers the gradient.
    """

    call: int
    slot: int
    sign: int
    edge: GradientEdge


@dataclass(frozen=True)
class Recording:
    """A forward pass with its backward graph.

    Attributes:
        out: the readout [D].
        edges: where the measured calls begin and end.
        spans: per measured call, the first and the last number that autograd gave to a node of the
            graph during the call.
    """

    out: Tensor
    edges: list[Edge]
    spans: dict[int, tuple[int, int]]


def record_edges(
    model: nn.Module,
    readout: Callable[[Any], Tensor],
    plan: Plan,
    measured: Sequence[int],
    x: Any,
) -> Recording:
    """Forward pass of one image that keeps the graph, with an edge at every measured tensor.

    Args:
        model: from `measured_copy`.
        readout: turns the model's output into one tensor [D].
        plan: from `scout`.
        measured: numbers of the calls to record.
        x: one image or cloud, from `as_leaf`.
    """
    walk, wanted = Walk(plan), set(measured)
    edges: list[Edge] = []
    begun: dict[int, int] = {}
    spans: dict[int, tuple[int, int]] = {}

    def before(path: str, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = walk.enter(path)
        if number not in wanted:
            return None
        begun[number] = _nodes_so_far()
        leaves, spec = tree_flatten((args, kwargs))
        clones: dict[int, Tensor] = {}
        for position, slot in plan.calls[number].inputs:
            z = leaves[position]
            if id(z) not in clones:
                clones[id(z)] = z.clone()
                edges.append(Edge(number, slot, -1, get_gradient_edge(clones[id(z)])))
            leaves[position] = clones[id(z)]
        return tree_unflatten(leaves, spec)

    def after(path: str, m: nn.Module, out: Any) -> Any:
        number = walk.leave()
        if number not in wanted:
            return None
        leaves, spec = tree_flatten(out)
        places = plan.calls[number].outputs
        for position, slot in places:
            y = leaves[position]
            if len(places) > 1 or y._is_view():
                y = leaves[position] = y.clone()
            edges.append(Edge(number, slot, 1, get_gradient_edge(y)))
        spans[number] = (begun[number], _nodes_so_far())
        return tree_unflatten(leaves, spec)

    with (
        torch.enable_grad(),
        gradient_rules(),
        plain_checkpointing(),
        module_hooks(model, before, after),
    ):
        # A copy, since a first operation in place is not allowed on a leaf.
        y = readout(model(tree_map(torch.clone, x)))
    return Recording(y, edges, spans)


def _nodes_so_far() -> int:
    """The number that autograd gives to the next node on this thread."""
    with torch.enable_grad():
        node = torch.zeros((), requires_grad=True).clone().grad_fn
    assert node is not None
    return int(node._sequence_nr())
