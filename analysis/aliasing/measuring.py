r"""How much of a network's equivariance error is aliasing, module by module.

Attribution gives a module M the violation δ_M = J_M G_z z − G_y M(z) and the contribution
c_M = J_{out←y} δ_M. Replacing M by its alias-free counterpart (see `alias_free`) *at the same input
z*, and pushing along the same gradients, gives c_AF. The aliasing share is 1 − ‖c_AF‖/‖c_M‖. For a
pointwise nonlinearity on a periodic band-limited map it tends to 1 with the upsampling factor: all
of its translation error is aliasing. A layer that is affine and stays on its grid makes no new
frequencies; it has no aliasing share.

What the share means depends on the scheme. ``fourier`` (periodic) and ``fourier_mirror`` move
band-limited maps exactly, up to the border. ``bspline`` moves high frequencies too slowly, so even
an alias-free nonlinearity keeps a violation under it, which is the scheme's and not the module's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from liederiv.actions import ImageAction, check_images
from liederiv.base_representation import lie_value
from liederiv.batches import as_one
from liederiv.checks import check_type, preflight
from liederiv.derivatives import Scheme
from liederiv.differentiation import forward_engine, forward_mode, inner_pushforward, pushforward
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError
from liederiv.generators import Generator, resolve_generators
from liederiv.grids.developing import takes_photographs
from liederiv.metrics.local import is_classifier
from liederiv.renamed import renamed
from liederiv.representations import OutputSpec

from ..layers.capture import (
    Call,
    Plan,
    as_leaf,
    check_same,
    measured_copy,
    record_edges,
    scout,
)
from ..layers.kinds import kind_of
from ..layers.layouts import Layout
from ..layers.maps import from_map, to_map
from ..layers.pointwise import is_affine
from ..layers.probes import Probes, ProbeSpec, choose_probes
from ..layers.readout import OutputReader
from ..layers.sites import Site, read_inputs
from ..layers.windows import Window
from .alias_free import AliasFreeActivation, AliasFreeMaxPool, Filtered
from .repairs import AliasFree, LowPass, Padding
from .resampling import Boundary, check_boundary
from .results import AliasingReport, ModuleAliasing
from .spectra import Spectrum, average_spectra, power_spectrum
from .units import choose_units

__all__ = ["measure_aliasing"]


@renamed(x="batches", generators="transforms", output="output_type")
@takes_photographs
def measure_aliasing(
    model: nn.Module,
    batches: Any,
    transforms: str | Generator | Iterable[str | Generator] = "translation",
    *,
    scheme: str | Scheme = "fourier_mirror",
    output: OutputSpec = "auto",
    output_type: str = "auto",
    factor: int = 4,
    boundary: Boundary | None = None,
    border: int = 1,
    modules: Iterable[str] | None = None,
    probes: ProbeSpec = "auto",
    tolerance: float = 1e-2,
    seed: int = 0,
    verify: bool = True,
) -> AliasingReport:
    """Measure aliasing in every module of a network.

    Args:
        model: in eval mode; not touched.
        batches: images [B, C, H, W]; measured one after another.
        transforms: see `liederiv.lie_derivative`; K in all.
        scheme: see the module's docstring.
        output: see `liederiv.analysis.attribute`.
        output_type: see there.
        factor: how many times finer the grid is on which nonlinearities are applied.
        boundary: of the counterparts; None takes the scheme's.
        border: pixels of each module's output that count as its border.
        modules: paths to measure; None measures all that have no modules inside, and elementwise
            ones as a whole.
        probes: see `liederiv.analysis.layers.probes.choose_probes`.
        tolerance: of the probes.
        seed: of random probes.
        verify: see `liederiv.analysis.attribute`.

    Raises:
        ModelError: if the model cannot be measured as it is.
        NotDifferentiableError: if forward mode has not the derivative of what it computes.
        LieDerivError: for arguments that are not understood.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
        >>> net = nn.Sequential(conv, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        >>> x = torch.randn(1, 3, 15, 15)
        >>> report = measure_aliasing(net, x, scheme="fourier", output_type="logits")
        >>> report.get("1").aliasing_share().round(2).tolist()
        [1.0, 1.0]
    """
    check_type(output_type)
    x = as_one(batches)
    check_images(x, "batches")
    if not isinstance(factor, int) or factor < 2:
        raise LieDerivError(f"factor={factor!r} must be a whole number, 2 or larger.")
    x = x.detach()
    expected = preflight(model, x)
    if output_type == "auto":
        output_type = "logits" if is_classifier(domain_of(x), expected, model) else "output"
    action = ImageAction(resolve_generators(transforms), x.shape[-2], x.shape[-1], scheme)
    engine = forward_engine(model, x, action) if verify else None
    if boundary is None:
        boundary = "periodic" if action.scheme.boundary == "periodic" else "mirror"
    check_boundary(boundary)
    twin = measured_copy(model)
    with forward_mode():
        plan = scout(twin, x[:1])
        check_same(expected, plan.output)
        reader = OutputReader(model, plan.output, output_type, output, x[:1])
        wanted = None if modules is None else set(modules)
        units, skipped = choose_units(twin, reader, plan, x[:1], wanted)
        parts = _counterparts(twin, plan, units, x[:1], AliasFree(factor, boundary))
        run = _Run(
            twin, plan, units, parts, reader, action, boundary, border, probes, tolerance, engine
        )
        images = [run.image(x[b : b + 1], seed + b) for b in range(len(x))]
    return AliasingReport(
        rows=tuple(_row(plan.calls[i], parts[i], [image[i] for image, _ in images]) for i in units),
        generators=tuple(g.name for g in action.generators),
        units=tuple(g.unit for g in action.generators),
        lie_norm_squared=np.stack([lie.numpy() for _, lie in images], -1),
        scheme=action.scheme.name,
        boundary=boundary,
        factor=factor,
        border=border,
        output=OutputReader.label(output_type, output),
        seed=seed,
        skipped=tuple(skipped),
    )


@dataclass(frozen=True)
class _Counterpart:
    module: nn.Module | None
    name: Literal["alias_free", "low_pass", "none"]
    reason: str = ""


def _counterparts(
    model: nn.Module, plan: Plan, units: Sequence[int], x: Tensor, repair: AliasFree
) -> dict[int, _Counterpart]:
    slots = sorted({plan.calls[i].inputs[0][1] for i in units})
    values = dict(zip(slots, read_inputs(model, plan, slots, x), strict=True))
    out = {}
    with torch.no_grad():
        for i in units:
            call = plan.calls[i]
            layout = call.in_layouts[0]
            assert layout is not None
            z = values[call.inputs[0][1]]
            out[i] = _counterpart(call, Site(call.path, ((z, layout),)), z, repair)
    return out


def _counterpart(call: Call, site: Site, z: Tensor, repair: AliasFree) -> _Counterpart:
    found = repair.apply(call.module, site)
    if found is not None:
        return _Counterpart(found, "alias_free")
    found = LowPass(repair.boundary).apply(call.module, site)
    if found is not None:
        return _Counterpart(found, "low_pass")
    affine = is_affine(call.module, z)
    reason = "affine, and stays on its grid" if affine else "no alias-free counterpart is known"
    return _Counterpart(None, "none", reason)


_Values = dict[str, Any]


@dataclass(frozen=True)
class _Run:
    """Measures one image after another."""

    model: nn.Module
    plan: Plan
    units: Sequence[int]
    counterparts: dict[int, _Counterpart]
    reader: OutputReader
    action: ImageAction
    boundary: Boundary
    border: int
    probes: ProbeSpec
    tolerance: float
    engine: str | None = None

    def image(self, x: Tensor, seed: int) -> tuple[dict[int, _Values], Tensor]:
        """What is measured for one image, per unit, and ‖L f‖² [K]."""
        lie, probes = self._lie(x, seed)
        slots = sorted({s for i in self.units for s in self._slots(i)})
        tensors = dict(zip(slots, read_inputs(self.model, self.plan, slots, x), strict=True))
        out: dict[int, _Values] = {}
        violations: dict[int, dict[str, Tensor]] = {}
        for i in self.units:
            z, y = (tensors[s] for s in self._slots(i))
            out[i], violations[i] = self._local(i, z, y)
        scales = {i: values.pop("scale") for i, values in out.items()}
        inner = self._contract(x, probes, violations, scales)
        along = lie @ probes.head
        for i in self.units:
            for name, c in inner[i].items():
                out[i][name] = probes.squared_norm(c)[0]
            head = inner[i]["error"][:, : probes.head.shape[1]]
            out[i]["projection"] = (head * along).sum(1)
        return out, lie.square().sum(1)

    def _slots(self, i: int) -> tuple[int, int]:
        call = self.plan.calls[i]
        return call.inputs[0][1], call.outputs[0][1]

    def _layouts(self, i: int) -> tuple[Layout, Layout]:
        before, after = self.plan.calls[i].in_layouts[0], self.plan.calls[i].out_layouts[0]
        assert before is not None
        assert after is not None
        return before, after

    def _lie(self, x: Tensor, seed: int) -> tuple[Tensor, Probes]:
        """L f, float64 [K, D], and the probes for this image."""
        read, moved = _Read(self.model, self.reader), self.action.tangents(x)
        pushed = inner_pushforward(read, x, moved, self.action, self.model, engine=self.engine)
        y, lie = pushed.y, lie_value(self.reader, self.action, pushed.y, pushed.jv).double()
        probes = choose_probes(
            lie,
            probabilities=self.reader.probabilities(y),
            probes=self.probes,
            tolerance=self.tolerance,
            seed=seed,
        )
        return lie, probes

    def _local(self, i: int, z: Tensor, y: Tensor) -> tuple[_Values, dict[str, Tensor]]:
        """Energies, spectra and violations [K, *y.shape] of one unit."""
        part, module = self.counterparts[i], self.plan.calls[i].module
        before, after = self._layouts(i)
        moved = before.act(self.action, z)
        deltas = {"error": self._violation(module, z, moved, after)[1]}
        values: _Values = {"output_power": y.double().square().sum(), "aliased_power": None}
        # δ is a difference of two vectors of about this size: rounding is relative to it.
        scale = torch.linalg.vector_norm(after.act(self.action, y).flatten(1), dim=1)
        values["scale"] = scale.double().cpu()
        continued = Padding(self.boundary).apply(module, Site("", ((z, before),)))
        if continued is not None:
            deltas["error_continued"] = self._violation(continued, z, moved, after)[1]
        if part.module is not None:
            y_free, deltas["error_alias_free"] = self._violation(part.module, z, moved, after)
            values["aliased_power"] = (y - y_free).double().square().sum()
        values["before"], values["after"] = self._spectra(i, z, y)
        return values, deltas

    def _violation(
        self, module: nn.Module, z: Tensor, moved: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """M(z) and δ = J_M G_z z − G_y M(z)."""
        y, jv, _ = pushforward(module, z, moved)
        return y, lie_value(layout, self.action, y, jv)

    @torch.no_grad()
    def _spectra(self, i: int, z: Tensor, y: Tensor) -> tuple[Spectrum, Spectrum]:
        part, (before, after) = self.counterparts[i].module, self._layouts(i)
        entering, leaving = to_map(z, before)[1], to_map(y, after)[1]
        scale = leaving.shape[-1] / entering.shape[-1]
        limit = float("nan")
        if isinstance(part, AliasFreeActivation):
            leaving, scale, limit = part.fine(z.clone())[1], part.factor, 0.5
        elif isinstance(part, AliasFreeMaxPool):
            stride = max(Window.of(part.module).stride)
            leaving, scale, limit = part.dense(z), part.factor, 0.5 / stride
        elif isinstance(part, Filtered):
            limit = 0.5 / max(part.steps)
        return (
            power_spectrum(entering, self.boundary, limit=limit),
            power_spectrum(leaving, self.boundary, scale=scale, limit=limit),
        )

    def _contract(
        self,
        x: Tensor,
        probes: Probes,
        violations: dict[int, dict[str, Tensor]],
        scales: dict[int, Tensor],
    ) -> dict[int, dict[str, Tensor]]:
        """⟨g_u, δ⟩ per unit and kind of violation, float64 [K, P]."""
        leaf = as_leaf(x)
        recorded = record_edges(self.model, self.reader, self.plan, self.units, leaf)
        out, ends = recorded.out, [e for e in recorded.edges if e.sign > 0]
        directions, eps = probes.directions.to(out).mT, torch.finfo(x.dtype).eps
        empty = torch.zeros(len(self.action), len(directions), dtype=torch.float64)
        inner = {
            i: {name: empty.clone() for name in (*violations[i], "error_interior", "floor")}
            for i in self.units
        }
        for p, u in enumerate(directions if ends else ()):
            grads = torch.autograd.grad(
                out, [e.edge for e in ends], u, retain_graph=True, allow_unused=True
            )
            for edge, gradient in zip(ends, grads, strict=True):
                deltas, found = violations[edge.call], inner[edge.call]
                like = deltas["error"][0]
                g = torch.zeros_like(like) if gradient is None else gradient.reshape(like.shape)
                found["error_interior"][:, p] = _inner(
                    deltas["error"], self._interior(edge.call, g)
                )
                found["floor"][:, p] = eps * float(g.norm()) * scales[edge.call]
                for name, delta in deltas.items():
                    found[name][:, p] = _inner(delta, g)
        return inner

    def _interior(self, i: int, g: Tensor) -> Tensor:
        """The tensor with its border set to zero; prefix tokens count as border."""
        layout = self._layouts(i)[1]
        prefix, maps = to_map(g, layout)
        inside = torch.zeros_like(maps)
        h, w = maps.shape[-2:]
        b = self.border
        if min(h, w) > 2 * b:
            inside[..., b : h - b, b : w - b] = maps[..., b : h - b, b : w - b]
        return from_map(None if prefix is None else torch.zeros_like(prefix), inside, layout)


def _inner(delta: Tensor, g: Tensor) -> Tensor:
    """⟨δ, g⟩ for δ [K, *g.shape], float64 [K]."""
    return (delta.flatten(1) @ g.flatten()).double().cpu()


class _Read(nn.Module):
    """The model's output as one vector."""

    def __init__(self, model: nn.Module, reader: OutputReader) -> None:
        super().__init__()
        self.model, self.reader = model, reader

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(self.model(x))


def _row(call: Call, part: _Counterpart, images: Sequence[_Values]) -> ModuleAliasing:
    def table(name: str) -> np.ndarray:
        return np.stack([np.asarray(v[name], dtype=np.float64) for v in images], -1)

    missing = np.full_like(table("error"), np.nan)
    none = part.module is None
    return ModuleAliasing(
        path=call.path,
        class_name=type(call.module).__name__,
        kind=kind_of(call.module),
        call_index=call.index,
        input_layout=str(call.in_layouts[0]),
        output_layout=str(call.out_layouts[0]),
        counterpart=part.name,
        status="not applicable" if none else "measured",
        reason=part.reason,
        error=table("error"),
        error_alias_free=missing if none else table("error_alias_free"),
        error_interior=table("error_interior"),
        error_continued=table("error_continued") if "error_continued" in images[0] else missing,
        floor=table("floor"),
        projection=table("projection"),
        output_power=table("output_power"),
        aliased_power=missing[0] if none else table("aliased_power"),
        before=average_spectra([v["before"] for v in images]),
        after=average_spectra([v["after"] for v in images]),
    )
