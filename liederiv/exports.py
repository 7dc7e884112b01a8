"""The public names of `liederiv`, imported when the first of them is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from liederiv._version import __version__
from liederiv.channels import CovectorChannels, Irreps, VectorChannels
from liederiv.derivatives import SCHEMES, get_scheme
from liederiv.differentiation import ForwardModeWarning, forward_mode, pushforward
from liederiv.errors import (
    ImageError,
    LieDerivError,
    MissingExtraError,
    ModelError,
    NotDifferentiableError,
    PointCloudError,
    UnknownLayoutError,
)
from liederiv.generators import GENERATORS, GROUPS, Generator, generator, resolve_generators
from liederiv.grids.domain import ImageDomain as ImageDomain  # images are the first kind of input
from liederiv.lie_derivatives import LieDerivative, lie_derivative, lie_derivative_with_output
from liederiv.measurement.measuring import measure
from liederiv.measurement.results import Measurement, Provenance, Score
from liederiv.points import PointCloud
from liederiv.representations import (
    Coordinates,
    Custom,
    FeatureMap,
    Invariant,
    Representation,
    TokenGrid,
)
from liederiv.training.penalty import equivariance_penalty, multitask_loss

if TYPE_CHECKING:
    from liederiv.training.metric import LocalEquivarianceError as LocalEquivarianceError

__all__ = [
    "GENERATORS",
    "GROUPS",
    "SCHEMES",
    "Coordinates",
    "CovectorChannels",
    "Custom",
    "FeatureMap",
    "ForwardModeWarning",
    "Generator",
    "ImageError",
    "Invariant",
    "Irreps",
    "LieDerivError",
    "LieDerivative",
    "Measurement",
    "MissingExtraError",
    "ModelError",
    "NotDifferentiableError",
    "PointCloud",
    "PointCloudError",
    "Provenance",
    "Representation",
    "Score",
    "TokenGrid",
    "UnknownLayoutError",
    "VectorChannels",
    "__version__",
    "equivariance_penalty",
    "forward_mode",
    "generator",
    "get_scheme",
    "lie_derivative",
    "lie_derivative_with_output",
    "measure",
    "multitask_loss",
    "pushforward",
    "resolve_generators",
]


def __getattr__(name: str) -> Any:
    """`LocalEquivarianceError` is loaded when it is first used: it needs the extra ``train``."""
    if name != "LocalEquivarianceError":
        raise AttributeError(f"module 'liederiv' has no attribute {name!r}")
    try:
        return import_module("liederiv.training.metric").LocalEquivarianceError
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("torchmetrics"):
            raise
        raise MissingExtraError(
            "liederiv.LocalEquivarianceError needs the package torchmetrics, which is not "
            "installed; pip install 'liederiv[train]'."
        ) from error
