r"""EQ-T and EQ-R of every module, relative to the range of its output.

For a module M from z to y, with both tensors moved at their own resolution,

    E ‖M(T z) − T M(z)‖² / dim,

over the entries of y that T moves from inside the image, as a peak signal-to-noise ratio in dB. The
peak is the range of each image's own y, since features have no other. These are the finite
relatives of a module's own violation δ_M. They look at one module at a time: what the rest of the
network makes of the error is not weighed, which `attribute` does. Sources: the metrics of
Karras et al. 2021 (arXiv 2106.12423), applied to layers by Gruver et al. (arXiv 2210.02984).
Departures from the latter's code are listed in docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from tqdm import tqdm

from liederiv.actions import ImageAction, check_images
from liederiv.batches import as_one
from liederiv.checks import preflight
from liederiv.derivatives import Scheme
from liederiv.differentiation import forward_mode
from liederiv.domains import domain_of
from liederiv.draws import seeded_uniform
from liederiv.errors import LieDerivError
from liederiv.generators import resolve_generators
from liederiv.metrics.eq import EqMetric
from liederiv.metrics.finite import act_finite, valid
from liederiv.metrics.registry import METRICS
from liederiv.renamed import renamed
from liederiv.transforms import FiniteTransform

from .capture import Call, Plan, check_same, measured_copy, module_hooks, scout
from .finite_results import FINITE_METRICS, FiniteLayers, FiniteRow
from .kinds import kind_of
from .layouts import Layout
from .sites import simple_calls

__all__ = ["measure_finite"]


@renamed(x="batches")
def measure_finite(
    model: nn.Module,
    batches: Any,
    metrics: str | Iterable[str] = FINITE_METRICS,
    *,
    scheme: str | Scheme = "bspline",
    num_samples: int = 4,
    max_fraction: float = 1 / 8,
    margin: float = 0.0,
    modules: Iterable[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> FiniteLayers:
    """Measure relative EQ-T, EQ-T_frac and EQ-R of every module whose layouts are known.

    Each module is run again on moved copies of what enters it, containers included.

    Args:
        model: in eval mode; not touched.
        batches: images [B, C, H, W]; measured one after another.
        metrics: of `FINITE_METRICS`. ``eq_t_relative`` shifts by whole pixels of the coarser of a
            module's grids, never by nothing.
        scheme: how maps are continued between pixels and beyond their border.
        num_samples: transforms per module, metric and image; the same draws for every module.
        max_fraction: largest shift in units of the image's size (at least one pixel for
            ``eq_t_relative``).
        margin: pixels of a module's output that are left out along the border of what T moves from
            inside; a module's receptive field reaches across it.
        modules: paths to measure; None measures all.
        seed: of the transforms.
        progress: show a progress bar.

    Raises:
        ModelError: if the model cannot be measured as it is.
        LieDerivError: for arguments that are not understood.

    Example:
        >>> conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
        >>> net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        >>> x = torch.rand(1, 3, 16, 16)
        >>> found = measure_finite(net, x, "eq_t_relative", scheme="fourier")
        >>> found.get("0", "eq_t_relative").value > 120  # dB: exact to rounding
        True
    """
    x = as_one(batches)
    check_images(x, "batches")
    names = _check(metrics, num_samples, max_fraction)
    x = x.detach()
    expected = preflight(model, x)
    translation, rotation = (
        ImageAction(resolve_generators(g), x.shape[-2], x.shape[-1], scheme)
        for g in ("translation", "rotation")
    )
    twin = measured_copy(model)
    with forward_mode(), torch.no_grad():
        plan = scout(twin, x[:1])
        check_same(expected, plan.output)
        chosen = _choose(plan, modules)
        hidden = None if progress else True
        images, seeds = [], domain_of(x).seeds(x, seed)
        for b in tqdm(range(len(x)), "moving layers", unit="image", disable=hidden):
            draws = _Draws(translation, rotation, num_samples, max_fraction, seeds[b])
            images.append(_Remeasure(plan, chosen, names, draws, margin).run(twin, x[b : b + 1]))
    rows = tuple(
        _row(plan.calls[i], name, [image[i, name] for image in images])
        for i in chosen
        for name in names
    )
    skipped = tuple(
        (c.path, c.reason or _why(c))
        for i, c in enumerate(plan.calls)
        if i not in set(chosen) and (modules is None or c.path in set(modules))
    )
    return FiniteLayers(rows, skipped, num_samples, max_fraction, translation.scheme.name, seed)


def _check(metrics: str | Iterable[str], num_samples: int, max_fraction: float) -> tuple[str, ...]:
    names = tuple(metrics.split(",")) if isinstance(metrics, str) else tuple(metrics)
    for name in names:
        if name not in FINITE_METRICS:
            raise LieDerivError(
                f"metrics={name!r} is unknown; choose from {', '.join(FINITE_METRICS)}."
            )
    if num_samples < 1:
        raise LieDerivError(f"num_samples={num_samples} must be at least 1.")
    if not 0 < max_fraction < 1:
        raise LieDerivError(f"max_fraction={max_fraction} must lie between 0 and 1.")
    return names


def _choose(plan: Plan, modules: Iterable[str] | None) -> list[int]:
    """Numbers of the calls from one tensor of known layout to another."""
    simple = {id(c) for c in simple_calls(plan)}
    wanted = None if modules is None else set(modules)
    unknown = (wanted or set()) - {c.path for c in plan.calls} - set(plan.never_called)
    if unknown:
        raise LieDerivError(f"modules={sorted(unknown)} are not in the model.")
    return [
        i
        for i, c in enumerate(plan.calls)
        if id(c) in simple and _moves(c) and (wanted is None or c.path in wanted)
    ]


def _moves(call: Call) -> bool:
    """Whether what enters has positions."""
    layout = call.in_layouts[0]
    return layout is not None and layout.spatial


def _why(call: Call) -> str:
    return "several inputs or outputs" if len(call.inputs) > 1 else "its input has no positions"


def _row(call: Call, metric: str, errors: Sequence[float]) -> FiniteRow:
    return FiniteRow(
        path=call.path,
        class_name=type(call.module).__name__,
        kind=kind_of(call.module) if call.depth else "model",
        call_index=call.index,
        depth=call.depth,
        input_layout=str(call.in_layouts[0]),
        output_layout=str(call.out_layouts[0]),
        metric=metric,
        error=np.array(errors),
    )


def _metric(name: str) -> EqMetric:
    metric = METRICS[name]
    assert isinstance(metric, EqMetric)
    return metric


class _Draws:
    """The transforms of one image: the same uniform numbers for every module."""

    def __init__(
        self,
        translation: ImageAction,
        rotation: ImageAction,
        num_samples: int,
        max_fraction: float,
        seed: int,
    ) -> None:
        self.translation, self.rotation, self.max_fraction = translation, rotation, max_fraction
        self.uniform = seeded_uniform([seed], (num_samples, 2))[0]

    def transforms(self, metric: EqMetric, before: Layout, after: Layout) -> list[FiniteTransform]:
        """Those of one metric, for a module between these layouts."""
        if metric.rotation:
            angles = (2 * self.uniform[:, :1] - 1) * math.pi
            return [FiniteTransform(self.rotation, t[None]) for t in angles]
        size = torch.tensor([self.translation.width, self.translation.height], dtype=torch.float64)
        if not metric.integer:
            shifts = (2 * self.uniform - 1) * self.max_fraction * size
        else:
            coarse = min((v for v in (before, after) if v.spatial), key=lambda v: math.prod(v.grid))
            h, w = coarse.grid
            dy, dx = coarse.spacing(self.translation)
            shifts = self._whole(w, h) * torch.tensor([dx, dy], dtype=torch.float64)
        return [FiniteTransform(self.translation, t[None]) for t in shifts]

    def _whole(self, w: int, h: int) -> Tensor:
        """Shifts (x, y) by whole pixels of a w × h grid, uniform among those that move it."""
        a, b = (max(1, math.floor(self.max_fraction * n)) for n in (w, h))
        count = (2 * a + 1) * (2 * b + 1) - 1
        number = (self.uniform[:, 0] * count).long()
        number += number >= count // 2  # leave out the middle, which moves nothing
        return torch.stack([number % (2 * a + 1) - a, number // (2 * a + 1) - b], 1).double()


class _Remeasure:
    """Runs every chosen module again, on moved inputs, when the forward pass reaches it."""

    def __init__(
        self, plan: Plan, chosen: Sequence[int], names: Sequence[str], draws: _Draws, margin: float
    ) -> None:
        self.plan, self.chosen, self.names = plan, set(chosen), names
        self.draws, self.margin = draws, margin
        self.found: dict[tuple[int, str], float] = {}
        self._busy = False
        self._number = 0

    def run(self, model: nn.Module, x: Tensor) -> dict[tuple[int, str], float]:
        """Errors per call and metric, of one image [1, C, H, W]."""
        with module_hooks(model, self._before, lambda *_: None):
            model(x.clone())
        return self.found

    def _before(
        self, path: str, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._busy:
            return
        number, self._number = self._number, self._number + 1
        if number not in self.chosen:
            return
        self._busy = True
        try:
            self._measure(number, m, args, kwargs)
        finally:
            self._busy = False

    def _measure(
        self, number: int, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        call = self.plan.calls[number]
        before, after = call.in_layouts[0], call.out_layouts[0]
        assert before is not None
        assert after is not None
        leaves, spec = tree_flatten((args, kwargs))
        place, back = call.inputs[0][0], call.outputs[0][0]
        z = leaves[place]

        def run(moved: Tensor) -> Tensor:
            fresh = [v.clone() if isinstance(v, Tensor) else v for v in leaves]
            fresh[place] = moved
            a, k = tree_unflatten(fresh, spec)
            y: Tensor = tree_flatten(m(*a, **k))[0][back]
            return y.detach().clone()

        y = run(z.clone())
        for name in self.names:
            errors = [
                self._error(run(_move(t, z, before)), y, t, after)
                for t in self.draws.transforms(_metric(name), before, after)
            ]
            known = [e for e in errors if not math.isnan(e)]
            self.found[number, name] = float(np.mean(known)) if known else math.nan

    def _error(self, found: Tensor, y: Tensor, t: FiniteTransform, layout: Layout) -> float:
        """Mean squared error over the valid entries, relative to the squared range of y."""
        inside = _inside(t, y, layout, self.margin)
        peak = y.double().amax() - y.double().amin()
        gap = (found.double() - _move(t, y, layout).double()).square()[inside]
        if gap.numel() == 0 or peak == 0:
            return math.nan  # nothing to compare, or with
        error = float(gap.mean() / peak.square())
        return error if math.isfinite(error) else math.inf


def _move(t: FiniteTransform, z: Tensor, layout: Layout) -> Tensor:
    t = _seen_from(layout, t)
    return act_finite(layout.representation, t, layout.unflatten(z)).reshape(z.shape)


def _seen_from(layout: Layout, t: FiniteTransform) -> FiniteTransform:
    action = layout.window(t.action)
    assert isinstance(action, ImageAction)
    return FiniteTransform(action, t.t)


def _inside(t: FiniteTransform, z: Tensor, layout: Layout, margin: float) -> Tensor:
    shaped = layout.unflatten(z)
    mask = valid(layout.representation, _seen_from(layout, t), shaped, margin)
    return mask.expand_as(shaped).reshape(z.shape)
