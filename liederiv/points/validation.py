"""What makes a sound `PointCloud`, and what is said about one that is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from liederiv.errors import PointCloudError

__all__ = ["check_batch", "check_edges", "check_fields", "check_positions", "items"]


def items(cloud: Any, group: str) -> list[tuple[str, Tensor]]:
    """The fields of a group; raise unless all of them are tensors with rows."""
    given = getattr(cloud, group)
    if not isinstance(given, Mapping):
        raise PointCloudError(
            f"{group} must map names to tensors, not be a {type(given).__name__}; "
            f"write {group}={{'name': tensor}}."
        )
    for k, v in given.items():
        if not isinstance(v, Tensor) or v.ndim == 0:
            kind = "a number" if isinstance(v, Tensor) else f"a {type(v).__name__}"
            raise PointCloudError(f"{group}[{k!r}] is {kind}; give one tensor row per point.")
    return list(given.items())


def check_positions(pos: Any) -> None:
    """Raise unless pos is a floating tensor [N, 2] or [N, 3] of finite numbers, N ≥ 1."""
    if not isinstance(pos, Tensor):
        raise PointCloudError(f"pos must be a tensor [N, d], not a {type(pos).__name__}.")
    if pos.ndim != 2 or pos.shape[1] not in (2, 3):
        raise PointCloudError(
            f"pos has shape {list(pos.shape)}; give positions [N, 2] or [N, 3], the points of all "
            "clouds one after another, and say with batch= which cloud each belongs to."
        )
    if len(pos) == 0:
        raise PointCloudError("pos holds no points; a cloud needs at least one.")
    if pos.dtype not in (torch.float32, torch.float64):
        raise PointCloudError(
            f"pos has dtype {pos.dtype}; derivatives need float32 or float64: convert with "
            "pos.float()."
        )
    check_finite("pos", pos)


def check_finite(name: str, v: Tensor) -> None:
    """Raise if a floating tensor has NaN or infinite entries, naming the first row."""
    if v.is_floating_point() and not v.isfinite().all():
        row = int((~v.isfinite()).flatten(1).any(1).nonzero()[0]) if v.ndim > 1 else 0
        raise PointCloudError(
            f"{name} is NaN or infinite, first in row {row}; remove or repair that row."
        )


def check_batch(batch: Any, pos: Tensor) -> int:
    """Number of clouds; raise unless batch numbers them from 0 without gaps."""
    if not isinstance(batch, Tensor) or batch.shape != pos.shape[:1]:
        found = list(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
        raise PointCloudError(
            f"batch must hold one integer for each of the {len(pos)} points, [N]; found {found}."
        )
    if batch.dtype != torch.long or batch.device != pos.device:
        raise PointCloudError(
            f"batch has dtype {batch.dtype} on {batch.device}; it needs int64 on {pos.device}: "
            "convert with batch.long() and .to(device)."
        )
    if int(batch.min()) < 0:
        raise PointCloudError("batch has negative entries; number the clouds from 0.")
    sizes = torch.bincount(batch)
    if int(sizes.min()) == 0:
        empty = int((sizes == 0).nonzero()[0])
        raise PointCloudError(
            f"cloud {empty} of {len(sizes)} has no points; number the clouds in batch without gaps."
        )
    return len(sizes)


def check_fields(cloud: Any, group: str, layout: str, shape: tuple[Any, ...]) -> None:
    """Raise unless every field of the group has that shape, the cloud's dtype and device."""
    rest_open = shape[-1] is ...
    wanted = shape[:-1] if rest_open else shape
    for name, v in items(cloud, group):
        fits = len(v.shape) == len(wanted) or (rest_open and len(v.shape) > len(wanted))
        sizes = zip(wanted, v.shape, strict=False)
        if not fits or any(w is not None and w != n for w, n in sizes):
            lengths = f"N = {len(cloud.pos)} points" if shape[0] == len(cloud.pos) else ""
            lengths = lengths or f"{shape[0]} rows"
            raise PointCloudError(
                f"{group}[{name!r}] has shape {list(v.shape)}; it needs {layout} with {lengths}."
            )
        if v.device != cloud.pos.device:
            raise PointCloudError(
                f"{group}[{name!r}] is on {v.device}, pos on {cloud.pos.device}; move one of them."
            )
        must_float = group == "vectors"
        wrong = v.dtype != cloud.pos.dtype and (must_float or v.is_floating_point())
        if wrong and group in ("scalars", "vectors"):
            raise PointCloudError(
                f"{group}[{name!r}] has dtype {v.dtype}, pos {cloud.pos.dtype}; convert one of "
                "them with .to()."
            )
        check_finite(f"{group}[{name!r}]", v)


def check_edges(cloud: Any) -> None:
    """Raise unless edges join points of the same cloud, and their fields fit."""
    index, N = cloud.edge_index, len(cloud.pos)
    if index is None:
        if cloud.edge_scalars:
            raise PointCloudError("edge_scalars are given without edge_index; pass both.")
        return
    if not isinstance(index, Tensor) or index.ndim != 2 or index.shape[0] != 2:
        found = list(index.shape) if isinstance(index, Tensor) else type(index).__name__
        raise PointCloudError(f"edge_index must be a tensor [2, E] of points; found {found}.")
    if index.dtype != torch.long or index.device != cloud.pos.device:
        raise PointCloudError(
            f"edge_index has dtype {index.dtype} on {index.device}; it needs int64 on "
            f"{cloud.pos.device}."
        )
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < N:
        raise PointCloudError(
            f"edge_index names points from {int(index.min())} to {int(index.max())}, but there "
            f"are {N}, numbered from 0."
        )
    if index.numel() and not torch.equal(cloud.batch[index[0]], cloud.batch[index[1]]):
        raise PointCloudError("edge_index joins points of different clouds; remove those edges.")
    check_fields(cloud, "edge_scalars", "[E, …]", (index.shape[1], ...))
