"""Kinds of input: what the engine must know about images, about point clouds, about anything else.

A `Domain` is all that distinguishes one kind of input from another: how generators are bound to it,
which of an output's entries belong to which item of the batch, what to compare a tangent with.
`domain_of` finds it from the input's type. Everything else in liederiv is written once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from liederiv.actions import Action, ImageAction, check_images
from liederiv.derivatives import Scheme
from liederiv.draws import canonical_bytes, item_seeds, seeded_coordinates
from liederiv.errors import ImageError, LieDerivError
from liederiv.generators import IMAGES, Catalogue, Generator, resolve_generators
from liederiv.metrics.directions import blur, same_norm, same_spectrum, seeded_noise
from liederiv.representations import OutputSpec, Resolved, resolve
from liederiv.transforms import FiniteTransform

__all__ = [
    "Comparisons",
    "Domain",
    "ImageDomain",
    "Names",
    "domain_of",
    "pieces",
    "register_domain",
]

Names = str | Generator | Iterable[str | Generator]


@dataclass(frozen=True)
class Comparisons:
    """Directions of the input to compare a symmetry's tangents with.

    Attributes:
        tangents: M of them, like the input with a leading axis.
        read: turns the squared responses ‖J v‖²/dim [M, B] into those of the comparisons by name:
            ``noise`` [K, B], ``spectrum`` [K, B], ``blur`` [B]; those that make no sense on this
            kind of input are missing. And ``moves`` [K, B]: whether the tangents are not zero.
    """

    tangents: Any
    read: Callable[[Tensor], dict[str, Tensor]]


class Domain(ABC):
    """One kind of input.

    Attributes:
        item: what one of a batch is called, e.g. ``image``.
        probabilities: whether an output [B, n] is taken for class scores unless said otherwise.
    """

    item: str
    probabilities: bool = True

    @abstractmethod
    def check(self, x: Any, argument: str = "x") -> None:
        """Raise a `LieDerivError` unless x is a sound input."""

    @abstractmethod
    def catalogue(self, x: Any) -> Catalogue:
        """The generators that act on inputs like x."""

    @abstractmethod
    def bind(self, generators: Sequence[Generator], x: Any, scheme: str | Scheme) -> Action:
        """The action of resolved generators on x."""

    def action(
        self,
        generators: Names,
        x: Any,
        scheme: str | Scheme = "bspline",
        unit: Literal["pixel", "grid"] = "pixel",
    ) -> Action:
        """Check x, resolve names of generators and bind them to it."""
        self.check(x)
        found = resolve_generators(generators, unit=unit, catalogue=self.catalogue(x))
        return self.bind(found, x, scheme)

    @abstractmethod
    def resolve(self, output: OutputSpec, y: Tensor, action: Any) -> Resolved:
        """How the group acts on an output tensor.

        Raises:
            UnknownLayoutError: if it is not known.
        """

    @abstractmethod
    def rows(self, x: Any) -> tuple[int, ...]:
        """How many rows an output may have."""

    def separable(self, x: Any) -> bool:
        """Whether the rows of an output can be told apart by item."""
        return True

    def rows_of(self, x: Any, count: int, number: int) -> Tensor:
        """Which of ``count`` rows of an output (one of `rows`) belong to one item: int64 [n]."""
        return torch.tensor([number])

    @abstractmethod
    def sums(self, values: Tensor, action: Any, representation: Any) -> Tensor:
        """Sum over the entries of an output that belong to each item.

        Args:
            values: [M, *y.shape], one number per entry of the output y.
            action: on the input.
            representation: of the output.

        Returns:
            float64 [M, B].
        """

    def means(self, values: Tensor, action: Any, representation: Any) -> Tensor:
        """Mean over the entries of an output that belong to each item; see `sums`."""
        count = self.sums(torch.ones_like(values[:1]), action, representation)
        return self.sums(values, action, representation) / count

    @abstractmethod
    def contents(self, x: Any) -> Iterator[bytes]:
        """What each item is, as bytes: what its random numbers are drawn from."""

    def seeds(self, x: Any, seed: int, stream: str = "") -> list[int]:
        """One seed for each item, the same wherever it stands; see `liederiv.draws`.

        Args:
            x: the input.
            seed: the user's.
            stream: purpose of the draws; different ones are independent.
        """
        return item_seeds(self.contents(x), seed, stream)

    @abstractmethod
    def comparisons(
        self, x: Any, tangents: Any, action: Any, directions: int, seeds: Sequence[int]
    ) -> Comparisons:
        """Directions to compare the tangents with; seeds, one per item, decide the random ones."""

    @abstractmethod
    def transform(self, action: Any, t: Tensor) -> Any:
        """The finite transforms exp(Σ_k t_k X_k) for t [B, K], or [1, K] for all items alike."""

    @abstractmethod
    def sample(
        self,
        action: Any,
        x: Any,
        half_range: float | None,
        *,
        num_samples: int,
        seed: int,
    ) -> tuple[Iterator[Any], str]:
        """Random finite transforms for each item, and what they are.

        Args:
            action: on x; one generator, or all of a group where that makes sense.
            x: the input.
            half_range: largest |t| in the generators' unit; None stands for a customary range.
            num_samples: transforms per item.
            seed: of the draws, which belong to the items, see `seeds`.

        Raises:
            LieDerivError: without a range for a generator that has no customary one.
        """

    def rebind(self, action: Any, x: Any) -> Any:
        """The same generators on another input."""
        return self.bind(action.generators, x, "bspline")

    @abstractmethod
    def batch_size(self, x: Any) -> int:
        """Items per pass that fit memory and cache, where nobody says otherwise."""

    @abstractmethod
    def chunk_size(self, x: Any) -> int | None:
        """Tangents per pass beside x, likewise; None lets memory decide."""


class ImageDomain(Domain):
    """Images [B, C, H, W]."""

    item = "image"

    def check(self, x: Any, argument: str = "x") -> None:
        """See `Domain.check`."""
        if not isinstance(x, Tensor):
            raise ImageError(
                f"{argument} must be a tensor of images [B, C, H, W] or a PointCloud, not "
                f"{type(x).__name__}."
            )
        check_images(x, argument)
        if x.is_meta:
            return  # nothing to see; placement is another check
        fine = x.isfinite().flatten(1).all(1)
        if not fine.all():
            wrong = (~fine).nonzero().flatten().tolist()
            raise ImageError(
                f"{argument} has NaN or infinite pixels in {len(wrong)} of {len(x)} images (first: "
                f"number {wrong[0]}); repair or leave out those images."
            )

    def catalogue(self, x: Tensor) -> Catalogue:
        """See `Domain.catalogue`."""
        return IMAGES

    def bind(self, generators: Sequence[Generator], x: Tensor, scheme: str | Scheme) -> ImageAction:
        """See `Domain.bind`."""
        return ImageAction(generators, x.shape[-2], x.shape[-1], scheme)

    def resolve(self, output: OutputSpec, y: Tensor, action: ImageAction) -> Resolved:
        """See `Domain.resolve`."""
        return resolve(output, y, (action.height, action.width))

    def rows(self, x: Tensor) -> tuple[int, ...]:
        """See `Domain.rows`."""
        return (len(x),)

    def sums(self, values: Tensor, action: ImageAction, representation: Any) -> Tensor:
        """See `Domain.sums`."""
        return values.reshape(len(values), values.shape[1], -1).double().sum(-1)

    def contents(self, x: Tensor) -> Iterator[bytes]:
        """See `Domain.contents`."""
        return (canonical_bytes(image) for image in x)

    def comparisons(
        self,
        x: Tensor,
        tangents: Tensor,
        action: ImageAction,
        directions: int,
        seeds: Sequence[int],
    ) -> Comparisons:
        """See `Domain.comparisons`."""
        K = len(action)
        noises = seeded_noise(x, seeds, directions + 1)
        blocks = [torch.stack([same_norm(n) for n in noises[1:]])]
        blocks += [same_spectrum(tangents, noises[0]), blur(x, action.scheme)[None]]
        norms = tangents.flatten(2).double().square().sum(-1)

        def read(responses: Tensor) -> dict[str, Tensor]:
            return {
                "moves": norms > 0,
                "noise": responses[:directions].mean(0) * norms,
                "spectrum": responses[directions : directions + K],
                "blur": responses[-1],
            }

        return Comparisons(torch.cat(blocks), read)

    def transform(self, action: ImageAction, t: Tensor) -> FiniteTransform:
        """See `Domain.transform`."""
        return FiniteTransform(action, t)

    def sample(
        self,
        action: ImageAction,
        x: Tensor,
        half_range: float | None,
        *,
        num_samples: int,
        seed: int,
    ) -> tuple[Iterator[FiniteTransform], str]:
        """See `Domain.sample`."""
        (g,) = action.generators
        limit = _customary_range(g, x) if half_range is None else half_range
        seeds = self.seeds(x, seed, g.name)
        drawn = seeded_coordinates(seeds, [limit], num_samples=num_samples)
        moves = (FiniteTransform(action, t) for t in drawn)
        return moves, f"{g.name}, ±{limit:.4g} {g.unit}"

    def rebind(self, action: ImageAction, x: Tensor) -> ImageAction:
        """See `Domain.rebind`; images of one measurement are of one size."""
        return action

    def batch_size(self, x: Tensor) -> int:
        """See `Domain.batch_size`."""
        return 4 if x.device.type == "cpu" else 32

    def chunk_size(self, x: Tensor) -> int | None:
        """See `Domain.chunk_size`."""
        return max(1, _LANES // len(x)) if x.device.type == "cpu" else None


_LANES = 32  # images × tangents per pass on a CPU: more no longer fits its caches


def _customary_range(g: Generator, x: Tensor) -> float:
    sizes = {"translation_x": x.shape[-1], "translation_y": x.shape[-2]}
    if g.name in sizes:
        return 1 / 4 if g.unit == "half-width" else sizes[g.name] / 8
    if g.name == "rotation":
        return math.pi / 16
    raise LieDerivError(f"half_range is needed for {g.name}, in units of {g.unit}.")


_IMAGES = ImageDomain()
_DOMAINS: dict[type, Domain] = {}


def register_domain(kind: type, domain: Domain) -> None:
    """Let inputs of a type be measured."""
    _DOMAINS[kind] = domain


def domain_of(x: Any) -> Domain:
    """The kind of input that x is; what is of no registered type is checked as images are."""
    for kind in type(x).__mro__:
        if kind in _DOMAINS:
            return _DOMAINS[kind]
    return _IMAGES


def pieces(x: Any, size: int | None = None) -> Iterator[Any]:
    """Parts of a batch, in order, of ``size`` items or of a size that fits memory and cache."""
    step = size or domain_of(x).batch_size(x)
    for start in range(0, len(x), step):
        yield x[start : start + step]
