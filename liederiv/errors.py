"""Every error that liederiv raises on purpose derives from `LieDerivError`.

The message is one sentence that names the argument, the value found and the remedy. The command
line prints it on one line and exits with code 2.
"""

from __future__ import annotations

__all__ = [
    "ImageError",
    "InputError",
    "LieDerivError",
    "MissingExtraError",
    "ModelError",
    "NotDifferentiableError",
    "PointCloudError",
    "UnknownLayoutError",
]


class LieDerivError(Exception):
    """Base of all errors caused by the input, the model or the environment."""


class ModelError(LieDerivError):
    """A model cannot be loaded or cannot be measured (not in eval mode, stochastic, NaN, …)."""


class InputError(LieDerivError):
    """What is to be measured cannot be used; one kind for each kind of input."""


class ImageError(InputError):
    """Images cannot be found or read, or have an unusable shape or dtype."""


class PointCloudError(InputError):
    """A point cloud has fields of unusable shape, dtype or values, or no points."""


class UnknownLayoutError(LieDerivError):
    """How a group acts on a tensor is not known, so its equivariance error is undefined."""


class NotDifferentiableError(LieDerivError):
    """No derivative reaches the output: the model detaches it or is not a float function."""


class MissingExtraError(LieDerivError, ImportError):
    """A package that only an extra installs is missing."""
