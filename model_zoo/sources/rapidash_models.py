"""Networks on point clouds by name: the trained Rapidash variants and the paper's."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors

from liederiv.errors import ModelError

from ..rapidash.checkpoints import load_checkpoint
from ..rapidash.inputs import RapidashOnClouds
from ..rapidash.presets import PAPER
from ..rapidash.variants import VARIANTS, Variant
from .loaded import Loaded
from .source import ModelEntry, Source

__all__ = ["LoadedPointModel", "RapidashModel", "training_records"]

_KNOWN = {**VARIANTS, **PAPER}
_DATA = {"rapidash_shapenet": "shapenet", "rapidash_qm9": "qm9", "rapidash_cmu": "cmu"}


@dataclass(frozen=True)
class LoadedPointModel(Loaded):
    """A network on point clouds ready to be measured, and where it comes from.

    Attributes:
        model: takes a `PointCloud`; its `output_representation` says how its output transforms.
        variant: configuration, inputs and derived symmetry.
        data: the data set it belongs to, see `liederiv.model_zoo.inputs.clouds`.
    """

    model: RapidashOnClouds
    variant: Variant
    data: str
    kind: str = field(default="clouds", kw_only=True)

    @property
    def expects(self) -> str:
        """See `Loaded.expects`: the name of the data set."""
        return self.data

    @property
    def preprocessing(self) -> dict[str, Any]:
        """See `Loaded.preprocessing`."""
        return {"inputs": self.variant.described_inputs}


class RapidashModel(Source):
    """A trained variant ("rapidash_sen_r3s2") or a configuration of the paper ("rapidash_qm9")."""

    inputs = "point clouds"

    @classmethod
    def knows(cls, name: str) -> bool:
        """See `Source.knows`: names that look like these, too, to say what is near them."""
        return name in _KNOWN or name.startswith("rapidash")

    @classmethod
    def entries(cls, pattern: str = "*", pretrained: bool = False) -> Sequence[ModelEntry]:
        """See `Source.entries`; what is pretrained ships with liederiv."""
        trained = training_records()
        return [
            ModelEntry(
                name, ("nbody",) if name in trained else (), name in trained, name in trained
            )
            for name in _KNOWN
            if fnmatch.fnmatchcase(name, pattern) and (name in trained or not pretrained)
        ]

    @cached_property
    def full_name(self) -> str:
        """See `Source.full_name`."""
        if self.name not in _KNOWN:
            near = difflib.get_close_matches(self.name, _KNOWN, n=3, cutoff=0.4) or list(PAPER)
            raise ModelError(f"Unknown model {self.name!r}; did you mean {' or '.join(near)}?")
        return self.name

    def load(
        self,
        checkpoint: str | Path | None = None,
        pretrained: bool = True,
        *,
        seed: int = 0,
        regular_grid: bool = False,
    ) -> LoadedPointModel:
        """Load the network.

        Args:
            checkpoint: weights to take instead: a Lightning checkpoint of the authors' code (its
                own settings then count), a state dict or a safetensors file. Nothing in it is
                executed.
            pretrained: take the shipped weights; False gives random ones.
            seed: of random weights; the global random state is unchanged.
            regular_grid: see `load_checkpoint`.

        Raises:
            ModelError: if the name is unknown, there are no weights, or the checkpoint does not
                fit.
        """
        name = self.full_name
        chosen, data = _KNOWN[name], _DATA.get(name, "nbody")
        if checkpoint is not None:
            model, chosen = load_checkpoint(checkpoint, chosen, regular_grid=regular_grid)
            weights = f"checkpoint {Path(checkpoint).name}"
            return LoadedPointModel(model, name, name, weights, chosen, data)
        if pretrained and name not in training_records():
            raise ModelError(
                f"no weights of {name!r} ship with liederiv; give a checkpoint, or "
                "pretrained=False for random weights."
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

    def identity(self, pretrained: bool) -> dict[str, Any]:
        """See `Source.identity`: the content of the shipped file, None if none ships."""
        file = _folder() / f"{self.name}.safetensors"
        shipped = pretrained and file.is_file()
        return {"weights": hashlib.sha256(file.read_bytes()).hexdigest() if shipped else None}


@cache
def training_records() -> dict[str, dict[str, Any]]:
    """How each shipped variant was trained and what errors it has, by name."""
    text = (_folder() / "record.json").read_text(encoding="utf-8")
    return {record["name"]: record for record in json.loads(text)}


def _folder() -> Any:
    return resources.files("liederiv.model_zoo.rapidash") / "weights"
