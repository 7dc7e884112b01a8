r"""Local metrics: what the Lie derivative says about one batch of images or point clouds.

* ``lee``: local equivariance error, E_x ‖L_X f(x)‖² / dim(out). Unit: (unit of the output)² per
  (unit of the generator)². For a group of generators (translation) it is the mean over them, the
  error along a random direction of the group. Source: Gruver et al., arXiv 2210.02984.
* ``mean_abs``: E_x mean |L_X f(x)|, what the paper's code reports. Source: its public code.
* ``relative_norm``: lee divided by the same quantity along Gaussian noise of the tangent's norm.
  Dimensionless; 1 means that the network reacts to the symmetry as to noise.
* ``relative_spectrum``: the same along the tangent with scrambled Fourier phases, so noise with
  the frequencies and colours of the symmetry's own tangent. Images only.
* ``blur_response``: E ‖J_f (½ Δx)‖² / dim, the response to a small blur, per (px²)². Images only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from liederiv.actions import Action
from liederiv.domains import Comparisons, Domain, domain_of
from liederiv.errors import ModelError
from liederiv.forward_mode import Verification, sound_numerics, verified_pushforward
from liederiv.forward_mode.models import ModePolicy
from liederiv.representations import OutputSpec, Representation, Resolved, hints_of
from liederiv.resolution import resolve_output

__all__ = [
    "NOT_ONE_TENSOR",
    "Linearised",
    "LocalBatch",
    "assumed_classes",
    "class_axis",
    "is_classifier",
    "lie_value",
    "linearise",
    "local_batch",
    "softmax_pushforward",
]

NOT_ONE_TENSOR = (
    "the model returns a {kind}, not one tensor; wrap it so that it returns the tensor to be "
    "measured, e.g. lambda x: model(x)['out']."
)


@dataclass(frozen=True)
class LocalBatch:
    """Squared responses per image (or cloud), divided by the output's dimension.

    Attributes:
        lie: ‖L_X f‖²/dim, float64 [K, B].
        lie_abs: mean |L_X f|, float64 [K, B].
        noise: ‖J r‖²/dim along noise of each tangent's norm, [K, B]; None if not asked for.
        spectrum: the same along phase-scrambled tangents, [K, B]; None if not asked for, or if the
            input has no spectrum.
        blur: ‖J ½Δx‖²/dim, [B]; None likewise.
        moves: whether X x is not zero, bool [K, B]: a flat image stands still under translation,
            and there is nothing to compare a response with. None likewise.
    """

    lie: Tensor
    lie_abs: Tensor
    noise: Tensor | None = None
    spectrum: Tensor | None = None
    blur: Tensor | None = None
    moves: Tensor | None = None


def softmax_pushforward(y: Tensor, jv: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Probabilities p = softmax(y) along ``dim`` and their pushforward (diag p − ppᵀ) jv."""
    p = y.softmax(dim)
    weighted = jv * p
    return p, weighted - p * weighted.sum(dim if dim < 0 else dim + 1, keepdim=True)


def lie_value(
    rho: Representation, action: Action, y: Tensor, jv: Tensor, *, probabilities: bool
) -> Tensor:
    """L f = J X x − X_out f from the output y, for y itself or for its softmax: [K, *y.shape]."""
    if probabilities:
        y, jv = softmax_pushforward(y, jv, class_axis(y, rho))
    return jv - rho.act(action, y)


@dataclass(frozen=True)
class Linearised:
    """What one call of the engine says about one batch.

    Attributes:
        y: f(x).
        jv: J_f(x)·(X x) for the K generators, [K, *y.shape].
        others: the comparison directions, if asked for.
        others_jv: J_f(x)·v along those, [M, *y.shape]; empty without.
        resolved: how the group acts on y.
        verification: which engine differentiated, and how that was verified.
        errors: of finite differences: root mean square error per entry of J_f(x)·(X x), float64
            [K]; None for engines that are exact to rounding.
    """

    y: Tensor
    jv: Tensor
    others: Comparisons | None
    others_jv: Tensor
    resolved: Resolved
    verification: Verification
    errors: Tensor | None = None


def linearise(
    f: Callable[[Any], Tensor],
    x: Any,
    action: Action,
    *,
    output: OutputSpec = "auto",
    relative: bool = True,
    directions: int = 2,
    seeds: Sequence[int] = (),
    chunk_size: int | None = None,
    engine: str | None = None,
    verify: bool = True,
    mode: ModePolicy = "compare",
) -> Linearised:
    """Pushforwards along the generators and the comparison directions; see `local_batch`.

    Raises:
        ModelError: if the output is not one tensor.
        UnknownLayoutError: if it is not known how the group acts on it.
    """
    K, domain = len(action), domain_of(x)
    with sound_numerics():
        tangents = moved = action.tangents(x)
        others = None
        if relative:
            others = domain.comparisons(x, tangents, action, directions, seeds)
            moved = tree_map(lambda *parts: torch.cat(parts), tangents, others.tangents)
        pushed = verified_pushforward(
            f,
            x,
            moved,
            action,
            chunk_size=chunk_size,
            engine=engine,
            verify=verify,
            mode=mode,
        )
    y, jv = pushed.y, pushed.jv
    if not isinstance(y, Tensor):
        raise ModelError(NOT_ONE_TENSOR.format(kind=type(y).__name__))
    resolved = resolve_output(f, x, output, y, action)
    errors = None if pushed.errors is None else pushed.errors[:K]
    return Linearised(y, jv[:K], others, jv[K:], resolved, pushed.verification, errors)


def local_batch(
    f: Callable[[Any], Tensor],
    x: Any,
    action: Action,
    *,
    output: OutputSpec = "auto",
    output_types: Sequence[str] = ("output",),
    relative: bool = True,
    directions: int = 2,
    seeds: Sequence[int] = (),
    chunk_size: int | None = None,
    engine: str | None = None,
    verify: bool = True,
    mode: ModePolicy = "compare",
) -> tuple[dict[str, LocalBatch], Linearised]:
    """Lie derivatives and comparison directions of one batch, in one call of the engine.

    Args:
        f: the model; one output tensor.
        x: images [B, C, H, W] or B point clouds.
        action: K generators, bound to x.
        output: representation of the output.
        output_types: of ``probs`` (softmax over the class axis), ``logits``, ``features``,
            ``output``; all but the first are the model's output as it is.
        relative: whether to add the comparison directions.
        directions: number of noise directions per image or cloud.
        seeds: one per image or cloud, for the noise.
        chunk_size: tangents per forward-mode pass.
        engine: see `liederiv.forward_mode`.
        verify: see `liederiv.forward_mode.verified_pushforward`.
        mode: see there.

    Returns:
        one `LocalBatch` per output type, and what they were made of.
    """
    lin = linearise(
        f,
        x,
        action,
        output=output,
        relative=relative,
        directions=directions,
        seeds=seeds,
        chunk_size=chunk_size,
        engine=engine,
        verify=verify,
        mode=mode,
    )
    domain, y, jv, rho = domain_of(x), lin.y, lin.jv, lin.resolved.representation
    out: dict[str, LocalBatch] = {}
    for kind in output_types:
        probs = kind == "probs"
        lie = lie_value(rho, action, y, jv, probabilities=probs).double()
        found = {}
        if lin.others is not None:
            other = lin.others_jv
            other = softmax_pushforward(y, other, class_axis(y, rho))[1] if probs else other
            found = lin.others.read(domain.means(other.double().square(), action, rho))
        out[kind] = LocalBatch(
            domain.means(lie.square(), action, rho).cpu(),
            domain.means(lie.abs(), action, rho).cpu(),
            **{name: v.cpu() for name, v in found.items()},
        )
    return out, lin


def class_axis(y: Tensor, rho: Representation, argument: str = "output_type") -> int:
    """The axis of an output on which the scores of classes stand.

    Args:
        y: the output.
        rho: how the group acts on it.
        argument: by which a softmax was asked for, for messages.

    Raises:
        ModelError: if there are none to normalise by a softmax: entries that turn or move, a single
            logit per item, or no axis of classes at all.
    """
    axis = rho.class_axis(y.ndim)
    if axis is None:
        raise ModelError(
            f"{argument}='probs' needs scores of classes, but the output of shape "
            f"{list(y.shape)} is {rho}; pass {argument}='output'."
        )
    if y.shape[axis] < 2:
        raise ModelError(
            f"{argument}='probs' needs scores of two classes or more, but the output has shape "
            f"{list(y.shape)}: the softmax of one logit is 1; pass {argument}='output', or a "
            "model that ends in a sigmoid."
        )
    return axis


def is_classifier(domain: Domain, y: Any, model: object = None) -> bool:
    """Whether an output is taken for scores of classes where nobody says what it is.

    Args:
        domain: kind of input.
        y: output for one item.
        model: whose output it is; one that declares no classes (``num_classes`` = 0) has none.
    """
    if not (domain.probabilities and isinstance(y, Tensor) and y.ndim == 2 and y.shape[1] > 1):
        return False
    return hints_of(model).classes != 0


def assumed_classes(model: object, y: Tensor) -> str:
    """What to say of an output [B, n] that is taken for scores of classes; empty if it is declared.

    Args:
        model: may declare its number of classes by an attribute ``num_classes``.
        y: its output.
    """
    if hints_of(model).classes == y.shape[1]:
        return ""
    return (
        f"the output [B, {y.shape[1]}] was taken for scores of {y.shape[1]} classes, since the "
        "model does not declare what it is (num_classes); if it is something else, pass "
        "output_type='output'"
    )
