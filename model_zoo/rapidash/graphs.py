"""Who sends to whom: fully connected, nearest-neighbour and radius graphs, farthest points.

Graphs are piecewise constant in the positions, so they carry no derivative: positions are detached
first. All clouds of a batch are handled at once in a padded layout [clouds, points]; no loop runs
over points or edges, except that farthest points are by their nature chosen one after the other
(each choice for all clouds together).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import EdgeType

__all__ = ["Coarsening", "build_edges", "coarsen"]


@dataclass(frozen=True)
class Coarsening:
    """A coarser cloud and how the finer one feeds it.

    Attributes:
        kept: indices of the kept points among the finer ones, [M], in the order of their clouds.
        edges: [2, N]: every finer point (first row) and the nearest kept one (second row, an
            index into `kept`).
        batch: cloud of each kept point, [M].
    """

    kept: Tensor
    edges: Tensor
    batch: Tensor


@dataclass(frozen=True)
class _Padded:
    """Positions by cloud: the points of one cloud side by side.

    Attributes:
        pos: [B, P, n], 0 where there is no point.
        index: [B, P] index of the point in the batch.
        valid: [B, P] whether there is a point.
        clouds: [B] cloud numbers.
    """

    pos: Tensor
    index: Tensor
    valid: Tensor
    clouds: Tensor

    @staticmethod
    def of(pos: Tensor, batch: Tensor) -> _Padded:
        clouds, row, counts = torch.unique(batch, return_inverse=True, return_counts=True)
        order = torch.argsort(row, stable=True)
        start = torch.cumsum(counts, 0) - counts
        row = row[order]
        column = torch.arange(len(batch), device=batch.device) - start[row]
        width = int(counts.max()) if len(counts) else 0
        shape = (len(clouds), width)
        index = torch.zeros(shape, dtype=torch.long, device=batch.device)
        valid = torch.zeros(shape, dtype=torch.bool, device=batch.device)
        index[row, column] = order
        valid[row, column] = True
        return _Padded(pos[index] * valid[..., None], index, valid, clouds)

    def square_distances(self) -> Tensor:
        """[B, P, P]; infinite where either point is missing."""
        square = self.pos.new_zeros(*self.valid.shape, self.valid.shape[1])
        for axis in range(self.pos.shape[-1]):  # x, y, z: differences, so that nothing cancels
            x = self.pos[..., axis]
            square += (x[:, :, None] - x[:, None, :]).square()
        both = self.valid[:, :, None] & self.valid[:, None, :]
        return square.masked_fill_(~both, math.inf)


def build_edges(pos: Tensor, batch: Tensor, edge_type: EdgeType) -> Tensor:
    """Edges within each cloud, every point's edge to itself included.

    Args:
        pos: [N, n].
        batch: cloud of each point, [N]; in any order.
        edge_type: which graph. A cloud with fewer points than "knn" asks for is fully connected.

    Returns:
        [2, E]: senders and receivers.
    """
    cloud = _Padded.of(_constant(pos), batch)
    if edge_type.kind == "fc":
        linked = cloud.valid[:, :, None] & cloud.valid[:, None, :]
    elif edge_type.kind == "radius":
        linked = cloud.square_distances() <= edge_type.radius**2
    else:
        return _nearest(cloud, edge_type.k)
    b, receive, send = torch.nonzero(linked, as_tuple=True)
    return torch.stack((cloud.index[b, send], cloud.index[b, receive]))


def _constant(pos: Tensor) -> Tensor:
    """Positions from which whole numbers are made: who is whose neighbour has no derivative.

    `liederiv.differentiation.cuts` need not know of this detach: nothing else comes of it.
    """
    with torch._C.DisableTorchFunction():
        return pos.detach()


def _nearest(cloud: _Padded, k: int) -> Tensor:
    k = min(k, cloud.valid.shape[1])
    if k == 0:
        return cloud.index.new_zeros(2, 0)
    square, near = cloud.square_distances().topk(k, dim=-1, largest=False)
    send = cloud.index.gather(1, near.flatten(1)).reshape(near.shape)
    receive = cloud.index[..., None].expand_as(send)
    keep = square.isfinite()
    return torch.stack((send[keep], receive[keep]))


def coarsen(pos: Tensor, batch: Tensor, ratio: float) -> Coarsening:
    """Farthest-point sampling, and the nearest kept point of every point.

    The first point is the one farthest from the cloud's centre, so that the choice depends neither
    on chance nor on the order, place or attitude of the cloud (except where distances are equal).

    Args:
        pos: [N, n].
        batch: cloud of each point, [N].
        ratio: share of points to keep, rounded up; at least one point of each cloud is kept.

    Returns:
        The kept points and the edges to them.
    """
    cloud = _Padded.of(_constant(pos), batch)
    counts = cloud.valid.sum(1)
    # A product that is whole but for rounding is not rounded up.
    wanted = (counts * ratio - 1e-9).ceil().long().clamp(min=1)
    steps = int(wanted.max()) if len(wanted) else 0
    rows = torch.arange(len(counts), device=pos.device)
    centre = cloud.pos.sum(1) / counts[:, None]
    apart = (cloud.pos - centre[:, None]).square().sum(-1).masked_fill(~cloud.valid, -1.0)
    chosen = cloud.index.new_zeros(len(counts), steps)
    nearest = apart.new_full(apart.shape, math.inf).masked_fill(~cloud.valid, -1.0)
    owner = torch.zeros_like(cloud.index)
    for step in range(steps):
        pick = apart.argmax(1) if step == 0 else nearest.argmax(1)
        chosen[:, step] = pick
        square = (cloud.pos - cloud.pos[rows, pick][:, None]).square().sum(-1)
        wants = step < wanted
        closer = (square < nearest) & wants[:, None]
        nearest = torch.where(closer, square, nearest)
        owner = torch.where(closer, step, owner)
        # A kept point owns itself, also a duplicate of another, and is not chosen again.
        nearest[rows[wants], pick[wants]] = -0.5
        owner[rows[wants], pick[wants]] = step
    kept_mask = torch.arange(steps, device=pos.device) < wanted[:, None]
    offset = torch.cumsum(wanted, 0) - wanted
    target = owner + offset[:, None]
    kept = cloud.index.gather(1, chosen)[kept_mask]
    edges = torch.stack((cloud.index[cloud.valid], target[cloud.valid]))
    return Coarsening(kept, edges[:, edges[0].argsort()], batch[kept])
