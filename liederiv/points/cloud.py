"""`PointCloud`: positions with named fields, several clouds of different size at once.

A cloud says which of its numbers are positions, which are vectors and which are scalars, so that it
is known how a motion of space acts on all of them: exactly, without any interpolation.

The class is a pytree: its tensors that a motion may move or a derivative may enter (positions,
vectors, floating scalars) are the leaves; everything else is fixed. ``torch.func`` transforms and
the engine of liederiv therefore take a cloud wherever they take a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node, tree_map

from liederiv.errors import PointCloudError
from liederiv.points.validation import (
    check_batch,
    check_edges,
    check_fields,
    check_positions,
    items,
)

__all__ = ["PointCloud"]


@dataclass(frozen=True, eq=False)
class PointCloud:
    """B clouds of N points in all, in d = 2 or 3 dimensions.

    Attributes:
        pos: positions [N, d], float32 or float64.
        batch: which cloud a point belongs to, [N] integers from 0 to B − 1, in any order (models
            may ask for sorted ones); left out, all points are one cloud.
        scalars: invariant fields by name, [N, c] (or [N]): charges, atom types, features.
        vectors: fields by name that turn with space, [N, c, d] (or [N, d]): velocities, normals,
            the axes of a frame.
        graph: fields per cloud by name, [B, …], that no motion touches: a temperature, a label.
        edge_index: [2, E] integers, sending and receiving point, where the graph is part of the
            input; left alone.
        edge_scalars: invariant fields per edge by name, [E, …].

    Raises:
        PointCloudError: for anything else, and for empty clouds and numbers that are not finite.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> cloud = PointCloud(pos, torch.tensor([0, 0, 1]), vectors={"velocity": pos})
        >>> cloud
        PointCloud(2 clouds, 3 points in 3-D, vectors: velocity [3, 1, 3], float32)
        >>> len(cloud), cloud[1].pos.tolist()
        (2, [[0.0, 2.0, 0.0]])
    """

    pos: Tensor
    batch: Tensor = None  # type: ignore[assignment]  # filled in
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    graph: Mapping[str, Tensor] = field(default_factory=dict)
    edge_index: Tensor | None = None
    edge_scalars: Mapping[str, Tensor] = field(default_factory=dict)
    num_clouds: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        check_positions(self.pos)
        N, d = self.pos.shape
        if self.batch is None:
            object.__setattr__(self, "batch", self.pos.new_zeros(N, dtype=torch.long))
        object.__setattr__(self, "num_clouds", check_batch(self.batch, self.pos))
        scalars = {k: v[:, None] if v.ndim == 1 else v for k, v in items(self, "scalars")}
        vectors = {k: v[:, None] if v.ndim == 2 else v for k, v in items(self, "vectors")}
        # Forward mode cannot write tangents beside tensors whose elements share memory (expand).
        object.__setattr__(self, "pos", self.pos.contiguous())
        for name, values in (("scalars", scalars), ("vectors", vectors)):
            object.__setattr__(self, name, {k: v.contiguous() for k, v in values.items()})
        check_fields(self, "scalars", "[N, c]", (N, None))
        check_fields(self, "vectors", f"[N, c, {d}]", (N, None, d))
        check_fields(self, "graph", "[B, …]", (self.num_clouds, ...))
        check_edges(self)
        taken: set[str] = set()
        for group in ("scalars", "vectors", "graph", "edge_scalars"):
            twice = (taken | _RESERVED) & set(getattr(self, group))
            if twice:
                raise PointCloudError(
                    f"{group} has a field {sorted(twice)[0]!r}, a name that is taken; rename it."
                )
            taken |= set(getattr(self, group))

    @classmethod
    def collate(cls, clouds: Sequence[PointCloud]) -> PointCloud:
        """Join clouds with the same fields into one batch.

        Raises:
            PointCloudError: if there are none, or their fields or dimensions differ.
        """
        if not clouds:
            raise PointCloudError("clouds is empty; collate needs at least one PointCloud.")
        signature = {_signature(c) for c in clouds}
        if len(signature) > 1:
            raise PointCloudError(
                f"clouds have different fields ({' and '.join(sorted(signature)[:2])}); give all "
                "of them the same fields, dimension and dtype."
            )
        first, points, graphs = clouds[0], 0, 0
        batch, edges = [], []
        for c in clouds:
            batch.append(c.batch + graphs)
            edges += [] if c.edge_index is None else [c.edge_index + points]
            points, graphs = points + len(c.pos), graphs + len(c)
        joined = {
            group: {
                k: torch.cat([getattr(c, group)[k] for c in clouds]) for k in getattr(first, group)
            }
            for group in _GROUPS
        }
        pos = torch.cat([c.pos for c in clouds])
        index = torch.cat(edges, 1) if edges else None
        return _build(pos, torch.cat(batch), graphs, edge_index=index, **joined)

    def __len__(self) -> int:
        """Number of clouds B."""
        return self.num_clouds

    def __getitem__(self, which: int | slice | Sequence[int] | Tensor) -> PointCloud:
        """Some of the clouds, in the order asked for; an integer gives one cloud.

        Raises:
            IndexError: if there is no such cloud (so that a loop over clouds ends).
            PointCloudError: for no cloud at all, or one twice.
        """
        if isinstance(which, Tensor):
            which = which.tolist()
        numbers = list(range(len(self)))
        chosen = (
            numbers[which] if isinstance(which, slice)
            else [numbers[i] for i in which] if isinstance(which, Iterable)
            else [numbers[which]]
        )  # fmt: skip
        if not chosen or len(set(chosen)) < len(chosen):
            raise PointCloudError(
                f"cannot take clouds {chosen} of {len(self)}; name at least one, each once."
            )
        new = torch.full((len(self),), -1, dtype=torch.long, device=self.device)
        new[chosen] = torch.arange(len(chosen), device=self.device)
        moved = new[self.batch]
        order = moved.argsort(stable=True)
        points = order[(moved < 0).sum() :]
        parts: dict[str, Any] = {
            group: {k: v[points] for k, v in getattr(self, group).items()}
            for group in ("scalars", "vectors")
        }
        parts["graph"] = {k: v[chosen] for k, v in self.graph.items()}
        if self.edge_index is not None:
            renumber = torch.full_like(self.batch, -1)
            renumber[points] = torch.arange(len(points), device=self.device)
            index = renumber[self.edge_index]
            kept = (index >= 0).all(0)
            parts["edge_index"] = index[:, kept]
            parts["edge_scalars"] = {k: v[kept] for k, v in self.edge_scalars.items()}
        return _build(self.pos[points], moved[points], len(chosen), **parts)

    @property
    def dim(self) -> int:
        """Dimension d of space."""
        return self.pos.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Of positions, vectors and floating scalars."""
        return self.pos.dtype

    @property
    def device(self) -> torch.device:
        """Of all tensors."""
        return self.pos.device

    @property
    def sizes(self) -> Tensor:
        """Number of points of each cloud, [B]."""
        return torch.bincount(self.batch, minlength=len(self))

    def to(self, *target: Any, **named: Any) -> PointCloud:
        """As `torch.Tensor.to`; integer tensors only change device."""
        sample = self.pos.to(*target, **named)

        def move(v: Tensor) -> Tensor:
            return v.to(sample) if v.is_floating_point() else v.to(sample.device)

        moved = {group: {k: move(v) for k, v in getattr(self, group).items()} for group in _GROUPS}
        index = None if self.edge_index is None else move(self.edge_index)
        return _build(sample, move(self.batch), len(self), edge_index=index, **moved)

    def double(self) -> PointCloud:
        """In float64."""
        return self.to(torch.float64)

    def float(self) -> PointCloud:
        """In float32."""
        return self.to(torch.float32)

    def detach(self) -> PointCloud:
        """Cut off from any graph of derivatives."""
        return tree_map(torch.detach, self)

    def clone(self) -> PointCloud:
        """With copies of positions, vectors and scalars."""
        return tree_map(torch.clone, self)

    def replace_leaves(
        self, pos: Tensor, scalars: Mapping[str, Tensor], vectors: Mapping[str, Tensor]
    ) -> PointCloud:
        """Other positions, floating scalars and vectors, unchecked: moved ones, or tangents."""
        rest = {g: getattr(self, g) for g in ("graph", "edge_index", "edge_scalars")}
        found = {k: scalars.get(k, v) for k, v in self.scalars.items()}
        return _build(pos, self.batch, len(self), scalars=found, vectors=dict(vectors), **rest)

    def with_fields(self, **groups: Any) -> PointCloud:
        """With other positions or groups of fields, checked anew, e.g. ``scalars={…}``."""
        return replace(self, **groups)

    def to_dict(self) -> dict[str, Tensor]:
        """All tensors by name, for models that take dicts: ``pos``, ``batch`` and every field."""
        found = {"pos": self.pos, "batch": self.batch}
        if self.edge_index is not None:
            found["edge_index"] = self.edge_index
        for group in _GROUPS:
            found.update(getattr(self, group))
        return found

    def __repr__(self) -> str:
        parts = [
            f"{len(self)} cloud{'s' * (len(self) != 1)}",
            f"{self.pos.shape[-2]} points in {self.dim}-D",
        ]
        for group in _GROUPS:
            shapes = [f"{k} {list(v.shape)}" for k, v in getattr(self, group).items()]
            parts += [f"{group}: {', '.join(shapes)}"] if shapes else []
        if self.edge_index is not None:
            parts.append(f"{self.edge_index.shape[1]} edges")
        return f"PointCloud({', '.join(parts)}, {str(self.dtype).removeprefix('torch.')})"


_GROUPS = ("scalars", "vectors", "graph", "edge_scalars")
_RESERVED = {"pos", "batch", "edge_index"}


def _build(pos: Tensor, batch: Tensor, num_clouds: int, **parts: Any) -> PointCloud:
    """A cloud of parts that are known to be sound, without looking at them."""
    cloud = object.__new__(PointCloud)
    values: dict[str, Any] = {f.name: {} for f in fields(PointCloud)} | {"edge_index": None}
    values |= {"pos": pos, "batch": batch, "num_clouds": num_clouds} | parts
    for name, value in values.items():
        object.__setattr__(cloud, name, value)
    return cloud


def _signature(c: PointCloud) -> str:
    names = [f"{g}.{k}{list(v.shape[1:])}" for g in _GROUPS for k, v in getattr(c, g).items()]
    edges = "with" if c.edge_index is not None else "without"
    return f"{c.dim}-D {c.dtype} {edges} edges: {', '.join(sorted(names)) or 'positions only'}"


class _Fixed:
    """What is no leaf of the pytree, comparable as contexts of pytrees must be."""

    def __init__(self, scalars: tuple[str, ...], vectors: tuple[str, ...], **rest: Any) -> None:
        self.scalars, self.vectors, self.rest = scalars, vectors, rest

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Fixed)
            and (self.scalars, self.vectors) == (other.scalars, other.vectors)
            and _same(self.rest, other.rest)
        )

    def __hash__(self) -> int:
        return hash((self.scalars, self.vectors))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.device == b.device and torch.equal(a, b)
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)


def _flatten(cloud: PointCloud) -> tuple[list[Any], _Fixed]:
    moving = {k: v for k, v in cloud.scalars.items() if _is_leaf(v)}
    fixed = _Fixed(
        tuple(moving),
        tuple(cloud.vectors),
        batch=cloud.batch,
        num_clouds=cloud.num_clouds,
        other_scalars={k: v for k, v in cloud.scalars.items() if k not in moving},
        graph=cloud.graph,
        edge_index=cloud.edge_index,
        edge_scalars=cloud.edge_scalars,
        order=tuple(cloud.scalars),
    )
    return [cloud.pos, *moving.values(), *cloud.vectors.values()], fixed


def _is_leaf(v: Any) -> bool:
    """Integer scalars have no derivative; placeholders of other pytree functions are leaves."""
    return not isinstance(v, Tensor) or v.is_floating_point()


def _unflatten(leaves: Any, fixed: _Fixed) -> PointCloud:
    pos, *others = leaves
    scalars = dict(zip(fixed.scalars, others, strict=False)) | fixed.rest["other_scalars"]
    return _build(
        pos,
        fixed.rest["batch"],
        fixed.rest["num_clouds"],
        scalars={k: scalars[k] for k in fixed.rest["order"]},
        vectors=dict(zip(fixed.vectors, others[len(fixed.scalars) :], strict=True)),
        graph=fixed.rest["graph"],
        edge_index=fixed.rest["edge_index"],
        edge_scalars=fixed.rest["edge_scalars"],
    )


register_pytree_node(
    PointCloud, _flatten, _unflatten, serialized_type_name="liederiv.points.PointCloud"
)
