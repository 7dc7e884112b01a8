"""Kinds of input: what the engine must know about images, about point clouds, about anything else.

A `Domain` is all that distinguishes one kind of input from another: which inputs are of it, which
generators act on them and how, which of an output's entries belong to which item of the batch, what
to compare a tangent with, which transforms no derivative sees. It is registered once, by
`register_domain`, and `domain_of` asks each whether an input is of its kind. Everything else in
liederiv is written once.

An input has a length (its items), slices, ``dtype``, ``device``, ``detach()`` and ``double()``, and
is a tensor or a pytree whose leaves are the tensors that a derivative may enter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.actions import Action
from liederiv.derivatives import Scheme
from liederiv.draws import canonical_bytes, item_seeds, seeded_coordinates, seeded_normal
from liederiv.errors import LieDerivError, UnknownLayoutError
from liederiv.generators import Catalogue, Generator, resolve_generators
from liederiv.metrics.values import DiscreteCheck
from liederiv.representations import Invariant, OutputSpec, Representation, Resolved
from liederiv.steps import Step, default_grid, unit_of

__all__ = [
    "DOMAINS",
    "Comparisons",
    "Domain",
    "Names",
    "declared_domain",
    "domain_of",
    "is_input",
    "known_domains",
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

    What has a default here fits tensors, and pytrees of tensors, with the items in front.

    Attributes:
        item: what one of a batch is called, e.g. ``image``.
        catalogues: the generators that act on such inputs; several if they depend on the input.
        probabilities: whether an output [B, n] is taken for class scores unless said otherwise.
        uncompared: why directions of `Comparisons` are missing, for results.
        reference_transform: the group under which the `reference` network is invariant.
        sampled: generators, or groups of them, whose finite transforms `sampled_error` draws.
        viewed: what the `views` are, in short.
        is_images: whether inputs are tensors [B, C, H, W], to which metrics of images apply.
    """

    item: str
    catalogues: tuple[Catalogue, ...]
    probabilities: bool = True
    uncompared: str = "there is nothing of the kind for these inputs; compare relative_norm"
    reference_transform: str = ""
    sampled: tuple[str, ...] = ()
    viewed: str = "any"
    is_images: bool = False

    @abstractmethod
    def accepts(self, x: Any) -> bool:
        """Whether x looks like an input of this kind; `check` says whether it is a sound one."""

    @abstractmethod
    def check(self, x: Any, argument: str = "x") -> None:
        """Raise an `InputError` unless x is a sound input."""

    def catalogue(self, x: Any) -> Catalogue:
        """The generators that act on inputs like x."""
        (only,) = self.catalogues
        return only

    @abstractmethod
    def bind(self, generators: Sequence[Generator], x: Any, scheme: str | Scheme) -> Action:
        """The action of resolved generators on x.

        Where tangents come with the data, the action reads them off x in `Action.tangents`.
        """

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

    def resolve(self, output: OutputSpec, y: Tensor, action: Any) -> Resolved:
        """How the group acts on an output tensor; by default, what is declared and nothing else.

        Raises:
            UnknownLayoutError: if it is not known.
        """
        if isinstance(output, Resolved):
            return output
        if isinstance(output, str) and output == "invariant":
            output = Invariant()
        if isinstance(output, Representation):
            return Resolved(output, "declared")
        raise UnknownLayoutError(
            f"how the output of shape {list(y.shape)} transforms is unknown (output={output}); "
            "declare it: output='invariant', a Representation, or an attribute "
            "output_representation of the model."
        )

    def rows(self, x: Any) -> tuple[int, ...]:
        """How many rows an output may have."""
        return (len(x),)

    def separable(self, x: Any) -> bool:
        """Whether the rows of an output can be told apart by item."""
        return True

    def rows_of(self, x: Any, count: int, number: int) -> Tensor:
        """Which of ``count`` rows of an output (one of `rows`) belong to one item: int64 [n]."""
        return torch.tensor([number])

    def sums(self, values: Tensor, action: Any, representation: Any) -> Tensor:
        """Sum over the entries of an output that belong to each item.

        Args:
            values: [M, *y.shape], one number per entry of the output y.
            action: on the input.
            representation: of the output.

        Returns:
            float64 [M, B].
        """
        return values.reshape(len(values), values.shape[1], -1).double().sum(-1)

    def means(self, values: Tensor, action: Any, representation: Any) -> Tensor:
        """Mean over the entries of an output that belong to each item; see `sums`."""
        count = self.sums(torch.ones_like(values[:1]), action, representation)
        return self.sums(values, action, representation) / count

    def contents(self, x: Any) -> Iterator[bytes]:
        """What each item is, as bytes: what its random numbers are drawn from."""
        leaves = tree_flatten(x)[0]
        return (b"".join(canonical_bytes(v[b]) for v in leaves) for b in range(len(x)))

    def fields(self, x: Any) -> Iterator[tuple[str, Tensor]]:
        """All tensors of each item with their names: what makes two inputs the same to the bit."""
        leaves = tree_flatten(x)[0]
        return (("", v[b]) for b in range(len(x)) for v in leaves)

    def seeds(self, x: Any, seed: int, stream: str = "") -> list[int]:
        """One seed for each item, the same wherever it stands; see `liederiv.draws`.

        Args:
            x: the input.
            seed: the user's.
            stream: purpose of the draws; different ones are independent.
        """
        return item_seeds(self.contents(x), seed, stream)

    def comparisons(
        self, x: Any, tangents: Any, action: Any, directions: int, seeds: Sequence[int]
    ) -> Comparisons:
        """Directions to compare the tangents with; seeds, one per item, decide the random ones.

        By default Gaussian noise of each tangent's norm, item by item.
        """
        leaves, tree = tree_flatten(x)
        noise = seeded_normal(seeds, (directions, sum(v[0].numel() for v in leaves))).movedim(1, 0)
        noise = noise / noise.norm(dim=-1, keepdim=True)
        parts = noise.split([v[0].numel() for v in leaves], -1)
        drawn = [p.reshape(-1, *v.shape).to(v) for p, v in zip(parts, leaves, strict=True)]
        moving = [v.flatten(2).double().square().sum(-1) for v in tree_flatten(tangents)[0]]
        norms = torch.stack(moving).sum(0)

        def read(responses: Tensor) -> dict[str, Tensor]:
            return {"moves": norms > 0, "noise": responses.mean(0) * norms}

        return Comparisons(tree_unflatten(drawn, tree), read)

    def step_grid(self, g: Generator, x: Any) -> Sequence[float]:
        """Sizes of steps over which the error of g is followed, ascending; see `liederiv.steps`."""
        return default_grid(unit_of(g.unit))

    def out_of_sight(
        self, generators: Sequence[Generator], plan: Sequence[Sequence[Step]], x: Any
    ) -> list[str]:
        """Warnings about chosen steps so large that little of x is left in both of their ends."""
        return []

    def step_noise(self, x: Any, moved: Any, action: Any, seeds: Sequence[int]) -> dict[str, Any]:
        """Displacements to compare a finite one with, by the names of `Comparisons`.

        By default Gaussian noise of its norm, item by item.

        Args:
            x: the input.
            moved: T_{h/2} x − T_{−h/2} x, like x.
            action: the one generator that has moved it.
            seeds: one per item.
        """
        drawn = self.comparisons(x, tree_map(lambda v: v[None], moved), action, 1, seeds)
        squares = [v.flatten(1).double().square().sum(1) for v in tree_flatten(moved)[0]]
        norms = torch.stack(squares).sum(0).sqrt()

        def sized(v: Tensor) -> Tensor:
            return v[0] * norms.to(v).reshape(-1, *[1] * (v.ndim - 2))

        return {"noise": tree_map(sized, drawn.tangents)}

    def transform(self, action: Any, t: Tensor) -> Any:
        """The finite transforms exp(Σ_k t_k X_k) for t [B, K], or [1, K] for all items alike.

        Raises:
            LieDerivError: where there are none.
        """
        raise LieDerivError(f"finite transforms of {self.item}s are not known; measure lee.")

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
        (g,) = action.generators
        limit = self.customary_range(g, x) if half_range is None else half_range
        seeds = self.seeds(x, seed, g.name)
        drawn = seeded_coordinates(seeds, [limit], num_samples=num_samples)
        return (self.transform(action, t) for t in drawn), f"{g.name}, ±{limit:.4g} {g.unit}"

    def customary_range(self, g: Generator, x: Any) -> float:
        """How far a generator moves x where nobody says, in its unit.

        Raises:
            LieDerivError: if there is no such custom.
        """
        raise LieDerivError(f"half_range is needed for {g.name}, in units of {g.unit}.")

    def orbit_range(self, g: Generator, x: Any) -> float | None:
        """How far an orbit is followed where nobody says, in g's unit; None: as is usual."""
        return None

    def discrete(
        self, f: Callable[[Any], Tensor], x: Any, output: OutputSpec
    ) -> Sequence[DiscreteCheck]:
        """How exactly the symmetries hold that no path of transforms leads to; none by default."""
        return ()

    def views(
        self, x: Any, seed: int, scheme: str | Scheme
    ) -> Iterable[tuple[str, Iterable[Any] | str]]:
        """Transformed copies of x that a decision should not tell apart, with what they are.

        Where a kind of view makes no sense for x, the reason stands in place of the copies.
        """
        return ()

    def reference(self, x: Any) -> Callable[[Any], Tensor] | None:
        """A network that is invariant under `reference_transform` exactly; None without one."""
        return None

    def rebind(self, action: Any, x: Any) -> Any:
        """The same generators on another input."""
        return self.bind(action.generators, x, "bspline")

    def batch_size(self, x: Any) -> int:
        """Items per pass that fit memory and cache, where nobody says otherwise."""
        return 4 if x.device.type == "cpu" else 32

    def chunk_size(self, x: Any) -> int | None:
        """Tangents per pass beside x, likewise; None lets memory decide."""
        return max(1, _LANES // len(x)) if x.device.type == "cpu" else None


_LANES = 32  # items × tangents per pass on a CPU: more images no longer fit its caches

DOMAINS: list[Domain] = []
"""The kinds of input that are known by now; `known_domains` has those of liederiv first."""

_OURS = ("liederiv.grids.domain", "liederiv.points.domain")  # importing them registers their kinds

_DECLARED: ContextVar[Domain | None] = ContextVar("declared domain", default=None)


def register_domain(domain: Domain, *, speaks: bool = False) -> None:
    """Let inputs of a kind be measured.

    Args:
        domain: the kind.
        speaks: it says what is missing where no kind accepts an input.
    """
    if speaks:
        DOMAINS.insert(0, domain)
    else:
        DOMAINS.append(domain)


def known_domains() -> list[Domain]:
    """The kinds of input that are known; the first speaks where none of them accepts an input."""
    _load_ours()
    return DOMAINS


@cache
def _load_ours() -> None:
    for module in _OURS:
        import_module(module)


@contextmanager
def declared_domain(domain: Domain) -> Iterator[None]:
    """Say of which kind inputs are, for as long as the context lasts, whatever they look like."""
    token = _DECLARED.set(domain)
    try:
        yield
    finally:
        _DECLARED.reset(token)


def domain_of(x: Any) -> Domain:
    """The kind of input that x is: the declared one, or the one that accepts it.

    What none accepts is given to the first of `known_domains`; its `Domain.check` says what is
    missing.

    Raises:
        LieDerivError: if several accept it.
    """
    declared = _DECLARED.get()
    if declared is not None:
        return declared
    found = [domain for domain in known_domains() if domain.accepts(x)]
    if len(found) > 1:
        kinds = " and ".join(domain.item for domain in found)
        raise LieDerivError(
            f"x, a {type(x).__name__}, may be of several kinds ({kinds}); say which one in a "
            "context `with liederiv.domains.declared_domain(domain):`."
        )
    return (found or DOMAINS)[0]


def is_input(x: Any) -> bool:
    """Whether x is one batch of inputs rather than a list or loader of such."""
    kinds = (*known_domains(), *filter(None, [_DECLARED.get()]))
    return isinstance(x, Tensor) or any(domain.accepts(x) for domain in kinds)


def pieces(x: Any, size: int | None = None) -> Iterator[Any]:
    """Parts of a batch, in order, of ``size`` items or of a size that fits memory and cache."""
    step = size or domain_of(x).batch_size(x)
    for start in range(0, len(x), step):
        yield x[start : start + step]
