r"""Probe directions: how squared norms of contributions are read off a few backward passes.

A contribution is a vector c in output space; a backward pass from ⟨u, out⟩ yields ⟨u, c⟩ for all
modules and generators. With an orthonormal *head* Q and an orthonormal random *frame* U of m
directions in its complement of dimension d,

    ‖c‖² ≈ ‖Qᵀc‖² + (d/m) ‖Uᵀc‖²,

unbiased over random frames, with variance 2 t² (d − m) / (m (d + 2)) for t = ‖c − QQᵀc‖², so exact
when m = d. The head always contains the Lie derivatives L_k f themselves, so the projections
⟨c, L_k f⟩ are exact and add up to ‖L_k f‖². For y = softmax(logits) every c lies in the range of
S = diag(p) − ppᵀ; leading eigenvectors of S fill the head until what they leave of ‖S‖² is small
(the idea of Hutch++, Meyer et al. 2021: low rank exactly, the rest by random probes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from liederiv.errors import LieDerivError

__all__ = ["ProbeSpec", "Probes", "choose_probes"]

ProbeSpec = int | Literal["auto", "exact"]
MAX_HEAD = 16  # eigenvectors beside the Lie derivatives
MAX_FRAME = 16  # random directions where the head is not enough
_LARGEST_EXACT = 4096  # entries of an output, one backward pass each
_CANDIDATES = 128  # classes among which eigenvectors of S are looked for


@dataclass(frozen=True)
class Probes:
    """Orthonormal probe directions in output space.

    Attributes:
        head: Q, float64 [D, r].
        frame: U, float64 [D, m], orthogonal to Q; m = 0 if the head is enough.
        complement: d, dimension of the complement of Q in the space of possible outputs.
        captured: share of ‖S‖² that the head carries; None where the output has no S.
    """

    head: Tensor
    frame: Tensor
    complement: int
    captured: float | None

    @property
    def directions(self) -> Tensor:
        """All probes, [D, r + m]."""
        return torch.cat([self.head, self.frame], 1)

    def squared_norm(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate of ‖c‖² and its standard error.

        Args:
            c: inner products of contributions with `directions`, [..., r + m].

        Returns:
            two tensors [...].
        """
        r, m, d = self.head.shape[1], self.frame.shape[1], self.complement
        head = c[..., :r].square().sum(-1)
        if m == 0:
            return head, torch.zeros_like(head)
        tail = c[..., r:].square().sum(-1) * (d / m)
        return head + tail, tail * (2 * max(d - m, 0) / (m * (d + 2))) ** 0.5


def choose_probes(
    lie: Tensor,
    *,
    probabilities: Tensor | None,
    probes: ProbeSpec,
    tolerance: float,
    seed: int,
) -> Probes:
    """Probe directions for one image.

    Args:
        lie: L_k f, float64 [K, D].
        probabilities: the output p [D] if it is a softmax, else None.
        probes: ``"auto"``, ``"exact"`` (a complete basis) or the number of probes beside the Lie
            derivatives.
        tolerance: share of ‖S‖² that ``"auto"`` may leave uncovered without random probes.
        seed: of the random frame.

    Raises:
        LieDerivError: for an exact basis of a large output, or an unknown ``probes``.
    """
    _check(probes, lie.shape[1])
    D = lie.shape[1]
    head = _extend(lie.new_zeros(D, 0), lie.mT)
    constant = None if probabilities is None else lie.new_ones(D, 1) / D**0.5
    whole = D - (constant is not None)
    budget = D if probes == "exact" else MAX_HEAD if probes == "auto" else int(probes)
    captured: float | None = None
    if probabilities is not None and probes != "exact":
        head, captured = _add_eigenvectors(head, probabilities, budget, tolerance, probes)
    left = whole - head.shape[1]
    if probes == "exact" or left <= 0:
        full = _random_frame(head, constant, max(left, 0), seed)
        return Probes(torch.cat([head, full], 1), lie.new_zeros(D, 0), 0, 1.0)
    enough = captured is not None and 1 - captured <= tolerance
    used = head.shape[1] - min(len(lie), head.shape[1])
    m = 0 if enough else MAX_FRAME if probes == "auto" else max(budget - used, 1)
    frame = _random_frame(head, constant, min(m, left), seed)
    if frame.shape[1] == left:  # a small output: head and frame are a complete basis
        return Probes(torch.cat([head, frame], 1), lie.new_zeros(D, 0), 0, 1.0)
    return Probes(head, frame, left, captured)


def _check(probes: ProbeSpec, D: int) -> None:
    if probes not in ("auto", "exact") and not (isinstance(probes, int) and probes > 0):
        raise LieDerivError(
            f"probes={probes!r} is not understood; pass 'auto', 'exact' or a positive number."
        )
    if probes == "exact" and D > _LARGEST_EXACT:
        raise LieDerivError(
            f"probes='exact' needs {D} backward passes per image for an output of {D} numbers; "
            "pass probes='auto' or a number of random probes."
        )


def _add_eigenvectors(
    head: Tensor, p: Tensor, budget: int, tolerance: float, probes: ProbeSpec
) -> tuple[Tensor, float]:
    """Extend the head by eigenvectors of S until its tail is below the tolerance."""
    total = float(p.square().sum() - 2 * p.pow(3).sum() + p.square().sum().square())
    if total <= 0:
        return head, 1.0
    q = _extend(head, _eigenvectors(p)[:, :budget])
    s = p[:, None] * q - p[:, None] * (p @ q)
    captured = (s.square().sum(0).cumsum(0) / total).clamp(max=1.0)
    start = head.shape[1]
    sufficient = (1 - captured <= tolerance).nonzero().flatten()
    sufficient = sufficient[sufficient + 1 >= start]
    if len(sufficient):
        r = int(sufficient[0]) + 1
    else:
        r = q.shape[1] if probes == "auto" else start + (q.shape[1] - start) // 2
        # Eigenvectors that carry less than half are not worth their passes: random probes are.
        r = start if float(captured[r - 1]) < 0.5 else r
    return q[:, :r], float(captured[r - 1]) if r else 0.0


def _eigenvectors(p: Tensor) -> Tensor:
    """Leading eigenvectors of S = diag(p) − ppᵀ on its largest classes, descending, [D, n]."""
    top = p.topk(min(_CANDIDATES, len(p))).indices
    S = torch.diag(p[top]) - torch.outer(p[top], p[top])
    vectors = torch.linalg.eigh(S).eigenvectors.flip(1)
    out = p.new_zeros(len(p), len(top))
    out[top] = vectors
    # S annihilates constants, so only the part orthogonal to them matters.
    return out - out.mean(0)


def _extend(q: Tensor, v: Tensor) -> Tensor:
    """Append the columns of v, orthonormalised; columns without a new direction are dropped."""
    for column in v.unbind(1):
        norm = column.norm()
        if norm == 0:
            continue
        new = column / norm
        for _ in range(2):
            new = new - q @ (q.mT @ new)
            size = new.norm()
            if size < 1e-7:  # of a unit vector: it lies in the span, and the rest is rounding
                break
            new = new / size
        else:
            q = torch.cat([q, new[:, None]], 1)
    return q


def _random_frame(q: Tensor, constant: Tensor | None, m: int, seed: int) -> Tensor:
    """A random orthonormal frame [D, m] in the complement of q and the constants."""
    D = q.shape[0]
    random = torch.Generator().manual_seed(seed)
    v = torch.randn(D, m, dtype=q.dtype, generator=random).to(q.device)
    avoid = q if constant is None else _extend(q, constant)
    for _ in range(2):
        v = v - avoid @ (avoid.mT @ v)
        v = torch.linalg.qr(v).Q if m else v
    return v
