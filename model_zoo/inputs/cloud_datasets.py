"""Readers of the paper's data sets, for users who have them; nothing is downloaded here.

ShapeNet and QM9 go through PyTorch Geometric (the `pointclouds` extra), in the folder layout that
its data set classes keep. Source of splits and features: arXiv 2501.01999 and the authors' public
training scripts.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liederiv.errors import PointCloudError
from liederiv.points import PointCloud

from ..rapidash.presets import CATEGORIES

__all__ = ["cmu_clouds", "qm9_clouds", "shapenet_clouds"]

QM9_SPLIT = {"train": (0, 110_000), "val": (110_000, 120_000), "test": (120_000, 130_831)}
CMU_FILE = "cmu_motion.npz"


def _datasets() -> Any:
    try:
        return importlib.import_module("torch_geometric.datasets")
    except ImportError as error:
        raise PointCloudError(
            "this data set is read through PyTorch Geometric, which is not installed; run "
            "pip install 'liederiv[pointclouds]'."
        ) from error


def _folder(path: Path, what: str, *needed: str) -> None:
    """Refuse a folder that has none of the files, before PyTorch Geometric tries to download."""
    if not any((path / name).exists() for name in needed):
        listed = " or ".join(needed)
        raise PointCloudError(
            f"{str(path)!r} holds no {what} (no {listed}); download it once with "
            f"torch_geometric.datasets.{what}(root) and give that folder as data_dir."
        )


def shapenet_clouds(folder: Path, split: str, count: int) -> PointCloud:
    """Objects of ShapeNet's part segmentation, scaled into [−1, 1] as in the paper.

    Returns:
        Clouds with the scalar "category" (one of 16, [N, 16]) and the vectors "normals" [N, 1, 3]
        and "pose" [N, 3, 3] (the axes; it turns with the object).
    """
    datasets = _datasets()
    _folder(folder, "ShapeNet", "raw/train_test_split", f"processed/{_SHAPENET_FILE}")
    data = datasets.ShapeNet(str(folder), split=split, include_normals=True)
    chosen = [data[i] for i in range(min(count, len(data)))]
    clouds = []
    for item in chosen:
        centred = item.pos - item.pos.mean(0)
        pos = centred * (0.999999 / centred.abs().max())  # as PyG's NormalizeScale, below 1
        category = torch.zeros(len(pos), CATEGORIES, dtype=pos.dtype)
        category[:, int(item.category)] = 1
        vectors = {"normals": item.x[:, None], "pose": _axes(pos)}
        clouds.append(PointCloud(pos, scalars={"category": category}, vectors=vectors))
    return _joined(clouds, folder)


_SHAPENET_FILE = "air_bag_cap_car_cha_ear_gui_kni_lam_lap_mot_mug_pis_roc_ska_tab_test.pt"


def qm9_clouds(folder: Path, split: str, count: int) -> PointCloud:
    """Molecules of QM9 in the paper's split (that of DimeNet).

    Returns:
        Clouds with the scalar "atom" [N, 11]: PyTorch Geometric's features of each atom.
    """
    datasets = _datasets()
    _folder(folder, "QM9", "raw/gdb9.sdf", "raw/qm9_v3.pt", "processed/data_v3.pt")
    data = datasets.QM9(str(folder))
    order = np.random.RandomState(seed=42).permutation(QM9_SPLIT["test"][1])
    first, last = QM9_SPLIT[split]
    index = [int(i) for i in order[first:last] if i < len(data)][:count]
    return _joined([PointCloud(data[i].pos, scalars={"atom": data[i].x}) for i in index], folder)


def cmu_clouds(folder: Path, split: str, count: int) -> PointCloud:
    """Poses of CMU motion capture (31 joints) from `cmu_motion.npz`.

    The preprocessed files of the benchmark are pickles, which would have to be executed to be read;
    save their arrays once with `numpy.savez`: ``{split}_pos`` and ``{split}_velocity``, each
    [S, 31, 3], and where there are any ``{split}_normals``.

    Returns:
        Clouds with the vectors "velocity", "pose" (the axes; it turns with the body) and "normals".
    """
    path = folder / CMU_FILE
    if not path.exists():
        raise PointCloudError(
            f"{str(path)!r} does not exist; save the arrays {split}_pos and {split}_velocity "
            "[S, 31, 3] there with numpy.savez."
        )
    with np.load(path, allow_pickle=False) as file:
        arrays = {k: torch.from_numpy(file[k][:count]).float() for k in file.files}
    pos, velocity = (_array(arrays, f"{split}_{k}", path) for k in ("pos", "velocity"))
    normals = arrays.get(f"{split}_normals")
    clouds = []
    for i in range(len(pos)):
        vectors = {"velocity": velocity[i][:, None], "pose": _axes(pos[i])}
        if normals is not None:
            vectors["normals"] = normals[i][:, None]
        clouds.append(PointCloud(pos[i], vectors=vectors))
    return _joined(clouds, folder)


def _array(arrays: dict[str, Tensor], name: str, path: Path) -> Tensor:
    found = arrays.get(name)
    if found is None or found.ndim != 3 or found.shape[-1] != 3:
        what = "no array" if found is None else f"of shape {list(found.shape)} the array"
        raise PointCloudError(f"{str(path)!r} has {what} {name!r}; it needs [S, joints, 3].")
    return found


def _axes(pos: Tensor) -> Tensor:
    return torch.eye(3, dtype=pos.dtype).expand(len(pos), 3, 3)


def _joined(clouds: Sequence[PointCloud], folder: Path) -> PointCloud:
    if not clouds:
        raise PointCloudError(f"{str(folder)!r} has no clouds of this split; choose another.")
    return PointCloud.collate(clouds)
