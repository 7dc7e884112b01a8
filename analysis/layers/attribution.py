r"""Which modules of a network break a symmetry: exact and complete layerwise attribution.

Every tensor z inside the network gets a generator G_z; let ż be its tangent when the image moves
by X x, and ℓ(z) = ż − G_z z. A module M from z to y violates the symmetry by

    δ_M = J_M G_z z − G_y y = ℓ(y) − J_M ℓ(z),

and contributes c_M = J_{out←y} δ_M to L f. Along a probe u, with g_y the gradient of ⟨u, out⟩ at
M's output and g_{z→M} the gradient at its input that flows through M alone,

    ⟨u, c_M⟩ = ⟨g_y, ℓ(y)⟩ − ⟨g_{z→M}, ℓ(z)⟩,

because ⟨g_y, J_M ℓ(z)⟩ = ⟨g_{z→M}, ℓ(z)⟩. So one forward-mode pass with K tangents and P backward
passes serve every module and container, without any local derivative. Contributions telescope:
whatever G is chosen, they add up to L f. Source of the layerwise decomposition: Gruver et al.,
arXiv 2210.02984; theirs differentiates each layer locally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from liederiv.actions import Action
from liederiv.batches import as_one
from liederiv.checks import check_type, preflight
from liederiv.derivatives import Scheme
from liederiv.differentiation import forward_engine, forward_mode
from liederiv.differentiation.models import kept_randomness
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError, ModelError
from liederiv.generators import Generator
from liederiv.grids.developing import takes_photographs
from liederiv.metrics.local import is_classifier
from liederiv.renamed import renamed
from liederiv.representations import OutputSpec

from .capture import Plan, check_same, measured_copy, scout, separable
from .contributions import Contributions, Setting, join, measure_image
from .kinds import kind_of
from .layouts import Layout
from .probes import ProbeSpec
from .readout import OutputReader
from .results import Attribution, Entry, EntryStatus, ProfileRow, Witness
from .steps import (
    StepContributions,
    StepSpec,
    measure_step,
    over_steps,
    step_sizes,
)
from .witness import refuse_contradictions, summary

__all__ = ["attribute"]

_CLOSURE = 1e-4  # largest closure error with which a float32 result is left as it is
_TANGENT_BYTES = 2**31  # of ℓ kept at once; more generators are measured in turns
ModuleFilter = Iterable[str] | Callable[[str, nn.Module], bool]


@renamed(x="batches", generators="transforms", output="output_type")
@takes_photographs
def attribute(
    model: nn.Module,
    batches: Any,
    transforms: str | Generator | Iterable[str | Generator],
    *,
    scheme: str | Scheme = "bspline",
    output: OutputSpec = "auto",
    output_type: str = "auto",
    probes: ProbeSpec = "auto",
    tolerance: float = 1e-2,
    modules: ModuleFilter | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    verify: bool = True,
    step: StepSpec | None = None,
    step_tolerance: float = 0.05,
) -> Attribution:
    """Attribute the Lie derivative of a network, or its change over a step, to its modules.

    Args:
        model: in eval mode; neither it nor its gradients are touched.
        batches: images [B, C, H, W], float32 or float64, or point clouds; measured one after
            another. Several batches, as `liederiv.measure` takes them, are one.
            Where float32 rounding leaves a closure error above 1e-4, or may be why the witness
            disagrees, in float64.
        transforms: see `liederiv.lie_derivative`; K in all.
        scheme: how images and feature maps are continued between pixels.
        output: representation of the output, see `liederiv.lie_derivative`.
        output_type: ``"probs"`` for the softmax of the model's output, ``"logits"``, ``"features"``
            or ``"output"`` for the output as it is. ``"auto"`` is ``"logits"`` for a classifier (an
            output [B, n] of images, unless the model declares that it has no classes), else
            ``"output"``. The derivative of probabilities is one small direction, in which large
            shares cancel.
        probes: see `liederiv.analysis.layers.probes.choose_probes`.
        tolerance: share of the norm that probes may leave out before random ones are added.
        modules: measure these only, beside the whole model: paths, or a function of path and
            module.
        seed: of the random probes.
        chunk_size: tangents per forward-mode pass; None lets memory decide.
        progress: show a progress bar.
        verify: check some modules of the first image or cloud by direct derivatives, see
            `liederiv.analysis.layers.witness`.
        step: None for the derivative; else the size of a motion, in the units of the generators or
            by name ``{"translation": 1.0, "rotation": 0.02}``: what is attributed is the change of
            the output from half a step before the image to half a step behind it, see
            `liederiv.analysis.layers.steps`.
        step_tolerance: error of the integral over a step, relative to ‖Δ‖², at which no more of its
            points are computed; at most 65 are.

    Returns:
        shares of all modules; see `Attribution`.

    Raises:
        ModelError: if the model is in training mode, is stochastic, cannot be copied, or does
            something else when its modules do nothing in place; if the witness contradicts a
            module's contribution.
        LieDerivError: for arguments that are not understood.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        >>> net = nn.Sequential(*layers, nn.Linear(4, 5)).eval()
        >>> a = attribute(net, torch.randn(1, 3, 8, 8), "translation")
        >>> np.nansum(a.shares(), axis=0).round(4).tolist()
        [1.0, 1.0]
    """
    check_type(output_type)
    x = as_one(batches)
    domain = domain_of(x)
    action = domain.action(transforms, x, scheme)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be an nn.Module, not {type(model).__name__}.")
    if not 0 < tolerance < 1:
        raise LieDerivError(f"tolerance={tolerance} must lie between 0 and 1.")
    sizes = () if step is None else step_sizes(step, tuple(action.generators))
    if not 0 < step_tolerance < 1:
        raise LieDerivError(f"step_tolerance={step_tolerance} must lie between 0 and 1.")
    x = x.detach()
    expected = preflight(model, x)
    if output_type == "auto":
        output_type = "logits" if is_classifier(domain, expected, model) else "output"
    engine = forward_engine(model, x, action) if verify else None
    twin = measured_copy(model)
    hidden = None if progress else True  # None: hidden where the output is no terminal
    with kept_randomness(x), forward_mode(), _followed():
        plan = scout(twin, x[:1])
        check_same(expected, plan.output)
        reader = OutputReader(model, plan.output, output_type, output, x[:1])
        measured = separable(twin, reader, plan, _choose(plan, modules), x[:1])
        setting = Setting(twin, plan, measured, reader, probes, tolerance, chunk_size, engine)
        turns = _turns(action, x, sum(plan.sizes[s] for s in setting.slots))
        images, seeds, steps = [], domain.seeds(x, seed), []
        for b in tqdm(range(len(x)), "attributing", unit=domain.item, disable=hidden):
            one = x[b : b + 1]
            check = verify and b == 0
            images.append(_measure(setting, turns, one, seeds[b], witness=check))
            steps.append(_measure_steps(setting, action, one, sizes, step_tolerance))
    witness = summary(plan, measured, images[0].statements) if verify else None
    label = OutputReader.label(output_type, output)
    found = _assemble(setting, images, action, label, seed, witness)
    return over_steps(found, sizes, steps) if sizes else found


def _measure_steps(
    setting: Setting, action: Action, x: Any, sizes: Sequence[float], tolerance: float
) -> list[StepContributions]:
    """One image or cloud, generator by generator; nothing where no step is asked for."""
    bound = domain_of(x).rebind(action, x)
    return [
        measure_step(setting, bound.take(slice(k, k + 1)), x, size, tolerance)
        for k, size in enumerate(sizes)
    ]


@contextmanager
def _followed() -> Iterator[None]:
    """Errors of autograd on the model's graph, in a sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, KeyError, IndexError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0][:160]
        raise ModelError(
            f"attribution cannot follow this model ({type(error).__name__}: {reason}); `measure` "
            "gives the whole model's score. What writes in place to tensors that the gradient "
            "needs, or calls its modules differently from pass to pass, has to return new tensors."
        ) from error


def _measure(
    setting: Setting, turns: Sequence[Action], x: Any, seed: int, *, witness: bool
) -> Contributions:
    """One image or cloud, for the generators of all turns.

    In float64 where float32 cancels too much: a small L f of large gradients. A model that insists
    on float32 inside keeps its float32 result.
    """

    def run(setting: Setting, x: Any) -> Contributions:
        bound = [domain_of(x).rebind(turn, x) for turn in turns]
        found = [measure_image(setting, turn, x, seed, witness=witness) for turn in bound]
        return join(found)

    found = run(setting, x)
    doubtful = any(s.contradicts for s in found.statements) or float(found.closure.max()) > _CLOSURE
    if x.dtype == torch.float32 and doubtful:
        try:
            twin = measured_copy(setting.model, torch.float64)
            double = run(replace(setting, model=twin), x.double())
            found = replace(double, engine=f"{double.engine} (float64)")
        except (RuntimeError, LieDerivError):
            pass  # what was found in float32 is judged as it is
    refuse_contradictions(setting.plan, found.statements)
    return found


def _choose(plan: Plan, modules: ModuleFilter | None) -> list[int]:
    """Numbers of the calls below the whole model that need to be computed."""
    if modules is None:
        wanted = [True] * len(plan.calls)
    elif callable(modules):
        wanted = [bool(modules(c.path, c.module)) for c in plan.calls]
    else:
        names = {modules} if isinstance(modules, str) else set(modules)
        unknown = names - {c.path for c in plan.calls} - set(plan.never_called)
        if unknown:
            raise LieDerivError(f"modules={sorted(unknown)} are not in the model.")
        wanted = [c.path in names for c in plan.calls]
    for call, chosen in zip(plan.calls[1:], wanted[1:], strict=True):
        if not chosen:
            call.reason, call.zero = "not asked for", ""
    return [i for i, c in enumerate(plan.calls) if i and not c.reason and not c.zero]


def _turns(action: Action, x: Any, numel: int) -> list[Action]:
    """Actions of as many generators at once as the memory for ℓ allows."""
    at_once = max(1, _TANGENT_BYTES // max(1, numel * x.dtype.itemsize))
    return [action.take(slice(i, i + at_once)) for i in range(0, len(action), at_once)]


def _entries(
    plan: Plan, measured: Sequence[int], model: nn.Module, *, resampled: bool
) -> tuple[Entry, ...]:
    computed = {0, *measured}
    entries = []
    for i, call in enumerate(plan.calls):
        status: EntryStatus = "measured" if i in computed else "not measured"
        if i not in computed and call.zero:
            status = "exactly zero"
        entries.append(
            Entry(
                path=call.path,
                class_name=type(call.module).__name__,
                kind="model" if i == 0 else kind_of(call.module),
                call_index=call.index,
                depth=call.depth,
                parent=call.parent,
                input_layout=_names(call.in_layouts),
                output_layout=_names(call.out_layouts),
                status=status,
                reason="" if i in computed else call.zero or call.reason,
            )
        )
    modules = dict(model.named_modules())
    if resampled:
        what = ("(photograph)", "Camera", "resampling", 0, 1, 0, "photograph", "NCHW")
        entries.append(Entry(*what, "measured"))
    for path in plan.never_called:
        m = modules[path]
        depth = path.count(".") + 1
        row = (path, type(m).__name__, kind_of(m), 0, depth, None, "", "")
        entries.append(Entry(*row, "not called", "its forward is not called"))
    return tuple(entries)


def _names(layouts: Sequence[Layout | None]) -> str:
    return ", ".join("?" if v is None else str(v) for v in layouts)


def _assemble(
    setting: Setting,
    images: Sequence[Contributions],
    action: Action,
    output: OutputSpec,
    seed: int,
    witness: Witness | None,
) -> Attribution:
    plan, measured = setting.plan, setting.measured
    resampled = len(images[0].inclusive) > len(plan.calls)
    entries = _entries(plan, measured, setting.model, resampled=resampled)
    counted = np.array([e.counted for e in entries])

    def table(name: str) -> NDArray[np.float64]:
        values = np.stack([getattr(v, name).numpy() for v in images], -1)
        out = np.full((len(entries), *values.shape[1:]), np.nan)
        out[: len(values)] = values
        out[~counted] = np.nan
        return out

    return Attribution(
        entries=entries,
        generators=tuple(g.name for g in action.generators),
        units=tuple(g.unit for g in action.generators),
        inclusive=table("inclusive"),
        exclusive=table("exclusive"),
        inclusive_error=table("inclusive_error"),
        exclusive_error=table("exclusive_error"),
        inclusive_projection=table("inclusive_projection"),
        exclusive_projection=table("exclusive_projection"),
        lie_norm_squared=np.stack([v.lie.numpy() for v in images], -1),
        closure=np.stack([v.closure.numpy() for v in images], -1),
        covered=np.stack([v.covered.numpy() for v in images], -1),
        num_probes=tuple(v.num_probes for v in images),
        profile=_profile(setting, images),
        output=output,
        scheme=action.scheme_name,
        seed=seed,
        engine=", ".join(dict.fromkeys(v.engine for v in images)),
        tolerance=setting.tolerance,
        witness=witness,
    )


def _profile(setting: Setting, images: Sequence[Contributions]) -> tuple[ProfileRow, ...]:
    row_of = {slot: i for i, slot in enumerate(setting.slots)}
    lie = np.stack([v.lie_norms.numpy() for v in images], -1)
    moved = np.stack([v.action_norms.numpy() for v in images], -1)
    residual = np.stack([v.residuals[:, 0].numpy() for v in images], -1)
    rows = []
    for number in setting.measured:
        call = setting.plan.calls[number]
        places: list[tuple[Literal["input", "output"], int]] = [
            *(("input", s) for _, s in call.inputs),
            *(("output", s) for _, s in call.outputs),
        ]
        for role, slot in places:
            i, layout = row_of[slot], str(setting.plan.layouts[slot])
            rows.append(ProfileRow(number, role, layout, lie[i], moved[i], residual[i]))
    return tuple(rows)
