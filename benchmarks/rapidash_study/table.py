"""Derived beside measured: the table of effective equivariance, and the curve over orientations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from liederiv.errors import ModelError
from liederiv.lie_derivatives import lie_derivative_with_output
from liederiv.model_zoo import load
from liederiv.model_zoo.inputs.clouds import load_clouds, nbody_cloud
from liederiv.model_zoo.inputs.nbody_data import NBodyData, nbody_data
from liederiv.model_zoo.rapidash.grids import orientation_grid
from liederiv.model_zoo.rapidash.inputs import RapidashOnClouds
from liederiv.model_zoo.rapidash.variants import VARIANTS, Variant
from liederiv.model_zoo.sources.rapidash_models import training_records
from liederiv.points import PointCloud

from .training import mean_squared_error

__all__ = [
    "MOTIONS",
    "LieErrors",
    "OrientationPoint",
    "VariantRow",
    "decay_exponent",
    "lie_errors",
    "orientation_curve",
    "symmetry_table",
    "table_frame",
    "with_orientations",
]

MOTIONS = ("translation", "rotation", "scale")


@dataclass(frozen=True)
class LieErrors:
    """How far a model is from equivariance under each kind of motion.

    Attributes:
        lee: mean of |L f|² over generators, points and components, by motion; in output units²
            per unit² (length, radian, log-scale) of the motion.
        relative: ‖L f‖ / ‖f‖ by motion, generators averaged in the square; 0 for an equivariant
            model, about 1 where the output changes by its own size per unit of the motion.
    """

    lee: dict[str, float]
    relative: dict[str, float]


def lie_errors(model: torch.nn.Module, clouds: PointCloud) -> LieErrors:
    """Measure translations, rotations and scale about the origin.

    Args:
        model: takes a `PointCloud` and has an `output_representation`.
        clouds: in the model's precision.
    """
    lee, relative = {}, {}
    for motion in MOTIONS:
        found = lie_derivative_with_output(model, clouds, motion)
        lee[motion] = float(found.value.square().mean())
        relative[motion] = math.sqrt(lee[motion] / float(found.output.square().mean()))
    return LieErrors(lee, relative)


@dataclass(frozen=True)
class VariantRow:
    """One trained variant: what follows from its construction and what is measured.

    Attributes:
        variant: configuration, inputs and derived symmetry.
        errors: Lie derivatives in float64.
        aligned: mean squared error on the test systems as they are, length².
        rotated: the same with every test system turned at random.
        baseline: error of the best multiple of the velocity, length².
    """

    variant: Variant
    errors: LieErrors
    aligned: float
    rotated: float
    baseline: float


def symmetry_table(
    names: Sequence[str] = (), systems: int = 64, progress: bool = False
) -> list[VariantRow]:
    """Measure trained variants on N-body test systems, and put the record's errors beside.

    Args:
        names: which; all by default.
        systems: how many test systems the Lie derivatives are averaged over.
        progress: show a progress bar.
    """
    clouds = load_clouds("nbody", systems).clouds.double()
    rows = []
    for name in tqdm(names or tuple(VARIANTS), unit="model", disable=not progress):
        loaded, record = load(name), training_records()[name]
        errors = lie_errors(loaded.model.double(), clouds)
        test, baseline = record["test"], record["baselines"]["fitted linear"]
        rows.append(VariantRow(loaded.variant, errors, test["aligned"], test["rotated"], baseline))
    return rows


def table_frame(rows: Sequence[VariantRow]) -> pd.DataFrame:
    """The table as a data frame; one row per variant, units in the column names."""
    records = []
    for row in rows:
        v, symmetry = row.variant, row.variant.symmetry
        entry: dict[str, object] = {
            "variant": v.name,
            "kernel": v.config.equivariance,
            "space": v.base_space,
            "inputs": v.described_inputs,
            "augmented": v.augment,
            "derived": symmetry.name,
            "derived rotation": symmetry.rotation,
        }
        entry |= {f"LEE {m} [length²]": row.errors.lee[m] for m in MOTIONS}
        entry |= {f"relative {m}": row.errors.relative[m] for m in MOTIONS}
        entry |= {
            "MSE aligned [length²]": row.aligned,
            "MSE rotated [length²]": row.rotated,
            "MSE linear motion [length²]": row.baseline,
        }
        records.append(entry)
    return pd.DataFrame(records)


def with_orientations(
    model: RapidashOnClouds, grid: int | Tensor, kind: str = "fibonacci"
) -> RapidashOnClouds:
    """The same weights on another grid of orientations; no weight depends on their number.

    Args:
        model: a network on Rⁿ × Sⁿ⁻¹.
        grid: number of orientations, or the unit vectors themselves [O, n].
        kind: which grid, where only the number is given.

    Returns:
        A copy in the model's precision, in evaluation mode.

    Raises:
        ModelError: if the model has no orientations.
    """
    config = model.config
    if not config.num_ori:
        raise ModelError("`model` has no orientations to change; take a variant on R³ × S².")
    if not isinstance(grid, Tensor):
        grid = orientation_grid(config.dim, grid, kind)
    state = model.net.state_dict()
    other = RapidashOnClouds(
        replace(config, num_ori=len(grid), grid=kind), model.inputs, model.output
    )
    other = other.to(state["readout.weight"])
    other.net.load_state_dict(state | {"sphere_grid": grid.to(state["sphere_grid"])})
    return other.eval().requires_grad_(False)


@dataclass(frozen=True)
class OrientationPoint:
    """One point of the curve.

    Attributes:
        orientations: how many.
        relative: ‖L f‖ / ‖f‖ under rotations.
        error: mean squared error on the test systems, length².
    """

    orientations: int
    relative: float
    error: float


def orientation_curve(
    model: RapidashOnClouds,
    variant: Variant,
    counts: Sequence[int] = (4, 6, 8, 12, 16, 24, 32, 48, 64),
    systems: int = 32,
    data: NBodyData | None = None,
) -> list[OrientationPoint]:
    """Rotation error of one set of weights over the number of orientations.

    Args:
        model: a network on R³ × S².
        variant: what it was trained on.
        counts: numbers of orientations.
        systems: how many N-body test systems.
        data: these systems instead.
    """
    data = nbody_data("test", systems) if data is None else data
    clouds = nbody_cloud(data)
    points = []
    for count in counts:
        other = with_orientations(model.double(), count)
        found = lie_derivative_with_output(other, clouds, "rotation")
        relative = math.sqrt(float(found.value.square().mean() / found.output.square().mean()))
        points.append(OrientationPoint(count, relative, mean_squared_error(variant, other, data)))
    return points


def decay_exponent(points: Sequence[OrientationPoint], least: int = 8) -> float:
    """P of the power law error ∝ O⁻ᵖ, fitted by least squares to the points from `least` on."""
    used = [p for p in points if p.orientations >= least]
    x = np.log([p.orientations for p in used])
    y = np.log([p.relative for p in used])
    return float(-np.polyfit(x, y, 1)[0])
