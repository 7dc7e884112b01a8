r"""The errors that `assert_equivariant` judges over steps of finite size, without a derivative.

Over a step of size h the error is that of the worst item of the batch,

    ‖ρ_{h/2}⁻¹ f(T_{h/2} x) − ρ_{−h/2}⁻¹ f(T_{−h/2} x)‖ / √(‖ρ_{h/2} y − ρ_{−h/2} y‖² + ‖Δ_n f‖²),

the denominator root mean square over the batch: what the output should have done, y = f(x), and by
how much f changes over Gaussian noise n of the displacement's norm, from x − n/2 to x + n/2. For
small steps it is the error of the derivative, see `liederiv.testing`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liederiv.actions import Action
from liederiv.checks import preflight
from liederiv.derivatives import Scheme
from liederiv.domains import Names, domain_of
from liederiv.errors import LieDerivError, ModelError
from liederiv.metrics.finite import act_finite, evaluate
from liederiv.metrics.local import NOT_ONE_TENSOR
from liederiv.metrics.structure_function import ends_of, step_responses, why_no_steps
from liederiv.representations import OutputSpec
from liederiv.resolution import resolve_output
from liederiv.steps import Step, Steps, plan_of, step_label

__all__ = ["StepError", "step_errors"]


@dataclass(frozen=True)
class StepError:
    """How far a function is from equivariant over one step.

    Attributes:
        name: generator and step: ``rotation@1deg``.
        error: relative, of the worst item; NaN if an output is not finite.
        item: number of that item in the batch.
        change: root mean square change of its output, beyond what it should do.
        floor: what rounding contributes to the error.
    """

    name: str
    error: float
    item: int
    change: float
    floor: float


def step_errors(
    f: Callable[[Any], Tensor],
    x: Any,
    generators: Names,
    steps: Steps,
    *,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "fourier",
    seed: int = 0,
) -> tuple[tuple[StepError, ...], torch.dtype]:
    """One error for each generator and step, and the dtype of the output.

    Args:
        f: function or model in eval mode; one output tensor, batch (or points) first.
        x: images [B, C, H, W] or another kind of input.
        generators: names, groups or objects.
        steps: see `liederiv.steps`.
        output: representation of the output.
        scheme: how images are continued between pixels.
        seed: of the noise.

    Raises:
        LieDerivError: if it cannot be measured.
    """
    domain = domain_of(x)
    y = preflight(f, x)
    if not isinstance(y, Tensor):
        raise ModelError(NOT_ONE_TENSOR.format(kind=type(y).__name__))
    action = domain.action(generators, x, scheme)
    plan = plan_of(action.generators, [()] * len(action), steps, domain.catalogue(x))
    y = evaluate(f, x)
    rho = resolve_output(f, x, output, y, action).representation
    why = why_no_steps(x, action, rho, y)
    if why:
        raise LieDerivError(why)
    found = step_responses(f, x, action, plan, rho, seed=seed, cap=domain.batch_size(x))["output"]
    errors = []
    for k, g in enumerate(action.generators):
        for j, step in enumerate(plan[k]):
            due = _due(x, action.take(slice(k, k + 1)), step, rho, y)
            scale = (due + found.compared["noise"][k][j]).mean().sqrt()
            changes = found.squared[k][j].sqrt().nan_to_num(nan=torch.inf)
            worst = int(changes.argmax())
            parts = [found.squared[k][j][worst].sqrt(), found.rounding[k][j].max().sqrt()]
            error, floor = (float(v / scale) if v != 0 else 0.0 for v in parts)
            name = step_label(g.name, step)
            errors.append(StepError(name, error, worst, float(parts[0]), floor))
    return tuple(errors), y.dtype


def _due(x: Any, action: Action, step: Step, rho: Any, y: Tensor) -> Tensor:
    """‖ρ_{h/2} y − ρ_{−h/2} y‖²/dim of each item: by how much the output should change."""
    domain = domain_of(x)
    ahead, back = (act_finite(rho, end, y.double()) for end in ends_of(domain, action, step))
    return domain.means((ahead - back).square()[None], action, rho)[0].cpu()
