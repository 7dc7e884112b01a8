"""Read the authors' checkpoints: settings as data, weights by name, nothing executed.

A Lightning checkpoint keeps the settings of the training script under `hyper_parameters` and puts
`net.` in front of every tensor's name; a bare state dict needs the configuration to be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from liederiv.errors import ModelError

from ..weights.checkpoints import Checkpoint, read_checkpoint
from ..weights.files import shown
from ..weights.fitting import find_weights, load_weights
from ..weights.parts import Target
from ..weights.state import Mismatch
from .inputs import RapidashInputs, RapidashOnClouds
from .presets import PAPER
from .variants import Variant

__all__ = ["load_checkpoint", "variant_from_settings"]

# What sets the settings of the three training scripts apart.
_SIGNS = {
    "rapidash_shapenet": "use_category",
    "rapidash_cmu": "all_joint_normals",
    "rapidash_qm9": "target",
}
_SAME_NAME = (
    "hidden_dim",
    "edge_types",
    "equivariance",
    "ratios",
    "degree",
    "layer_scale",
    "skip_connections",
    "basis_dim",
    "basis_hidden_dim",
)
_OTHER_NAME = {"layers": "num_layers", "orientations": "num_ori", "widening": "widening_factor"}


def variant_from_settings(settings: Mapping[str, Any], base: Variant | None = None) -> Variant:
    """The network that a training script's settings describe.

    Args:
        settings: `hyper_parameters` of a checkpoint.
        base: the task's configuration; None recognises ShapeNet, QM9 and CMU by their settings.

    Returns:
        The variant, with the authors' conventions for windows, for the flow between nearest
        neighbours and for the second invariant in 2-D.

    Raises:
        ModelError: if the task is not recognised or a setting is unusable.
    """
    if base is None:
        found = [name for name, sign in _SIGNS.items() if sign in settings]
        if not found:
            raise ModelError(
                "the checkpoint's settings belong to none of the tasks "
                f"{', '.join(PAPER)}; name the configuration that the weights belong to."
            )
        base = PAPER[found[0]]
    inputs = _inputs(settings, base)
    oriented = int(settings.get("orientations", base.config.num_ori)) > 0
    changes: dict[str, Any] = {k: settings[k] for k in _SAME_NAME if k in settings}
    changes |= {ours: settings[k] for k, ours in _OTHER_NAME.items() if k in settings}
    if base.output == "vector":
        changes |= {"output_dim": 0 if oriented else 3, "output_dim_vec": int(oriented)}
    changes |= {"window": "invariants", "orthogonal_2d": "sum", "knn_flow": "send"}
    changes["input_dim"] = sum(inputs.width(base.config.dim))
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    augment = bool(settings.get("train_augm", base.augment))
    return replace(base, config=replace(base.config, **changes), inputs=inputs, augment=augment)


def _inputs(settings: Mapping[str, Any], base: Variant) -> RapidashInputs:
    def features(key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f for f in settings.get(key, default) if f)  # the scripts write [None]

    invariants = base.inputs.invariants if settings.get("use_category", True) else ()
    return RapidashInputs(
        invariants,
        features("scalar_features", base.inputs.scalars),
        features("vector_features", base.inputs.vectors),
    )


def load_checkpoint(
    path: str | Path, base: Variant | None = None, *, regular_grid: bool = False
) -> tuple[RapidashOnClouds, Variant]:
    """Build the network that a checkpoint describes and load its weights.

    Args:
        path: Lightning checkpoint, state dict or safetensors file.
        base: configuration of the task; needed where the file says nothing about it.
        regular_grid: take the configuration's own grid where the file has none.

    Returns:
        The network in evaluation mode, and its configuration.

    Raises:
        ModelError: if the file is unusable or does not fit.
    """
    file = read_checkpoint(path)
    if file.hyper_parameters:
        chosen = variant_from_settings(file.hyper_parameters, base)
    elif base is not None:
        chosen = base
    else:
        raise ModelError(
            f"`checkpoint` {file.path} holds no settings; name the configuration that the weights "
            "belong to."
        )
    model = chosen.build()
    _require_grid(file, chosen, regular_grid)
    absent = ("sphere_grid",) if regular_grid else ()
    found = find_weights(file, model.net, Target.of(model.net, absent=absent))
    if isinstance(found, Mismatch):
        raise ModelError(
            f"`checkpoint` {shown(file.path)} does not fit {chosen.name!r}: {found.describe()}; "
            "check that settings and weights belong together."
        )
    load_weights(file, found, model.net)
    return model.eval().requires_grad_(False), chosen


def _require_grid(file: Checkpoint, chosen: Variant, regular_grid: bool) -> None:
    """A grid of orientations that was not saved is not made up silently."""
    has_grid = any(entry.path[-1] == "sphere_grid" for entry in file.entries)
    if chosen.config.num_ori and not has_grid and not regular_grid:
        raise ModelError(
            f"`checkpoint` {shown(file.path)} has no `sphere_grid`, and its weights belong to the "
            "orientations they were trained on; set regular_grid=True if those were the "
            f"{chosen.config.grid} grid."
        )
