r"""Losses that make a network more equivariant; differentiable in its parameters.

For generators X_k with amplitudes t_k (how large a transform matters, in the generator's unit):

* `equivariance_penalty`, ``method="lie"``:  mean_k E_x ‖t_k L_{X_k} f(x)‖² / dim, what the output
  does to first order beyond what the symmetry allows. One forward-mode pass, through which the
  gradient flows by reverse mode. With all t_k = 1 it is the local equivariance error (LEE).
* ``method="finite"``:  mean_k E_x E_t ‖f(T_t x) − ρ_t f(x)‖² / dim, t uniform in ±t_k: a
  consistency loss. For small t_k it tends to a third of the former, since E t² = t_k²/3.
* ``step="rotation=10deg"``:  mean_k t_k² S_k(h)/h², with S(h) the mean squared change of the output
  from T_{−h/2} x to T_{h/2} x beyond what ρ says (`liederiv.training.penalty_steps`): what counts
  over a motion of that size. For h → 0 it is the first one. Two passes, ordinary reverse mode.
* `multitask_loss`:  E_x E_g ℓ(f(g x), ρ_g y): the task's own loss on moved inputs and targets, to
  be added to the task's loss with a weight, as in REMUL (Elhag et al. 2024, arXiv 2410.17878).

Each estimate is unbiased under its subsampling of generators, images and transforms. The penalty
runs the network without dropout and other chance; batch norms normalise as they do at that moment
(by the batch in training, which then makes the draw of images matter, else by running statistics),
and no statistics are updated. Mode and buffers are as before afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from liederiv.base_representation import class_axis, lie_value, softmax_pushforward
from liederiv.batches import as_one
from liederiv.derivatives import Scheme
from liederiv.differentiation import Cuts, forward_mode, verify_product
from liederiv.differentiation.gradient_rules import elementary_norms
from liederiv.differentiation.models import as_it_was, kept_randomness
from liederiv.domains import Domain, domain_of
from liederiv.draws import draw_coordinates
from liederiv.errors import LieDerivError, ModelError, NotDifferentiableError
from liederiv.generators import Generator, by_generator
from liederiv.grids.developing import takes_photographs
from liederiv.metrics.finite import act_finite
from liederiv.metrics.local import is_classifier
from liederiv.metrics.structure_function import change_between, ends_of
from liederiv.renamed import renamed
from liederiv.representations import OutputSpec
from liederiv.resolution import resolve_output
from liederiv.steps import Step, Steps
from liederiv.training.penalty_steps import (
    check_moves,
    check_passes,
    step_sizes,
)

__all__ = ["equivariance_penalty", "multitask_loss"]

Names = str | Generator | Iterable[str | Generator]
Amplitudes = float | Mapping[str, float]


@renamed(images="batches", generators="transforms")
@takes_photographs
def equivariance_penalty(
    model: nn.Module,
    batches: Any,
    transforms: Names = "translation,rotation",
    *,
    method: Literal["lie", "finite"] = "lie",
    step: Steps = None,
    amplitudes: Amplitudes = 1.0,
    output: OutputSpec = "auto",
    output_type: Literal["auto", "probs", "logits", "output"] = "auto",
    scheme: str | Scheme = "bspline",
    num_generators: int | None = 1,
    num_images: int | float | None = 0.5,
    rng: torch.Generator | None = None,
    verify: bool = True,
) -> Tensor:
    """How far the model is from equivariant on these images, as a loss.

    Args:
        model: whose parameters are to be trained; its mode and buffers are left as they are.
        batches: images [B, C, H, W], or point clouds; several batches, as `liederiv.measure` takes
            them, are one.
        transforms: see `liederiv.lie_derivative`; K in all.
        method: ``lie``, or ``finite`` for models with an operator that cannot be differentiated
            twice (see the module's docstring).
        step: size of the motions over which the change counts, see `liederiv.steps`:
            ``"translation=2px;rotation=10deg"``, one size for each transform (those not named
            take 1 px, 1 degree, 1 %). The change over h, squared, is divided by h² (in the
            generator's unit), so that the penalty is in the unit of LEE and amplitudes act as
            before. None takes the limit of small steps, the derivative.
        amplitudes: t_k, one number or by name of generator or group (missing ones are 1), in the
            generators' units: ``{"translation": 2, "rotation": 0.5}``.
        output: representation of the output, see `liederiv.lie_derivative`.
        output_type: ``probs`` for the softmax of class scores, else the output as it is; ``auto``
            takes probs of an output [B, n], n > 1, as `liederiv.measure` scores them first.
        scheme: how images are continued between pixels.
        num_generators: how many of the K generators are drawn for this call; None takes all.
        num_images: how many of the images are drawn, or which share of them (a float, rounded
            up, two at least); None takes all. What a step costs: benchmarks/training.py.
        rng: source of randomness, a CPU generator; None takes torch's own.
        verify: check first, once per model and size of image, that the rows of the batch do not
            depend on each other nor on chance, and, where there is a derivative (``lie`` without a
            step), compare it and its gradient with differences of the model on two images; False
            for who counts passes.

    Returns:
        a scalar with its graph, in (unit of the output)²; add it to the task's loss with a weight.

    Raises:
        LieDerivError: for arguments that are not understood, a step that moves the input by hardly
            more than its rounding, or where no gradient can flow (under ``no_grad``, or a model
            without trainable parameters).
        NotDifferentiableError: if the model cannot be differentiated in forward and reverse mode,
            or not rightly.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        >>> net = nn.Sequential(*layers, nn.Linear(4, 5))
        >>> penalty = equivariance_penalty(net, torch.randn(2, 3, 8, 8), "rotation")
        >>> penalty.backward()
        >>> bool(net[0].weight.grad.norm() > 0)
        True
    """
    if method not in ("lie", "finite"):
        raise LieDerivError(f"method={method!r} is unknown; use 'lie' or 'finite'.")
    if output_type not in ("auto", "probs", "logits", "output"):
        raise LieDerivError(
            f"output_type={output_type!r} is unknown; use auto, probs, logits or output."
        )
    if step is not None and method == "finite":
        raise LieDerivError(
            "method='finite' draws its own sizes of motions, up to the amplitudes; leave out "
            "either it or step."
        )
    images = as_one(batches)
    domain = _check(model, images)
    known = domain.action(transforms, images, scheme).generators
    steps = None if step is None else step_sizes(step, known, domain.catalogue(images))
    chosen = _draw(len(known), num_generators, "num_generators", rng)
    x = images.detach()
    if isinstance(num_images, float):
        num_images = max(2, math.ceil(num_images * len(x))) if 0 < num_images <= 1 else 0
    if num_images is not None:
        x = x[_draw(len(x), num_images, "num_images", rng).to(x.device)]
    limits = _amplitudes(amplitudes, known)
    parts = []
    with _without_side_effects(model), forward_mode(), elementary_norms(), as_it_was([model]):
        derives = method == "lie" and steps is None
        every = domain.bind(known, x, scheme) if verify else None
        if every is not None and not derives:
            check_passes(model, x, every)
        elif every is not None:
            verify_product(model, x, every, _product, "penalty")
        cuts = Cuts()
        for k in chosen.tolist():
            action = domain.bind([known[k]], x, scheme)
            part = _Part(model, domain, action, x, output, output_type, cuts)
            if method == "finite":
                parts.append(part.finite(limits[k], rng))
            else:
                value = part.lie() if steps is None else part.over(steps[k])
                parts.append(value * limits[k] ** 2)
        if every is not None and derives and cuts.seen:  # other images may be treated otherwise
            verify_product(model, x, every, _product, "penalty", has_cuts=True)
    return torch.stack(parts).mean()


@renamed(images="batches", generators="transforms")
def multitask_loss(
    model: nn.Module,
    batches: Any,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    transforms: Names = "translation,rotation",
    *,
    amplitudes: Amplitudes = 1.0,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "bspline",
    rng: torch.Generator | None = None,
) -> Tensor:
    """The task's loss under random transforms, ℓ(f(g x), ρ_g y): the second task of REMUL.

    The total loss is α ℓ(f(x), y) + β times this. Training on it alone is data augmentation.

    Args:
        model: in the mode in which it is trained; batch statistics are those of the moved images.
        batches: images [B, C, H, W], or point clouds; several batches, as `liederiv.measure` takes
            them, are one.
        targets: of the task, batch first; moved along by the representation of the output (class
            indices and other targets of invariant outputs stay as they are).
        loss: of predictions and targets, a scalar.
        transforms: see `liederiv.lie_derivative`; g = exp(Σ_k t_k X_k).
        amplitudes: t_k is uniform in ± these, see `equivariance_penalty`.
        output: representation of the output and of the targets.
        scheme: how images are continued between pixels.
        rng: source of randomness, a CPU generator; None takes torch's own.

    Returns:
        a scalar with its graph, in the unit of the loss.

    Raises:
        LieDerivError: see `equivariance_penalty`.
    """
    images = as_one(batches)
    domain = _check(model, images)
    action = domain.action(transforms, images, scheme)
    limits = _amplitudes(amplitudes, action.generators)
    (t,) = draw_coordinates(len(images), limits, num_samples=1, rng=rng)
    element = domain.transform(action, t)
    y = model(element.on_input(images.detach()))
    if not isinstance(y, Tensor):
        raise ModelError("multitask_loss needs a model that returns one tensor.")
    rho = resolve_output(model, images, output, y, action).representation
    moves = targets.is_floating_point() and targets.shape == y.shape
    return loss(y, act_finite(rho, element, targets) if moves else targets)


def _product(f: Callable[[Any], Any], x: Any, v: Any) -> tuple[Any, Any]:
    """f(x) and J_f(x)·v, as the penalty differentiates."""
    try:
        with kept_randomness(x):
            return jvp(f, (tree_map(torch.clone, x),), (v,))[:2]
    except (NotImplementedError, RuntimeError) as error:
        f(tree_map(torch.clone, x))  # an error of the model itself surfaces as such
        raise NotDifferentiableError(
            f"the model has no derivative in forward mode: {str(error).splitlines()[0][:200]}; use "
            "method='finite'."
        ) from error


class _Part:
    """One generator on one batch."""

    def __init__(
        self,
        model: nn.Module,
        domain: Domain,
        action: Any,
        x: Any,
        output: OutputSpec,
        output_type: str,
        cuts: Cuts,
    ) -> None:
        self.model, self.domain, self.action, self.x = model, domain, action, x
        self.output, self.output_type, self.cuts = output, output_type, cuts

    def lie(self) -> Tensor:
        """E ‖L f‖² / dim."""
        direction = tree_map(lambda v: v[0], self.action.tangents(self.x))
        y, jv = _product(self.cuts.watching(self.model), self.x, direction)
        rho, axis = self._representation(y)
        jv = jv[None]
        if axis is not None:
            y, jv = softmax_pushforward(y, jv, axis)
        return self._mean(lie_value(rho, self.action, y, jv).square(), rho)

    def finite(self, limit: float, rng: torch.Generator | None) -> Tensor:
        """E ‖f(T x) − ρ_T f(x)‖² / dim."""
        (t,) = draw_coordinates(len(self.x), [limit], num_samples=1, rng=rng)
        element = self.domain.transform(self.action, t)
        y, moved = self._pass(self.x), self._pass(element.on_input(self.x))
        rho, axis = self._representation(y)
        if axis is not None:
            y, moved = y.softmax(axis), moved.softmax(axis)
        return self._mean((moved - act_finite(rho, element, y)).square()[None], rho)

    def over(self, step: Step) -> Tensor:
        """S(h)/h²."""
        ends = ends_of(self.domain, self.action, step)
        x, back = (end.on_input(self.x) for end in ends)
        # Each end by itself: batch norms that saw both would share what tells them apart.
        y = self._pass(x), self._pass(back)
        rho, axis = self._representation(y[0])
        moved = tree_map(lambda a, b: a - b, x, back)
        check_moves(self.domain, self.action, step, self.x, moved, y[0])
        ahead, back = (v if axis is None else v.softmax(axis) for v in y)
        squares = change_between(rho, ends, ahead, back).square()
        return self._mean(squares[None] / step.t**2, rho)

    def _pass(self, x: Any) -> Any:
        """f(x), that knows nothing of other passes: a cache would answer with the other end."""
        with kept_randomness(x), as_it_was([self.model]):
            return self.model(tree_map(torch.clone, x))

    def _representation(self, y: Any) -> tuple[Any, int | None]:
        if not isinstance(y, Tensor):
            raise ModelError(
                f"the model returns a {type(y).__name__}, not one tensor; wrap it so that it "
                "returns the tensor that is to become equivariant."
            )
        found = resolve_output(self.model, self.x, self.output, y, self.action)
        rho = found.representation
        classes = is_classifier(self.domain, y, self.model)
        probs = self.output_type == "probs" or (self.output_type == "auto" and classes)
        return rho, class_axis(y, rho) if probs else None

    def _mean(self, squares: Tensor, rho: Any) -> Tensor:
        value = self.domain.means(squares, self.action, rho).mean()
        if not value.requires_grad:
            raise NotDifferentiableError(
                "no gradient reaches the model's parameters from its output; it detaches it or "
                "computes it under no_grad."
            )
        return value.to(squares.dtype)


def _check(model: nn.Module, images: Any) -> Domain:
    """Everything that would make the loss useless, in one sentence each."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be an nn.Module, not {type(model).__name__}.")
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise LieDerivError(
            "the penalty has no gradient under torch.no_grad() or inference_mode; call it where "
            "gradients are on, or use LocalEquivarianceError to measure."
        )
    parameters = list(model.parameters())
    if not parameters:
        raise ModelError("the model has no parameters; there is nothing that a penalty can change.")
    if not any(p.requires_grad for p in parameters):
        raise ModelError(
            "the model is frozen (no parameter requires grad); call requires_grad_(True) on what "
            "is to be trained."
        )
    domain = domain_of(images)
    device = getattr(images, "device", None)
    for p in parameters:
        if device is not None and p.device != device:
            raise ModelError(
                f"a parameter of the model is on {p.device}, but the {domain.item}s are on "
                f"{device}; move one of them with .to(device)."
            )
    domain.check(images, f"{domain.item}s")
    return domain


def _amplitudes(amplitudes: Amplitudes, generators: Sequence[Generator]) -> list[float]:
    """One number per generator."""
    if isinstance(amplitudes, Mapping):
        known = {name for g in generators for name in (g.name, g.group)}
        unknown = sorted(set(amplitudes) - known)
        if unknown:
            raise LieDerivError(
                f"amplitudes has {unknown[0]!r}, which is none of the generators "
                f"({', '.join(sorted(known))})."
            )
    values = [float(v) for v in by_generator(amplitudes, generators, 1.0) if v is not None]
    if not all(0 < v < float("inf") for v in values):
        raise LieDerivError(f"amplitudes={amplitudes!r} must be positive numbers.")
    return values


def _draw(total: int, wanted: int | None, argument: str, rng: torch.Generator | None) -> Tensor:
    """Numbers of the chosen ones, without replacement."""
    if wanted is None or (wanted >= total > 0):
        return torch.arange(total)
    if wanted < 1:
        raise LieDerivError(
            f"{argument}={wanted} must be at least 1 (or a share up to 1.0), or None for all."
        )
    return torch.randperm(total, generator=rng)[:wanted]


@contextmanager
def _without_side_effects(model: nn.Module) -> Iterator[None]:
    """Nothing stochastic, no statistics updated; modes and flags come back on every exit.

    Batch norms in training keep normalising by the batch. With running statistics, which lag
    behind the weights, the penalty would fall by shrinking the weights in front of a batch norm,
    whose scale the task's loss does not see, without making the network any more equivariant.
    """
    modes = [(m, m.training) for m in model.modules()]
    tracking = [
        m
        for m, training in modes
        if training and isinstance(m, _BatchNorm) and m.track_running_stats
    ]
    model.eval()
    for m in tracking:
        m.training, m.track_running_stats = True, False
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True
        for module, training in modes:
            module.training = training
