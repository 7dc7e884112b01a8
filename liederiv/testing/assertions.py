r"""`assert_equivariant`: the equivariance of a function as an assertion in a test suite.

The error of a generator X is ‖L_X f‖ of the worst item of the batch, relative to

    s = √(‖X_out f‖² + ‖J n‖²),

root mean square over the batch, with n Gaussian noise of the tangent's norm ‖X x‖ and all norms per
entry of the output. Of the two ways in which L f = J (X x) − X_out f can fail to be zero, s sees
both: what the output should have done, and how strongly f reacts at all. It stays positive for
invariant outputs (X_out f = 0), and for outputs that move (where J n may be small). So an error of
1 means that f reacts to the symmetry as to noise, as the identity does when it is declared
invariant; an exactly equivariant f has that of rounding, whatever units its output has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liederiv.actions import Action
from liederiv.base_representation import lie_value
from liederiv.batches import as_one
from liederiv.checks import preflight
from liederiv.derivatives import Scheme
from liederiv.differentiation.calls import PlainFunction
from liederiv.differentiation.models import kept_randomness, watched
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign_code import users_code
from liederiv.generators import Generator
from liederiv.locations import in_words
from liederiv.metrics.local import NOT_ONE_TENSOR, Linearised, linearise
from liederiv.renamed import renamed
from liederiv.representations import OutputSpec
from liederiv.steps import Steps
from liederiv.testing.step_errors import StepError, step_errors

__all__ = ["RTOL", "GeneratorError", "assert_equivariant", "equivariance_errors"]

RTOL = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Tolerances by dtype: far above what rounding does to deep networks, far below real violations."""


@dataclass(frozen=True)
class GeneratorError:
    """How far a function is from equivariant under one generator.

    Attributes:
        generator: its name.
        unit: of its parameter.
        error: relative, see the module's docstring; NaN if an output or derivative is not finite.
        index: of the entry of the output with the largest |L f|.
        where: that index in words.
        value: L f there, in the unit of the output per unit of the generator.
    """

    generator: str
    unit: str
    error: float
    index: tuple[int, ...]
    where: str
    value: float


@renamed(f="model", x="batches", generators="transforms")
def assert_equivariant(
    model: Callable[[Any], Tensor],
    batches: Any,
    transforms: str | Generator | Iterable[str | Generator],
    *,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "fourier",
    rtol: float | None = None,
    directions: int = 8,
    seed: int = 0,
    verify: bool = True,
    steps: Steps = None,
) -> None:
    """Assert that f is equivariant at x.

    Args:
        model: f, a function or model in eval mode; one output tensor, batch (or points) first.
        batches: x, images [B, C, H, W], float32 or float64; or a `PointCloud`; several batches, as
            `liederiv.measure` takes them, are one.
        transforms: names, groups (``"translation"``) or `Generator` objects.
        output: representation of the output, see `liederiv.lie_derivative`.
        scheme: how images are continued between pixels. ``fourier``, periodic, is the one under
            which exact equivariance is possible (circular convolutions have it for translation);
            with any other, and with nonlinearities or strides, give a tolerance.
        rtol: largest relative error; None takes that of `RTOL` for the coarser dtype of x and f(x).
        directions: of noise that f's sensitivity is found from.
        seed: of the noise.
        verify: compare with f and its differences on one item first, so that a ``detach`` inside f
            does not pass for invariance; False for who counts passes.
        steps: sizes of motions, e.g. ``"rotation=1deg"``, see `liederiv.steps`: then f is compared
            over these, see `liederiv.testing.step_errors`, and needs no derivative.

    Raises:
        AssertionError: naming each generator that breaks the tolerance, its error, what rounding
            contributes, and where in the output (or at which item) it is worst.
        LieDerivError: if it cannot be measured: f in training mode, stochastic, on another device,
            an unknown representation, no derivative.

    Example:
        >>> x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> assert_equivariant(lambda x: x.mean((2, 3)), x, "translation")
        >>> assert_equivariant(lambda x: x.flip(-1), x, "translation_y")
        >>> assert_equivariant(lambda x: x.flip(-1), x, "translation_x")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        AssertionError: not equivariant under translation_x (rtol 1.0e-04)
        ...
    """
    if rtol is not None and not (math.isfinite(rtol) and rtol > 0):
        raise LieDerivError(
            f"rtol={rtol} must be a positive number, or None for that of the dtype."
        )
    x = as_one(batches)
    if steps is not None:
        with users_code("the model"), kept_randomness(x):
            found, dtype = step_errors(
                model, x, transforms, steps, output=output, scheme=scheme, seed=seed
            )
        _assert_steps(found, {x.dtype, dtype}, rtol, domain_of(x).item)
        return
    with users_code("the model"), kept_randomness(x):
        _assert(_measure(model, x, transforms, output, scheme, directions, seed, verify), rtol)


def _assert_steps(
    errors: Sequence[StepError], dtypes: set[torch.dtype], rtol: float | None, item: str
) -> None:
    tolerance = max(RTOL.get(d, 0.0) for d in dtypes) if rtol is None else rtol
    broken = [e for e in errors if not e.error <= tolerance]
    if not broken:
        return
    lines = [f"not equivariant over {', '.join(e.name for e in broken)} (rtol {tolerance:.1e})"]
    lines += [
        f"  {e.name}: error {e.error:.3g} > {tolerance:.1e} (rounding floor {e.floor:.1e}); worst "
        f"{item} {e.item}, whose output changes by {e.change:.4g} root mean square"
        if e in broken
        else f"  {e.name}: error {e.error:.2e}, within the tolerance"
        for e in errors
    ]
    raise AssertionError("\n".join(lines))


def _assert(measured: _Measured, rtol: float | None) -> None:
    x = measured.x
    dtypes = {x.dtype, measured.lin.y.dtype}
    tolerance = max(RTOL.get(d, 0.0) for d in dtypes) if rtol is None else rtol
    errors = measured.errors()
    broken = [e for e in errors if not e.error <= tolerance]
    if broken:
        raise AssertionError(_message(measured, errors, broken, tolerance))


@renamed(f="model", x="batches", generators="transforms")
def equivariance_errors(
    model: Callable[[Any], Tensor],
    batches: Any,
    transforms: str | Generator | Iterable[str | Generator],
    *,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "fourier",
    directions: int = 8,
    seed: int = 0,
    verify: bool = True,
) -> tuple[GeneratorError, ...]:
    """The errors that `assert_equivariant` judges, one for each generator; arguments as there."""
    x = as_one(batches)
    with users_code("the model"), kept_randomness(x):
        return _measure(model, x, transforms, output, scheme, directions, seed, verify).errors()


@dataclass(frozen=True)
class _Measured:
    """A linearised function and all that is needed to linearise it again in float64."""

    f: Callable[[Any], Tensor]
    x: Any
    action: Action
    output: OutputSpec
    lin: Linearised

    @property
    def lie(self) -> Tensor:
        """L f, [K, *y.shape]."""
        lin = self.lin
        return lie_value(lin.resolved.representation, self.action, lin.y, lin.jv)

    def rms(self, values: Tensor) -> Tensor:
        """Root mean square over the entries of each item, [M, B]."""
        rho = self.lin.resolved.representation
        return domain_of(self.x).means(values.double().square(), self.action, rho).sqrt()

    def scale(self) -> Tensor:
        """What errors are relative to: s of the module's docstring, [K]."""
        rho, others = self.lin.resolved.representation, self.lin.others
        assert others is not None
        noise = others.read(self.rms(self.lin.others_jv).square())["noise"]
        return (self.rms(rho.act(self.action, self.lin.y)).square() + noise).mean(1).sqrt()

    def relative(self, lie: Tensor) -> list[float]:
        """Errors of Lie derivatives: the worst item over the scale; 0/0 is 0."""
        worst, scale = self.rms(lie).amax(1), self.scale()
        return torch.where(worst == 0, 0.0, worst / scale).tolist()

    def errors(self) -> tuple[GeneratorError, ...]:
        """One for each generator."""
        found = []
        lie, rho = self.lie, self.lin.resolved.representation
        for k, (g, error) in enumerate(
            zip(self.action.generators, self.relative(lie), strict=True)
        ):
            size = lie[k].double().abs().nan_to_num(nan=math.inf)
            if not self.lin.y.isfinite().all():  # whose derivative spreads it over the map
                size = (~self.lin.y.isfinite()).double()
            flat = int(size.argmax())
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), lie[k].shape))
            where = in_words(index, lie[k].shape, rho, self.action)
            found.append(GeneratorError(g.name, g.unit, error, index, where, float(lie[k][index])))
        return tuple(found)

    def floor(self) -> list[float] | str:
        """What rounding contributes to each error, against float64; or why that is not known."""
        if self.x.dtype == torch.float64:
            return "measured in float64"
        try:
            domain, x = domain_of(self.x), self.x.double()
            action = domain.rebind(self.action, x)
            with watched(self.f) as roots:
                PlainFunction(self.f, ()).anything(self.x)
            with PlainFunction(self.f, roots).double() as wide:
                how = {"output": self.output, "relative": False, "verify": False}
                lin = linearise(wide, x, action, engine=self.lin.verification.engine, **how)
            gap = self.lie.double() - _Measured(self.f, x, action, self.output, lin).lie
        except Exception:  # a model may fail in float64 in any way
            return "rounding floor unknown: the model does not run in float64"
        return self.relative(gap)


def _measure(
    f: Callable[[Any], Tensor],
    x: Any,
    generators: Any,
    output: OutputSpec,
    scheme: str | Scheme,
    directions: int,
    seed: int,
    verify: bool,
) -> _Measured:
    if directions < 1:
        raise LieDerivError(f"directions={directions} must be at least 1.")
    domain = domain_of(x)
    y = preflight(f, x)
    if not isinstance(y, Tensor):
        raise ModelError(NOT_ONE_TENSOR.format(kind=type(y).__name__))
    action = domain.action(generators, x, scheme)
    seeds = domain.seeds(x, seed)
    lin = linearise(
        f,
        x,
        action,
        output=output,
        directions=directions,
        seeds=seeds,
        verify=verify,
        mode="refuse",
    )
    return _Measured(f, x, action, output, lin)


def _message(
    measured: _Measured,
    errors: Sequence[GeneratorError],
    broken: Sequence[GeneratorError],
    tolerance: float,
) -> str:
    names = ", ".join(e.generator for e in broken)
    lines = [f"not equivariant under {names} (rtol {tolerance:.1e})"]
    floors = measured.floor()
    item = domain_of(measured.x).item
    for k, e in enumerate(errors):
        if e not in broken:
            lines.append(f"  {e.generator}: error {e.error:.2e}, within the tolerance")
            continue
        floor = floors if isinstance(floors, str) else f"rounding floor {floors[k]:.1e}"
        lines.append(
            f"  {e.generator}: error {e.error:.3g} > {tolerance:.1e} ({floor}); worst at {e.where} "
            f"(index {list(e.index)}), where L f = {e.value:.4g} per {e.unit}"
        )
        if not isinstance(floors, str) and floors[k] > e.error / 2:
            lines.append("    rounding explains this: test in float64, or raise rtol")
    rho = measured.lin.resolved
    lines.append(
        f"  output: {rho.representation} ({rho.status}); scheme {measured.action.scheme_name}; "
        f"error: ‖L f‖ of the worst {item} over √(‖X_out f‖² + ‖J noise‖²)"
    )
    return "\n".join(lines)
