"""Load a network on point clouds by name: the trained Rapidash variants and the paper's."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors

from liederiv.errors import ModelError

from .names import ModelEntry
from .rapidash.checkpoints import load_checkpoint
from .rapidash.inputs import RapidashOnClouds
from .rapidash.presets import PAPER
from .rapidash.variants import VARIANTS, Variant
from .weights.state import Weighted

__all__ = [
    "LoadedPointModel",
    "is_point_model",
    "list_point_models",
    "load_point_model",
    "shipped_weights",
    "training_records",
]

_DATA = {"rapidash_shapenet": "shapenet", "rapidash_qm9": "qm9", "rapidash_cmu": "cmu"}


@dataclass(frozen=True)
class LoadedPointModel(Weighted):
    """A network on point clouds ready to be measured, and where it comes from.

    Attributes:
        model: takes a `PointCloud`; in evaluation mode on the CPU, no parameter requires a
            gradient. Its `output_representation` says how its output transforms.
        name: its name.
        requested_name: the name that was asked for.
        weights: where the weights come from, in words.
        variant: configuration, inputs and derived symmetry.
        data: the data set it belongs to, see `liederiv.model_zoo.clouds`.
    """

    model: RapidashOnClouds
    name: str
    requested_name: str
    weights: str
    variant: Variant
    data: str


def is_point_model(name: str) -> bool:
    """Whether a name is one of a network on point clouds."""
    return name.startswith("rapidash")


def list_point_models(pattern: str = "*", pretrained: bool = False) -> list[ModelEntry]:
    """The networks on point clouds that `load_point_model` knows.

    Args:
        pattern: shell wildcard.
        pretrained: only those whose weights ship with liederiv.
    """
    trained = training_records()
    entries = [
        ModelEntry(name, ("nbody",) if name in trained else (), name in trained, name in trained)
        for name in (*VARIANTS, *PAPER)
    ]
    return [
        e
        for e in entries
        if fnmatch.fnmatchcase(e.name, pattern) and (e.pretrained or not pretrained)
    ]


@cache
def training_records() -> dict[str, dict[str, Any]]:
    """How each shipped variant was trained and what errors it has, by name."""
    text = (_folder() / "record.json").read_text(encoding="utf-8")
    return {record["name"]: record for record in json.loads(text)}


def shipped_weights(name: str) -> str | None:
    """Hash of the file with a network's weights, None if none ships with liederiv."""
    file = _folder() / f"{name}.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _folder() -> Any:
    return resources.files("liederiv.model_zoo.rapidash") / "weights"


def load_point_model(
    name: str,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    *,
    seed: int = 0,
    regular_grid: bool = False,
) -> LoadedPointModel:
    """Load a network on point clouds by name.

    Args:
        name: a trained variant ("rapidash_sen_r3s2"), or one of the paper's configurations
            ("rapidash_qm9"), whose weights come from a checkpoint.
        checkpoint: weights to take instead: a Lightning checkpoint of the authors' code (its own
            settings then count), a state dict or a safetensors file. Nothing in it is executed.
        pretrained: take the shipped weights; False gives random ones.
        seed: of random weights; the global random state is unchanged.
        regular_grid: see `load_checkpoint`.

    Raises:
        ModelError: if the name is unknown, there are no weights, or the checkpoint does not fit.

    Example:
        >>> loaded = load_point_model("rapidash_sen_r3s2")
        >>> loaded.variant.symmetry.name
        'SE(3)'
    """
    known = {**VARIANTS, **PAPER}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(PAPER)
        raise ModelError(f"Unknown model {name!r}; did you mean {' or '.join(near)}?")
    chosen = known[name]
    data = _DATA.get(name, "nbody")
    if checkpoint is not None:
        model, chosen = load_checkpoint(checkpoint, chosen, regular_grid=regular_grid)
        weights = f"checkpoint {Path(checkpoint).name}"
        return LoadedPointModel(model, name, name, weights, chosen, data)
    if pretrained and name not in training_records():
        raise ModelError(
            f"no weights of {name!r} ship with liederiv; give a checkpoint, or pretrained=False "
            "for random weights."
        )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = chosen.build()
    weights = f"random (seed {seed})"
    if pretrained:
        content = (_folder() / f"{name}.safetensors").read_bytes()
        model.net.load_state_dict(load_tensors(content))
        weights = f"charged N-body, {training_records()[name]['settings']['epochs']} epochs"
    model = model.eval().requires_grad_(False)
    return LoadedPointModel(model, name, name, weights, chosen, data)
