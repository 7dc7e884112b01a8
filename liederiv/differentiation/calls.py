"""A function as its user calls it: nothing switched off, nothing left behind, or in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.differentiation.engines import RECOVERABLE, checked_output
from liederiv.differentiation.guards import sound_numerics
from liederiv.differentiation.models import as_it_was, in_double
from liederiv.errors import LieDerivError

__all__ = ["PlainFunction", "add", "noise_like", "norm", "within_rounding"]


def add(x: Any, v: Any, h: float) -> Any:
    """X + h v, leaf by leaf."""
    return tree_map(lambda a, b: a + h * b, x, v)


def norm(x: Any) -> float:
    """Norm over all tensors of an input, in float64."""
    square = sum(float(v.detach().double().square().sum()) for v in tree_flatten(x)[0])
    return float(square) ** 0.5


def noise_like(x: Any, seed: int) -> Any:
    """Standard normal noise like x, the same on any device and in any precision."""
    source = torch.Generator().manual_seed(seed)

    def draw(a: Tensor) -> Tensor:
        return torch.randn(a.shape, dtype=torch.float64, generator=source).to(a)

    return tree_map(draw, x)


def within_rounding(x: Any, seed: int) -> Any:
    """X moved by what its own precision leaves open: noise of relative norm eps, leaf by leaf."""

    def moved(a: Tensor, n: Tensor) -> Tensor:
        size = a.norm() / max(a.numel(), 1) ** 0.5
        return a + torch.finfo(a.dtype).eps * size * n

    return tree_map(moved, x, noise_like(x, seed))


class PlainFunction:
    """f with gradients on (models may differentiate inside), its output detached.

    Args:
        f: the function.
        roots: the modules behind it; they are put back after each call.

    Attributes:
        why_single: why it does not run in float64; empty if it does, or before `runs_wide`.
    """

    def __init__(self, f: Callable[[Any], Any], roots: Sequence[nn.Module]) -> None:
        self.f, self.roots = f, roots
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}
        self._copy: nn.Module | None = None
        self._wide: bool | None = None
        self.why_single = ""

    def __call__(self, x: Any) -> Any:
        """f(x), detached."""
        with torch.enable_grad(), sound_numerics(), as_it_was(self.roots):
            out = checked_output(self.f)(x)
        return tree_map(Tensor.detach, out)

    def anything(self, x: Any) -> Any:
        """f(x) whatever its type, tensors in it detached."""
        with torch.enable_grad(), sound_numerics(), as_it_was(self.roots):
            out = self.f(tree_map(torch.clone, x))
        return tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, out)

    def leaves(self, x: Any) -> list[Tensor]:
        """The tensors of f(x)."""
        return list(tree_flatten(self(x))[0])

    @contextmanager
    def double(self) -> Iterator[Callable[[Any], Any]]:
        """F in float64: what is yielded takes float64 inputs.

        Raises:
            LieDerivError: if it does not exist.
        """
        if any(_is_scripted(m) for root in self.roots for m in root.modules()):
            if not isinstance(self.f, nn.Module):
                raise LieDerivError("a scripted module behind a function has no float64 form")
            self._copy = copy.deepcopy(self.f).double() if self._copy is None else self._copy
            yield self._copy
            return
        with in_double(self.roots, self._twins), as_it_was(self.roots):
            yield self.f

    def wide_leaves(self, x: Any) -> list[Tensor]:
        """The tensors of f(x) in float64, for x in float64."""
        with self.double() as wide, torch.enable_grad(), sound_numerics():
            out = tree_flatten(checked_output(wide)(x))[0]
        return [v.detach() for v in out]

    def runs_wide(self, x: Any, attempt: Callable[[], Any] | None = None) -> bool:
        """Whether f runs in float64, found out by doing so once.

        A model that fixes float32 inside may run all the same; that shows in its differences.

        Args:
            x: an input in f's own precision.
            attempt: what calls `wide_leaves`, and is wanted anyway; None computes f(x).
        """
        if self._wide is None:
            try:
                (attempt or (lambda: self.wide_leaves(x.double())))()
            except (*RECOVERABLE, LieDerivError) as error:
                self.why_single = (str(error).splitlines() or [type(error).__name__])[0][:160]
            self._wide = not self.why_single
        return self._wide

    def widest(self, x: Any) -> tuple[Callable[[Any], list[Tensor]], Any]:
        """F as a list of tensors and x, both in the most precise form in which f runs."""
        return (self.wide_leaves, x.double()) if self.runs_wide(x) else (self.leaves, x)


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)
