"""Typed results of layerwise attribution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from liederiv.foreign import printable
from liederiv.steps import unit_of

__all__ = ["Attribution", "Entry", "EntryStatus", "ProfileRow", "Witness"]

Array = NDArray[np.float64]
_KNOWN = 0.5  # error of the integral over a step, from which on there is no share
EntryStatus = Literal["measured", "exactly zero", "not measured", "not called"]


@dataclass(frozen=True)
class Entry:
    """One call of one module.

    Attributes:
        path: name in ``named_modules()``; empty for the whole model.
        class_name: of the module.
        kind: what it does, one of `liederiv.analysis.layers.kinds.KINDS`; ``model`` for the whole
            model.
        call_index: 0 for the first call of this module in a forward pass, 1 for the second, ….
        depth: number of calls that enclose it; 0 for the whole model.
        parent: position in `Attribution.entries` of the enclosing call; None for the whole model
            and for modules that are not called.
        input_layout: layouts of its input tensors, joined by commas; ``?`` if unknown.
        output_layout: the same for what it returns.
        status: ``measured``; ``exactly zero`` (known without computation); ``not measured`` (its
            share lies in the exclusive share of the next measured call around it); ``not called``.
        reason: why the status is not ``measured``.
    """

    path: str
    class_name: str
    kind: str
    call_index: int
    depth: int
    parent: int | None
    input_layout: str
    output_layout: str
    status: EntryStatus
    reason: str = ""

    @property
    def counted(self) -> bool:
        """Whether it has a share of its own."""
        return self.status in ("measured", "exactly zero")

    @property
    def name(self) -> str:
        """Path for display, with the call index where a module is called again."""
        again = f" (call {self.call_index + 1})" if self.call_index else ""
        return (self.path or "(model)") + again

    @property
    def stage(self) -> str:
        """First component of the path, with its number: ``layer1``, ``blocks.3``."""
        parts = self.path.split(".")
        return ".".join(parts[:2]) if len(parts) > 1 and parts[1].isdigit() else parts[0]


@dataclass(frozen=True)
class ProfileRow:
    """How equivariant one tensor is: a point of the depth profile.

    Attributes:
        entry: position in `Attribution.entries` of the call that has it.
        role: ``input`` or ``output`` of that call.
        layout: of the tensor.
        lie_norm: ‖ℓ(z)‖ = ‖ż − G z‖, [K, B].
        action_norm: ‖G z‖, [K, B]; 0 for vectors.
        fit_residual: for a function of orientation, the share ‖z − Y Y⁺ z‖/‖z‖ that its harmonic
            fit leaves out, [B]; NaN for other tensors. See `liederiv.points.orientations`.
    """

    entry: int
    role: Literal["input", "output"]
    layout: str
    lie_norm: Array
    action_norm: Array
    fit_residual: Array


@dataclass(frozen=True)
class Witness:
    """How far contributions agree with direct derivatives of single modules.

    Attributes:
        checked: number of calls that were checked, on the first image or cloud: the largest
            contributions and some at random.
        measured: number of calls with a contribution that had to be computed.
        disagreement: the largest, relative to the contribution.
        module: where.
        unchecked: calls that were chosen but cannot be run alone, and why.
    """

    checked: int
    measured: int
    disagreement: float
    module: str
    unchecked: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if not self.measured:
            return "there is no module to be checked"
        if not self.checked:
            return f"none of {self.measured} modules could be differentiated alone"
        where = f" ({self.module})" if self.module else ""
        return (
            f"{self.checked} of {self.measured} modules differentiated alone; largest "
            f"disagreement {self.disagreement:.1e}{where}"
        )


@dataclass(frozen=True)
class Attribution:
    """Which modules break which symmetry, for K generators and B images.

    The arrays [E, K, B] follow `entries`; NaN where an entry has no share. "Exclusive" is what a
    call contributes beyond the measured calls inside it. As vectors in output space the exclusive
    contributions add up to L f; so their projections on L f add up to ‖L f‖². Squared norms of the
    single vectors do not add up: contributions may cancel or reinforce each other.

    Attributes:
        entries: calls in forward order, the whole model first, modules never called last.
        generators: K names.
        units: of the generators' parameters.
        inclusive: ‖c‖², squared norm of the contribution with everything inside the call.
        exclusive: the same without the measured calls inside.
        inclusive_error: standard error of `inclusive` from random probes; 0 without them.
        exclusive_error: of `exclusive`.
        inclusive_projection: ⟨c, L f⟩, with everything inside.
        exclusive_projection: adds up to `totals`.
        lie_norm_squared: ‖L f‖², [K, B].
        closure: error of the decomposition along the probes, relative to ‖L f‖, [K, B]: the larger
            of |Σ exclusive − L f| and the gap between L f in forward and in reverse mode. Where
            L f is zero to rounding, relative to ‖∂out/∂x‖ ‖X x‖ instead.
        covered: share of the contributions' squared norm that is computed exactly, [K, B]; with
            random probes an estimate, without them the share of ‖∂p/∂logits‖² for a softmax.
        num_probes: backward passes per image, [B].
        profile: rows of the depth profile.
        output: what was measured, e.g. ``probs``.
        scheme: interpolation scheme.
        seed: of the random probes.
        engine: of the forward-mode pass; ``(float64)`` where float32 did not close to 1e-4.
        tolerance: as requested.
        witness: see `Witness`; None where it was not asked for.
        steps: sizes of the motions in the units of the generators, [K], of what was attributed;
            empty for the derivative. Of a step, L f above stands for the change Δ of the output
            over it (see `liederiv.analysis.layers.steps`); squared norms are those of the component
            along Δ; `closure` is relative to ‖Δ‖², `covered` is NaN, and `profile` is that of the
            derivative.
        quadrature: error of the integral over a step, of the worst module or of the sum, relative
            to ‖Δ‖², [K, B]; empty for the derivative.
    """

    entries: tuple[Entry, ...]
    generators: tuple[str, ...]
    units: tuple[str, ...]
    inclusive: Array
    exclusive: Array
    inclusive_error: Array
    exclusive_error: Array
    inclusive_projection: Array
    exclusive_projection: Array
    lie_norm_squared: Array
    closure: Array
    covered: Array
    num_probes: tuple[int, ...]
    profile: tuple[ProfileRow, ...]
    output: str
    scheme: str
    seed: int
    engine: str
    tolerance: float
    witness: Witness | None = None
    steps: tuple[float, ...] = ()
    quadrature: Array = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def quadrature_error(self) -> float:
        """The worst `quadrature` over generators and images; 0 for the derivative."""
        return float(self.quadrature.max()) if self.quadrature.size else 0.0

    @property
    def share_errors(self) -> Array:
        """Error of the shares by the integral over a step, for each generator, [K]; else 0."""
        if not self.steps:
            return np.zeros(len(self.generators))
        with np.errstate(invalid="ignore", divide="ignore"):
            weighed = (self.quadrature * self.lie_norm_squared).sum(1)
            out: Array = weighed / self.lie_norm_squared.sum(1)
        return out

    @property
    def known(self) -> NDArray[np.bool_]:
        """For which generators there are shares, [K]: the integral is known to half of ‖Δ‖²."""
        with np.errstate(invalid="ignore"):
            out: NDArray[np.bool_] = self.share_errors <= _KNOWN
        return out

    @property
    def missing(self) -> Array:
        """How far the exclusive shares are from adding up to 1, for each generator, [K]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            total = np.nansum(self.exclusive_projection, 0).sum(1)
            out: Array = np.abs(total / self.lie_norm_squared.sum(1) - 1)
        return out

    @property
    def step_labels(self) -> tuple[str, ...]:
        """The step of each generator in the unit that people use, ``1 px``; empty without steps."""
        pairs = zip(self.steps, self.units, strict=False)
        return tuple(f"{unit_of(u).size_of(t):.4g} {unit_of(u).symbol}" for t, u in pairs)

    @property
    def closure_error(self) -> float:
        """The worst `closure` over generators and images."""
        return float(self.closure.max())

    @property
    def coverage(self) -> float:
        """The worst `covered` over generators and images."""
        return float(self.covered.min())

    @property
    def totals(self) -> dict[str, float]:
        """‖L f‖² per generator, mean over images."""
        return dict(zip(self.generators, self.lie_norm_squared.mean(1).tolist(), strict=True))

    def shares(self, *, exclusive: bool = True) -> Array:
        """Signed shares of L f: Σ_images ⟨c, L f⟩ / Σ_images ‖L f‖², [E, K].

        NaN if L f is 0, and where the integral over a step is not known to half of ‖Δ‖².
        """
        projection = self.exclusive_projection if exclusive else self.inclusive_projection
        known = np.where(self.known, 1.0, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return projection.sum(2) / self.lie_norm_squared.sum(1) * known

    def to_dataframe(self, *, per_image: bool = False) -> pd.DataFrame:
        """One row per entry and generator, and per image if asked for.

        Without ``per_image``, squared norms and projections are means over images, and standard
        errors those of the means (probes are independent between images). Over steps there are two
        columns more: ``step``, in the generator's unit, and ``quadrature``, see `share_errors`.
        """
        images: list[int | None] = list(range(self.closure.shape[1])) if per_image else [None]
        tables = [self._table(k, b) for k in range(len(self.generators)) for b in images]
        return pd.concat(tables, ignore_index=True)

    def _table(self, k: int, b: int | None) -> pd.DataFrame:
        def pick(values: Array) -> Array:
            return values[:, k].mean(1) if b is None else values[:, k, b]

        def error(values: Array) -> Array:
            if b is not None:
                return values[:, k, b]
            out: Array = np.sqrt(np.square(values[:, k]).sum(1)) / values.shape[2]
            return out

        total = self.lie_norm_squared[k].mean() if b is None else self.lie_norm_squared[k, b]
        frame = pd.DataFrame(
            {
                "module": [printable(e.path) for e in self.entries],
                "class": [printable(e.class_name) for e in self.entries],
                "kind": [e.kind for e in self.entries],
                "call": [e.call_index for e in self.entries],
                "depth": [e.depth for e in self.entries],
                "input_layout": [e.input_layout for e in self.entries],
                "output_layout": [e.output_layout for e in self.entries],
                "generator": self.generators[k],
                "unit": self.units[k],
                "inclusive": pick(self.inclusive),
                "exclusive": pick(self.exclusive),
                "inclusive_error": error(self.inclusive_error),
                "exclusive_error": error(self.exclusive_error),
                "inclusive_projection": pick(self.inclusive_projection),
                "exclusive_projection": pick(self.exclusive_projection),
                "status": [e.status for e in self.entries],
                "reason": [printable(e.reason) for e in self.entries],
            }
        )
        error_ = 0.0
        if self.steps:
            error_ = float(self.share_errors[k] if b is None else self.quadrature[k, b])
            frame["step"], frame["quadrature"] = self.steps[k], error_
        known = total > 0 and error_ <= _KNOWN
        frame["share"] = frame["exclusive_projection"] / total if known else np.nan
        if b is not None:
            frame.insert(0, "image", b)
        return frame

    def profile_dataframe(self) -> pd.DataFrame:
        """The depth profile: ‖ℓ(z)‖/‖G z‖ per tensor and generator, root mean squares over images.

        Vectors have no G z; their ratio is NaN. ``fit_residual``, the mean over images, is NaN but
        for functions of orientation.
        """
        rows = []
        for point in self.profile:
            entry = self.entries[point.entry]
            for k, generator in enumerate(self.generators):
                lie = float(np.sqrt(np.square(point.lie_norm[k]).mean()))
                action = float(np.sqrt(np.square(point.action_norm[k]).mean()))
                rows.append(
                    {
                        "module": printable(entry.path),
                        "call": entry.call_index,
                        "kind": entry.kind,
                        "tensor": point.role,
                        "layout": point.layout,
                        "generator": generator,
                        "lie_norm": lie,
                        "action_norm": action,
                        "ratio": lie / action if action > 0 else float("nan"),
                        "fit_residual": float(point.fit_residual.mean()),
                    }
                )
        return pd.DataFrame(rows)

    def by(self, column: Literal["kind", "module", "class", "stage"] = "kind") -> pd.DataFrame:
        """Exclusive shares of L f summed over entries of one kind, module, class or stage.

        Rows are groups, columns generators; every column adds up to 1. See `Entry.stage`.
        """
        keys = {
            "kind": [e.kind for e in self.entries],
            "module": [printable(e.path) for e in self.entries],
            "class": [printable(e.class_name) for e in self.entries],
            "stage": [e.stage for e in self.entries],
        }[column]
        shares = pd.DataFrame(self.shares(), columns=list(self.generators))
        summed = shares.groupby(pd.Series(keys, name=column)).sum(min_count=1).dropna(how="all")
        return summed.sort_values(self.generators[0], ascending=False, key=abs)

    def children(self, parent: int = 0) -> tuple[int, ...]:
        """Positions of the calls directly inside an entry."""
        return tuple(i for i, e in enumerate(self.entries) if e.parent == parent)

    def walk(self, start: int = 0) -> Iterator[int]:
        """Positions of an entry and all calls inside it, depth first."""
        yield start
        for child in self.children(start):
            yield from self.walk(child)

    def tree(
        self, generator: str | None = None, *, max_depth: int | None = None, minimum: float = 0.0
    ) -> str:
        """The module tree as text with inclusive and exclusive shares of L f in per cent.

        Args:
            generator: name; the first one if not given.
            max_depth: deepest level shown.
            minimum: entries whose shares are both smaller in size (as fractions) are left out.
        """
        k = 0 if generator is None else self.generators.index(generator)
        inclusive, exclusive = self.shares(exclusive=False)[:, k], self.shares()[:, k]
        lines = [f"{'inclusive':>10} {'exclusive':>10}  module"]
        for i in self.walk():
            e = self.entries[i]
            deep = max_depth is not None and e.depth > max_depth
            small = max(abs(inclusive[i]), abs(exclusive[i])) < minimum
            if deep or small or not e.counted:
                continue
            label = f"{'  ' * e.depth}{e.name} [{e.class_name}]"
            lines.append(f"{100 * inclusive[i]:9.2f}% {100 * exclusive[i]:9.2f}%  {label}")
        return "\n".join(lines)
