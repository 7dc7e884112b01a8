"""Point clouds to measure on: the simulated N-body system, or ShapeNet, QM9 and CMU motion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch

from liederiv.errors import PointCloudError
from liederiv.points import PointCloud

from .base import Asked, Inputs, register_inputs
from .cloud_datasets import cmu_clouds, qm9_clouds, shapenet_clouds
from .nbody_data import NBodyData, nbody_data, random_rotations

__all__ = ["CLOUD_SOURCES", "CloudSet", "load_clouds", "nbody_cloud"]

CLOUD_SOURCES = {
    "nbody": "charged N-body test systems in their principal axes, simulated on the spot",
    "nbody-rotated": "the same systems, each turned at random",
    "shapenet": "ShapeNet part segmentation, from a folder (needs PyTorch Geometric)",
    "qm9": "QM9 molecules, from a folder (needs PyTorch Geometric)",
    "cmu": "CMU motion capture, from cmu_motion.npz in a folder",
}
"""Names of the data sets and what they hold."""


@register_inputs
@dataclass(frozen=True)
class CloudSet(Inputs):
    """Clouds ready to be measured.

    Attributes:
        clouds: all of them, one batch.
        names: one per cloud.
        source: where they come from, in words.
    """

    clouds: PointCloud
    names: tuple[str, ...]
    source: str

    kind, title = "clouds", "point clouds"

    @classmethod
    def open(cls, asked: Asked, expects: object) -> CloudSet:
        """See `Inputs.open`.

        Args:
            asked: its source is ``samples`` for clouds of the network's own task, a name of
                `CLOUD_SOURCES`, or a folder that holds the data set of that task; the split is
                ``test`` unless said otherwise.
            expects: name of the data set of the task; "nbody" if it is none.
        """
        task = expects if isinstance(expects, str) else "nbody"
        source, folder = asked.source, asked.data_dir
        if source == "samples":
            source = task
        elif source and Path(source).is_dir():
            source, folder = task, Path(source)
        split = asked.split or "test"
        return load_clouds(source, asked.count, split=split, data_dir=folder, seed=asked.seed)

    def __len__(self) -> int:
        return len(self.clouds)

    def batch(self, device: torch.device, dtype: torch.dtype) -> PointCloud:
        """All clouds."""
        return self.clouds.to(device, dtype)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name the content and the order of the clouds."""
        digest = hashlib.sha256()
        for field in fields(self.clouds):
            value = getattr(self.clouds, field.name)
            tensors = value.items() if isinstance(value, dict) else [(field.name, value)]
            for name, tensor in tensors:
                if hasattr(tensor, "numpy"):
                    digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def size_in_words(self) -> str:
        """How many points there are."""
        sizes = self.clouds.sizes
        low, high = int(sizes.min()), int(sizes.max())
        return f"{low} points each" if low == high else f"{low} to {high} points"


def load_clouds(
    source: str = "nbody",
    num_clouds: int = 16,
    *,
    split: str = "test",
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> CloudSet:
    """Load clouds by the name of their data set.

    Args:
        source: one of `CLOUD_SOURCES`.
        num_clouds: how many, from the first on (of the simulated sets: the first systems).
        split: "train", "val" or "test".
        data_dir: folder of a data set that is not simulated.
        seed: of the rotations of "nbody-rotated".

    Returns:
        float32 clouds with the fields that the networks of that data set take.

    Raises:
        PointCloudError: if the set is unknown, missing or needs a package that is not installed.

    Example:
        >>> load_clouds("nbody", 2).clouds
        PointCloud(2 clouds, 10 points in 3-D, scalars: charge [10, 1], speed [10, 1], \
vectors: velocity [10, 1, 3], pose [10, 3, 3], float32)
    """
    if source not in CLOUD_SOURCES:
        raise PointCloudError(
            f"`source`={source!r} is unknown; choose one of {', '.join(CLOUD_SOURCES)}."
        )
    if split not in ("train", "val", "test"):
        raise PointCloudError(f"`split`={split!r} is unknown; use 'train', 'val' or 'test'.")
    if num_clouds < 1:
        raise PointCloudError(f"`num_clouds`={num_clouds} must be at least 1.")
    if source.startswith("nbody"):
        data = nbody_data(split, num_clouds)
        if source == "nbody-rotated":
            data = data.rotated(random_rotations(len(data), seed))
        cloud = nbody_cloud(data.to(torch.float32))
    else:
        if data_dir is None:
            raise PointCloudError(
                f"{source!r} is read from a folder; say which with data_dir (--data-dir)."
            )
        cloud = _READERS[source](Path(data_dir), split, num_clouds)
    names = tuple(f"{source}-{split}-{i}" for i in range(len(cloud)))
    return CloudSet(cloud, names, f"{CLOUD_SOURCES[source].split(',')[0]}, {split}")


_READERS: dict[str, Callable[[Path, str, int], PointCloud]] = {
    "shapenet": shapenet_clouds,
    "qm9": qm9_clouds,
    "cmu": cmu_clouds,
}


def nbody_cloud(data: NBodyData) -> PointCloud:
    """N-body systems as one batch of clouds.

    Scalars "charge" and "speed" [N, 1]; vectors "velocity" [N, 1, 3] and "pose" [N, 3, 3] (the
    system's frame, which turns with it; rows are its axes).
    """
    systems, n = data.pos.shape[:2]
    velocity = data.velocity.reshape(-1, 1, 3)
    return PointCloud(
        data.pos.reshape(-1, 3),
        torch.arange(systems).repeat_interleave(n),
        scalars={"charge": data.charge.reshape(-1, 1), "speed": velocity.norm(dim=-1)},
        vectors={
            "velocity": velocity,
            "pose": data.pose[:, None].expand(-1, n, -1, -1).reshape(-1, 3, 3),
        },
    )
