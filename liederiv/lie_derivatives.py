r"""The Lie derivative of a function along the generators of a symmetry.

    L_X f(x) = d/dt|₀ ρ_{−t} f(T_t x) = J_f(x)·(X x) − X_out f(x)

It is zero for all x exactly when f is equivariant under the connected group. Source: Gruver,
Finzi, Goldblum & Wilson, arXiv 2210.02984. Departures from the paper's code are listed
in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from liederiv.base_representation import lie_value
from liederiv.batches import as_one
from liederiv.derivatives import Scheme
from liederiv.differentiation import Verification, sound_numerics, verified_pushforward
from liederiv.domains import domain_of
from liederiv.generators import Generator
from liederiv.renamed import renamed
from liederiv.representations import OutputSpec, Resolved, declared
from liederiv.resolution import resolve_output
from liederiv.structures import Measured, Part, is_structured, match_outputs

__all__ = ["LieDerivative", "lie_derivative", "lie_derivative_with_output"]


@dataclass(frozen=True)
class LieDerivative:
    """Lie derivatives together with what was computed on the way.

    Attributes:
        value: L f, like the output with a leading axis of K generators.
        output: f(x).
        pushforward: J_f(x)·(X x) alone, like `value`.
        representation: how ρ was known, per output tensor that is measured.
        verification: which engine differentiated, and how that was verified.
    """

    value: Any
    output: Any
    pushforward: Any
    representation: tuple[Resolved, ...]
    verification: Verification

    @property
    def engine(self) -> str:
        """Which engine differentiated (see `liederiv.differentiation.engines`)."""
        return self.verification.engine


@renamed(f="model", x="batches", generators="transforms")
def lie_derivative(
    model: Callable[[Any], Any],
    batches: Any,
    transforms: str | Generator | Iterable[str | Generator],
    *,
    scheme: str | Scheme = "bspline",
    output: OutputSpec = "auto",
    chunk_size: int | None = None,
    verify: bool = True,
) -> Any:
    """L_X f(x) for each generator X.

    Args:
        model: f, a model or function of the input; called on copies of x, never written to. Put an
            `nn.Module` in eval mode first.
        batches: x, images [B, C, H, W], float32 or float64, normalised as f expects, which need
            not be square; or a `PointCloud`; several batches, as `liederiv.measure` takes them,
            are one.
        transforms: names, groups (``"translation"``) or `Generator` objects, K in all.
        scheme: how images are continued between pixels, see `liederiv.derivatives`.
        output: representation ρ on the output: ``"auto"`` is what f declares by an attribute
            ``output_representation``, or what is unambiguous (nothing is, for point clouds);
            ``"invariant"``, ``"NCHW"``, ``"NHWC"``, ``"NHW"``, for point clouds ``"scalars"``,
            ``"vectors"``, ``"positions"``, a `Representation`; where f returns several tensors, a
            dict of these by its keys (a list or tuple by its positions), None for what is not to
            be measured. See `liederiv.representations.OutputSpec`.
        chunk_size: generators per forward-mode pass; None lets memory decide.
        verify: compare with f and its differences on one item of x first, once per function and
            size of input; False for who counts passes.

    Returns:
        Tensor [K, *f(x).shape] (or the structure of f(x) with such tensors, None where nothing is
        measured), detached; per unit of each generator's parameter.

    Raises:
        ImageError: if x is neither a floating [B, C, H, W] tensor nor a `PointCloud`.
        UnknownLayoutError: if it is not known how the group acts on the output.
        ModelError: if f is stochastic, in a training mode that matters, or if its rows are not
            those of the items of x.
        NotDifferentiableError: if no engine has the derivative of what f computes.

    Example:
        >>> import torch
        >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> mean = lambda x: x.mean((2, 3))
        >>> lie_derivative(mean, x, "translation", scheme="fourier").abs().max() < 1e-6
        tensor(True)
    """
    return lie_derivative_with_output(
        model,
        batches,
        transforms,
        scheme=scheme,
        output=output,
        chunk_size=chunk_size,
        verify=verify,
    ).value


@renamed(f="model", x="batches", generators="transforms")
def lie_derivative_with_output(
    model: Callable[[Any], Any],
    batches: Any,
    transforms: str | Generator | Iterable[str | Generator],
    *,
    scheme: str | Scheme = "bspline",
    output: OutputSpec = "auto",
    chunk_size: int | None = None,
    engine: str | None = None,
    verify: bool = True,
) -> LieDerivative:
    """`lie_derivative`, with the output, the pushforward and how they were obtained.

    Args:
        model: see `lie_derivative`.
        batches: see `lie_derivative`.
        transforms: see `lie_derivative`.
        scheme: see `lie_derivative`.
        output: see `lie_derivative`.
        chunk_size: see `lie_derivative`.
        engine: insist on one engine of `liederiv.differentiation.ENGINES`.
        verify: see `lie_derivative`.
    """
    f, x = model, as_one(batches)
    action = domain_of(x).action(transforms, x, scheme)
    x = x.detach()
    output = declared(f, output)
    g = Measured(f, output) if is_structured(output) else f
    with sound_numerics():
        done = verified_pushforward(
            g, x, action.tangents(x), action, chunk_size=chunk_size, engine=engine, verify=verify
        )
    y, jv = done.y, done.jv
    specs, rebuild = _structure(g, output, y)
    value, resolved = [], []
    for i, (spec, leaf, j) in enumerate(zip(specs, *map(_leaves, (y, jv)), strict=True)):
        alone = f if isinstance(y, Tensor) else Part(f, output, i)
        resolved.append(resolve_output(alone, x, spec, leaf, action))
        value.append(lie_value(resolved[-1].representation, action, leaf, j))
    out, pushed = rebuild(_leaves(y)), rebuild(_leaves(jv))
    return LieDerivative(rebuild(value), out, pushed, tuple(resolved), done.verification)


def _structure(
    g: Callable[[Any], Any], output: OutputSpec, y: Any
) -> tuple[list[OutputSpec], Callable[[list[Any]], Any]]:
    """The declaration of each tensor of y, and what makes the model's structure of such a list."""
    if isinstance(g, Measured):
        return g.parts.specs, g.parts.rebuild
    tree = tree_flatten(y)[1]
    return match_outputs(output, y).specs, lambda values: tree_unflatten(values, tree)


def _leaves(tree: Any) -> list[Tensor]:
    return tree_flatten(tree)[0]
