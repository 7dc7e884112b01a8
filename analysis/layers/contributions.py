"""The kernel of layerwise attribution: contributions of all measured calls for one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from liederiv.actions import Action
from liederiv.base_representation import beyond
from liederiv.differentiation import inner_pushforward
from liederiv.errors import ModelError

from .capture import (
    Plan,
    Recording,
    TangentReader,
    as_leaf,
    record_edges,
    replays,
    same,
)
from .point_layouts import fit_residual
from .probes import Probes, ProbeSpec, choose_probes
from .readout import OutputReader
from .witness import Statement, Telescoped, testify

__all__ = ["Contributions", "Setting", "join", "measure_along", "measure_image"]

_GRADIENT_BYTES = 2**29  # of gradients kept at once; more probes are measured in turns


@dataclass(frozen=True)
class Setting:
    """What does not depend on the image.

    Attributes:
        model: from `liederiv.analysis.layers.capture.measured_copy`.
        plan: its calls.
        measured: numbers of the calls to compute.
        reader: of the output.
        probes: see `choose_probes`.
        tolerance: see `choose_probes`.
        chunk_size: tangents per forward-mode pass.
        engine: the verified engine of that pass; None takes the first that works.
    """

    model: nn.Module
    plan: Plan
    measured: Sequence[int]
    reader: OutputReader
    probes: ProbeSpec
    tolerance: float
    chunk_size: int | None
    engine: str | None = None

    @property
    def slots(self) -> list[int]:
        """Tensors whose tangents are needed."""
        calls = [self.plan.calls[i] for i in self.measured]
        return sorted({s for c in calls for _, s in (*c.inputs, *c.outputs)})


@dataclass(frozen=True)
class Contributions:
    """Of one image, for E calls and K generators; all tensors float64 on the CPU.

    Attributes:
        inclusive: ‖c‖² [E, K].
        inclusive_error: its standard error.
        inclusive_projection: ⟨c, L f⟩.
        exclusive: the same three without the measured calls inside.
        exclusive_error: its standard error.
        exclusive_projection: ⟨c, L f⟩.
        lie: ‖L f‖² [K].
        closure: [K], see `Attribution`.
        covered: [K], see `Attribution`.
        lie_norms: ‖ℓ(z)‖ [S, K] for the slots of the setting, in order.
        action_norms: ‖G z‖ [S, K].
        residuals: [S, K], see `ProfileRow.fit_residual`; the same for all generators.
        num_probes: backward passes.
        engine: of the forward-mode pass.
        statements: of the witness; empty where it was not asked.
    """

    inclusive: Tensor
    inclusive_error: Tensor
    inclusive_projection: Tensor
    exclusive: Tensor
    exclusive_error: Tensor
    exclusive_projection: Tensor
    lie: Tensor
    closure: Tensor
    covered: Tensor
    lie_norms: Tensor
    action_norms: Tensor
    residuals: Tensor
    num_probes: int
    engine: str
    statements: tuple[Statement, ...] = ()


def join(parts: Sequence[Contributions]) -> Contributions:
    """Join what was measured for different generators (the last axis)."""
    if len(parts) == 1:
        return parts[0]
    tensors = {
        f.name: torch.cat([getattr(p, f.name) for p in parts], -1)
        for f in fields(Contributions)
        if isinstance(getattr(parts[0], f.name), Tensor)
    }
    return Contributions(
        **tensors,
        num_probes=sum(p.num_probes for p in parts),
        engine=parts[0].engine,
        statements=tuple(s for p in parts for s in p.statements),
    )


def measure_image(
    setting: Setting, action: Action, x: Any, seed: int, *, witness: bool = False
) -> Contributions:
    """Contributions of all calls for one image or cloud and the generators of one action.

    Args:
        setting: what to measure.
        action: K generators, bound to x.
        x: one image [1, C, H, W], or a `PointCloud` of one cloud.
        seed: of the random probes.
        witness: whether single modules are differentiated alone, too; see
            `liederiv.analysis.layers.witness`.

    Raises:
        ModelError: if the passes compute different outputs.
    """
    passes = _Forward.of(setting, action, x, action.tangents(x))
    probes = choose_probes(
        passes.lie.double(),
        probabilities=setting.reader.probabilities(passes.y),
        probes=setting.probes,
        tolerance=setting.tolerance,
        seed=seed,
    )
    U = probes.directions.to(passes.y).mT.contiguous()
    recorded, inner, reverse, speeds, size = passes.back(setting, x, U)
    eps = torch.finfo(x.dtype).eps
    norms = (passes.lie_norms, passes.action_norms, passes.residuals)
    found = _summarise(
        setting,
        probes,
        inner,
        reverse,
        passes.lie.double(),
        size * speeds,
        *norms,
        passes.engine,
        eps,
    )
    if not witness or not setting.measured:
        return found
    plan, measured = setting.plan, setting.measured
    telescoped = Telescoped(plan, measured, inner, passes.table, recorded, U)
    said = testify(
        telescoped, action, speeds.cpu(), lambda calls: replays(setting.model, plan, calls, x), seed
    )
    return replace(found, statements=tuple(said))


def measure_along(
    setting: Setting, action: Action, x: Any, tangents: Any, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Contributions of all calls along one direction, for any motion of the input.

    Args:
        setting: what to measure.
        action: one generator, bound to x.
        x: one image [1, C, H, W], or a `PointCloud` of one cloud.
        tangents: how x moves, like x with a leading axis of 1, be it X x or not.
        u: direction in the space of the output, [D].

    Returns:
        ⟨u, c⟩ without the measured calls inside, float64 [E], which add up to ⟨u, ẏ − X_out y⟩ in
        forward mode; the same sum in reverse mode, a scalar.
    """
    passes = _Forward.of(setting, action, x, tangents, told=True)
    _, inner, reverse, _, _ = passes.back(setting, x, u.to(passes.y)[None])
    inner[0] = passes.lie.double() @ u.to(passes.y).double()[:, None]
    exclusive = _exclusive(setting.plan, setting.measured, inner)
    return exclusive[:, 0, 0].cpu(), reverse[0, 0].cpu()


@dataclass(frozen=True)
class _Forward:
    """One image after its forward-mode pass.

    Attributes:
        y: what is read of the output, [D].
        lie: ẏ − X_out y, [K, D].
        acted: X_out y, [K, D].
        tangents: ẋ.
        table: ℓ(z) per slot, [K, n].
        lie_norms: ‖ℓ(z)‖ [K] per slot.
        action_norms: ‖G z‖ [K] per slot.
        residuals: see `fit_residual`, per slot.
        engine: which it was.
    """

    y: Tensor
    lie: Tensor
    acted: Tensor
    tangents: Any
    table: dict[int, Tensor]
    lie_norms: list[Tensor]
    action_norms: list[Tensor]
    residuals: list[float]
    engine: str

    @classmethod
    def of(
        cls, setting: Setting, action: Action, x: Any, tangents: Any, *, told: bool = False
    ) -> _Forward:
        """Run it; the motion of the input breaks nothing where it is ``told``, not X x."""
        reader = TangentReader(setting.model, setting.reader, setting.plan, setting.slots)
        pushed = inner_pushforward(
            reader,
            x,
            tangents,
            action,
            setting.model,
            chunk_size=setting.chunk_size,
            engine=setting.engine,
        )
        (y, tensors), (lie, lies) = pushed.y, pushed.jv
        acted = setting.reader.act(action, y)
        action_norms, residuals = [], []
        for i, slot in enumerate(setting.slots):
            layout = setting.plan.layouts[slot]
            assert layout is not None
            moved = layout.act(action, tensors[i]) if layout.spatial else None
            residuals.append(fit_residual(layout, tensors[i]))
            action_norms.append(_norms(moved) if moved is not None else y.new_zeros(len(action)))
            lies[i] = (lies[i] if moved is None else beyond(lies[i], moved)).flatten(1)
            if told and any(torch.equal(tensors[i], leaf) for leaf in tree_flatten(x)[0]):
                lies[i] = torch.zeros_like(lies[i])  # the input moves as it is told to
            tensors[i] = tensors[i].new_zeros(())
        return cls(
            y=y,
            lie=beyond(lie, acted),
            acted=acted,
            tangents=tangents,
            table=dict(zip(setting.slots, lies, strict=True)),
            lie_norms=[_norms(v) for v in lies],
            action_norms=action_norms,
            residuals=residuals,
            engine=pushed.verification.engine,
        )

    def back(
        self, setting: Setting, x: Any, U: Tensor
    ) -> tuple[Recording, Tensor, Tensor, Tensor, Tensor]:
        """Backward passes along probes U [P, D].

        Returns:
            the recorded pass; ⟨u, c⟩ of inclusive contributions [E, K, P] (not of the whole model);
            ⟨u, L f⟩ in reverse mode [K, P]; ‖ẋ‖ [K]; the size of the gradients.
        """
        leaf = as_leaf(x)
        recorded = record_edges(setting.model, setting.reader, setting.plan, setting.measured, leaf)
        if not same(self.y, recorded.out):
            raise ModelError(_DIFFERS)
        inner, pulled, speeds, size = _contract(
            recorded, leaf, self.table, self.tangents, U, len(setting.plan.calls)
        )
        reverse = pulled - (self.acted @ U.mT).double()
        return recorded, inner, reverse, speeds, size


_DIFFERS = (
    "the model's output differs between a pass with derivatives and one without (or it is not "
    "finite); it writes in place to tensors that are used again: let it make new ones."
)


def _norms(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v.flatten(1), dim=1)


def _contract(
    recorded: Recording,
    leaf: Any,
    lies: dict[int, Tensor],
    tangents: Any,
    U: Tensor,
    num_calls: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backward passes and inner products.

    Args:
        recorded: the output with its graph, and where calls begin and end.
        leaf: the image or cloud.
        lies: ℓ(z) per slot, [K, n].
        tangents: X x, like the leaf with a leading axis of K.
        U: probes, [P, D].
        num_calls: E.

    Returns:
        ⟨u, c⟩ [E, K, P], ⟨g_x, X x⟩ [K, P], ‖X x‖ [K] and ‖g_x‖ [] over all probes, float64.
    """
    out, edges = recorded.out, recorded.edges
    leaves = tree_flatten(leaf)[0]
    moving = torch.cat([v.flatten(1) for v in tree_flatten(tangents)[0]], 1)
    K, P = len(moving), len(U)
    inner = torch.zeros(num_calls, K, P, dtype=torch.float64, device=out.device)
    pulled = torch.zeros(K, P, dtype=torch.float64, device=out.device)
    size = torch.zeros((), dtype=torch.float64, device=out.device)
    per_probe = sum(lies[e.slot].shape[1] for e in edges) * out.element_size()
    chunk = max(1, min(P, _GRADIENT_BYTES // max(per_probe, 1)))
    targets: list[Any] = [*leaves, *[e.edge for e in edges]]
    for start in range(0, P, chunk):
        part = slice(start, start + chunk)
        rows = [
            torch.autograd.grad(out, targets, u, retain_graph=True, allow_unused=True)
            for u in U[part]
        ]
        columns = list(zip(*rows, strict=True))
        starts = zip(columns, leaves, strict=False)
        g_x = torch.cat([_stack(column, v) for column, v in starts], 1)
        pulled[:, part] = moving.double() @ g_x.double().mT
        size += g_x.double().square().sum()
        seen: dict[tuple[Any, ...], Tensor] = {}
        for edge, column in zip(edges, columns[len(leaves) :], strict=True):
            if all(g is None for g in column):
                continue
            key = (edge.slot, *[_memory(g) for g in column])
            if key not in seen:  # autograd hands one tensor to several edges
                # In float64: contributions are small differences of such products.
                gradients = _stack(column, out).double()
                seen[key] = lies[edge.slot].double() @ gradients.mT
            inner[edge.call, :, part] += edge.sign * seen[key]
    return inner, pulled, _norms(moving).double(), size.sqrt()


def _memory(g: Tensor | None) -> tuple[Any, ...]:
    """Which numbers a gradient holds, in which order: two views may begin at one address."""
    return () if g is None else (g.data_ptr(), g.stride(), g.is_neg(), g.is_conj())


def _stack(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    found = [like.new_zeros(like.numel()) if g is None else g.reshape(-1) for g in gradients]
    return found[0][None] if len(found) == 1 else torch.stack(found)


def _exclusive(plan: Plan, measured: Sequence[int], inclusive: Tensor) -> Tensor:
    """Subtract from each call the inclusive contributions of the next measured calls inside."""
    counted = {0, *measured} | {i for i, c in enumerate(plan.calls) if c.zero}
    out = inclusive.clone()
    for i in measured:
        parent = plan.calls[i].parent
        while parent is not None and parent not in counted:
            parent = plan.calls[parent].parent
        assert parent is not None
        out[parent] -= inclusive[i]
    return out


def _summarise(
    setting: Setting,
    probes: Probes,
    inner: Tensor,
    reverse: Tensor,
    lie: Tensor,
    size: Tensor,
    lie_norms: list[Tensor],
    action_norms: list[Tensor],
    residuals: list[float],
    engine: str,
    eps: float,
) -> Contributions:
    """From inner products ⟨u, c⟩ [E, K, P] to squared norms, projections and checks."""
    forward = lie @ probes.directions
    inner[0] = forward
    exclusive = _exclusive(setting.plan, setting.measured, inner)
    r = probes.head.shape[1]
    along = lie @ probes.head
    inclusive_sq, inclusive_error = probes.squared_norm(inner)
    exclusive_sq, exclusive_error = probes.squared_norm(exclusive)
    norm = lie.norm(dim=1)
    gaps = torch.stack([reverse - forward, exclusive.sum(0) - forward]).norm(dim=-1).amax(0)
    rounding = eps * size
    # Where rounding is more than a hundredth of L f, nearly all has cancelled: what does not close
    # counts relative to the terms of the inner products, as rounding does.
    closure = gaps / torch.where(norm > 100 * rounding, norm, size.clamp_min(1e-300))
    exact = exclusive[..., :r].square().sum((0, 2))
    whole = exclusive_sq.sum(0)
    covered = torch.where(whole > 0, exact / whole, torch.ones_like(whole))
    if not probes.frame.shape[1]:
        covered = torch.full_like(covered, 1.0 if probes.captured is None else probes.captured)
    K = len(lie)
    empty = [lie.new_zeros(0, K)]
    return Contributions(
        inclusive=inclusive_sq.cpu(),
        inclusive_error=inclusive_error.cpu(),
        inclusive_projection=torch.einsum("ekr,kr->ek", inner[..., :r], along).cpu(),
        exclusive=exclusive_sq.cpu(),
        exclusive_error=exclusive_error.cpu(),
        exclusive_projection=torch.einsum("ekr,kr->ek", exclusive[..., :r], along).cpu(),
        lie=norm.square().cpu(),
        closure=closure.cpu(),
        covered=covered.cpu(),
        lie_norms=torch.cat(empty + [v.double()[None] for v in lie_norms]).cpu(),
        action_norms=torch.cat(empty + [v.double()[None] for v in action_norms]).cpu(),
        residuals=torch.tensor(residuals, dtype=torch.float64)[:, None].expand(-1, K),
        num_probes=probes.directions.shape[1],
        engine=engine,
    )
