"""Repairs: how a module that breaks a symmetry can be replaced by one that does so less.

A repair knows its name and which modules it applies to. It keeps the weights and the sampling
phase, so that the repaired network computes almost what it did before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from liederiv.errors import LieDerivError

from ..layers.layouts import Layout
from ..layers.sites import Site, stride_of
from ..layers.windows import WINDOWED, Window
from .alias_free import AliasFreeActivation, AliasFreeMaxPool, Filtered
from .padding import ContinuedLayer
from .resampling import Boundary

__all__ = [
    "REPAIRS",
    "AliasFree",
    "Blur",
    "LowPass",
    "MeanPosition",
    "Padding",
    "Repair",
    "RepairSpec",
    "resolve_repairs",
]


@dataclass(frozen=True)
class Repair(ABC):
    """A way to repair modules."""

    name: ClassVar[str]
    applies_to: ClassVar[str]

    @abstractmethod
    def apply(self, module: nn.Module, site: Site) -> nn.Module | None:
        """The replacement, which may hold the module itself or be it; None if it does not apply.

        Args:
            module: of the copy that is being repaired; may be changed.
            site: its place.
        """


@dataclass(frozen=True)
class AliasFree(Repair):
    """Pointwise nonlinearities and max pooling on a finer grid; see `alias_free`.

    Attributes:
        factor: how many times finer. For an activation 1 is no repair at all.
        boundary: how maps are continued.
    """

    factor: int = 2
    boundary: Boundary = "mirror"
    name = "alias_free"
    applies_to = "elementwise nonlinearities (on maps or recognised tokens) and max pooling"

    def apply(self, module: nn.Module, site: Site) -> nn.Module | None:
        """See `Repair.apply`."""
        if isinstance(module, nn.MaxPool2d):
            return AliasFreeMaxPool(module, self.factor, "low_pass", self.boundary)
        layout = site.layout or (None if site.inputs or site.why else Layout("NCHW"))
        if layout is None or not site.is_pointwise_nonlinearity(module):
            return None
        return AliasFreeActivation(module, self.factor, self.boundary, layout)


@dataclass(frozen=True)
class LowPass(Repair):
    """An ideal low-pass to the coarser grid's Nyquist limit before the stride.

    Attributes:
        boundary: how maps are continued.
    """

    boundary: Boundary = "mirror"
    name = "low_pass"
    applies_to = "strided affine layers (convolutions, average pooling) and max pooling"

    def apply(self, module: nn.Module, site: Site) -> nn.Module | None:
        """See `Repair.apply`."""
        return _filtered(module, site, self.name, self.boundary)


@dataclass(frozen=True)
class Blur(Repair):
    """A small blur before the stride: Zhang, arXiv 1904.11486.

    In front of a strided convolution (blur and convolution commute; Zhang blurs after the
    activation that follows), and between dense max pooling and its subsampling, as there.

    Attributes:
        boundary: how maps are continued.
    """

    boundary: Boundary = "mirror"
    name = "blur"
    applies_to = LowPass.applies_to

    def apply(self, module: nn.Module, site: Site) -> nn.Module | None:
        """See `Repair.apply`."""
        return _filtered(module, site, self.name, self.boundary)


def _filtered(module: nn.Module, site: Site, kind: str, boundary: Boundary) -> nn.Module | None:
    if isinstance(module, nn.MaxPool2d):
        if max(Window.of(module).stride) == 1:
            return None
        return AliasFreeMaxPool(module, 1, kind, boundary)
    stride = stride_of(module, site)
    return None if stride is None else Filtered(module, stride, kind, boundary)


@dataclass(frozen=True)
class Padding(Repair):
    """Another continuation of the map instead of zero padding.

    Attributes:
        boundary: ``periodic`` (circular padding; for theory, since photographs do not wrap) or
            ``mirror``, which is how the default scheme continues maps.
    """

    boundary: Boundary = "periodic"
    name = "padding"
    applies_to = "two-dimensional convolutions and pooling with padding of another mode"

    def apply(self, module: nn.Module, site: Site) -> nn.Module | None:
        """See `Repair.apply`."""
        if not isinstance(module, WINDOWED):
            return None
        window = Window.of(module)
        sizes = [(z.shape[2], z.shape[3]) for z, _ in site.inputs] or [(64, 64), (65, 65)]
        padded = any(sum(window.padding(a, size[a])) for size in sizes for a in (0, 1))
        circular = getattr(module, "padding_mode", "zeros") == "circular"
        if not padded or (circular and self.boundary == "periodic"):
            return None
        return ContinuedLayer(module, self.boundary)


@dataclass(frozen=True)
class MeanPosition(Repair):
    """Gives every patch the mean positional embedding.

    What breaks translation in a learned embedding is its deviation from the mean over positions;
    the mean is a bias, which all generators annihilate. The deviation is removed, the mean and the
    rows of prefix tokens stay.
    """

    name = "mean_position"
    applies_to = "modules with a learned pos_embed [1, tokens, C] (the whole model's path is '')"

    def apply(self, module: nn.Module, site: Site) -> nn.Module | None:
        """See `Repair.apply`."""
        embedding = getattr(module, "pos_embed", None)
        if not isinstance(embedding, Tensor) or embedding.ndim != 3:
            return None
        prefix = _prefix_rows(module, embedding.shape[1])
        if prefix is None:
            return None
        with torch.no_grad():
            patches = embedding[:, prefix:]
            patches.copy_(patches.mean(1, keepdim=True).expand_as(patches))
        return module


def _prefix_rows(module: nn.Module, rows: int) -> int | None:
    """Rows of a positional embedding that belong to prefix tokens; None if that is not known."""
    patches = getattr(getattr(module, "patch_embed", None), "num_patches", None)
    prefixes = [rows - patches] if isinstance(patches, int) else [0, 1, 2]
    declared = getattr(module, "num_prefix_tokens", None)
    allowed = {0, declared} if isinstance(declared, int) else {0, 1, 2}
    square = [p for p in prefixes if p in allowed and (patches or _is_square(rows - p))]
    return square[0] if len(square) == 1 else None


def _is_square(n: int) -> bool:
    return n > 0 and round(n**0.5) ** 2 == n


REPAIRS: dict[str, tuple[Repair, ...]] = {
    "alias_free": (AliasFree(),),
    "low_pass": (LowPass(),),
    "blur": (Blur(),),
    "circular_padding": (Padding(),),
    "mirror_padding": (Padding("mirror"),),
    "mean_position": (MeanPosition(),),
    "auto": (AliasFree(), LowPass(), MeanPosition()),
}
"""Repairs by name; ``auto`` takes the first that applies to a module."""

RepairSpec = str | Repair | Sequence[str | Repair]


def resolve_repairs(repair: RepairSpec) -> tuple[Repair, ...]:
    """Repairs to be tried in order.

    Raises:
        LieDerivError: for an unknown name, or none.

    Example:
        >>> [r.name for r in resolve_repairs("auto")]
        ['alias_free', 'low_pass', 'mean_position']
    """
    found: list[Repair] = []
    for item in [repair] if isinstance(repair, str | Repair) else repair:
        if isinstance(item, Repair):
            found.append(item)
        elif item in REPAIRS:
            found += REPAIRS[item]
        else:
            raise LieDerivError(f"repair={item!r} is unknown; choose from {', '.join(REPAIRS)}.")
    if not found:
        raise LieDerivError(f"repair is empty; choose from {', '.join(REPAIRS)}.")
    return tuple(found)
