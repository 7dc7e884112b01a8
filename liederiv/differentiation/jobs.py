"""One product J v by any engine: in which chunks, and what went wrong on the way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.differentiation.calls import PlainFunction
from liederiv.differentiation.cuts import Cuts
from liederiv.differentiation.differences import difference_jvp
from liederiv.differentiation.engines import (
    ENGINES,
    RECOVERABLE,
    UnreachedError,
    auto_chunk,
    in_chunks,
)
from liederiv.differentiation.guards import forward_mode
from liederiv.differentiation.models import as_it_was, own_buffers
from liederiv.differentiation.verification import Verification
from liederiv.errors import LieDerivError, NotDifferentiableError

__all__ = ["ForwardModeWarning", "Job", "Pushforward", "first_line"]


class ForwardModeWarning(UserWarning):
    """Another engine than the first had to be used; the message says which, and why."""


@dataclass(frozen=True)
class Pushforward:
    """The outcome of `liederiv.differentiation.verified_pushforward`.

    Attributes:
        y: f(x), detached.
        jv: J v, like y with a leading axis of tangents.
        verification: which engine, and how it was verified.
        errors: of finite differences: root mean square error per entry of the output, estimated,
            float64 [tangents]; None for engines that are exact to rounding.
        cuts: where f itself decided about derivatives, see `liederiv.differentiation.cuts`.
    """

    y: Any
    jv: Any
    verification: Verification
    errors: Tensor | None = None
    cuts: tuple[str, ...] = ()


class Job:
    """One product J v, by any engine, and what went wrong on the way."""

    def __init__(
        self,
        f: Callable[[Any], Any],
        x: Any,
        tangents: Any,
        chunk_size: int | None,
        roots: Sequence[nn.Module],
    ) -> None:
        self.f, self.x, self.tangents, self.roots = f, x, tangents, tuple(roots)
        self.chunk = auto_chunk(x, len(tree_flatten(tangents)[0][0]), chunk_size)
        self.complaints: dict[str, str] = {}

    def candidates(self, engine: str | None) -> Sequence[str]:
        """Engines to try, in order."""
        if engine is None:
            return ENGINES
        if engine not in ENGINES:
            raise LieDerivError(
                f"engine={engine!r} is unknown; choose one of {', '.join(ENGINES)}."
            )
        return (engine,)

    def run(self, engine: str) -> Pushforward | None:
        """The products by one engine; None, with a complaint, where it cannot."""
        try:
            return self._attempt(engine)
        except torch.OutOfMemoryError:
            if self.chunk == 1:
                raise
            self.chunk //= 2
            return self.run(engine)
        except UnreachedError as error:
            self.complaints[engine] = str(error)
        except LieDerivError:
            raise
        except RECOVERABLE as error:
            PlainFunction(self.f, self.roots)(self.x)  # an error of the model itself surfaces
            self.complaints[engine] = f"{self._failing_module(engine)}: {first_line(error)}"
        return None

    def _attempt(self, engine: str) -> Pushforward:
        if engine == ENGINES[-1]:
            function = PlainFunction(self.f, self.roots)
            found = difference_jvp(function, self.x, self.tangents)
            return Pushforward(found.y, found.jv, Verification(engine), found.errors)
        cuts = Cuts()
        with forward_mode(), as_it_was(self.roots):
            cuts.note_scripts(self.roots)
            f = cuts.watching(self.f)
            try:
                y, jv = in_chunks(engine, f, self.x, self.tangents, self.chunk)
            except RuntimeError as error:
                if "mutate a captured Tensor" not in str(error):
                    raise
                own = own_buffers(f, self.roots)
                y, jv = in_chunks(engine, own, self.x, self.tangents, self.chunk)
        return Pushforward(y, jv, Verification(engine), cuts=tuple(cuts.seen))

    def tell(self, used: str, stacklevel: int) -> None:
        """Warn that a slower engine had to be used."""
        if used in ENGINES[:2] or not self.complaints:
            return
        why = next(iter(self.complaints.values()))
        exact = "whose error is estimated" if used == ENGINES[-1] else "exact to rounding"
        message = f"{why}. Using the {used} engine, which is slower and {exact}."
        warnings.warn(message.replace("..", "."), ForwardModeWarning, stacklevel=stacklevel + 1)

    def refusal(self) -> LieDerivError:
        """What to raise when no engine has served."""
        seen = "; ".join(f"{engine}: {why}" for engine, why in self.complaints.items())
        return NotDifferentiableError(
            f"no derivative of the model: no engine passes its checks ({seen}). Remove what cuts "
            "or rounds inside the model, or measure metrics of finite transforms "
            "(metrics='sampled')."
        )

    def _failing_module(self, engine: str) -> str:
        """Name the innermost module in whose forward differentiation fails."""
        if not self.roots or engine == ENGINES[-1]:
            return "the function"
        stack: list[str] = []
        with ExitStack() as hooks:
            for name, module in self.roots[0].named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                label = f"module {name or '(the whole model)'} ({type(module).__name__})"
                enter = module.register_forward_pre_hook(lambda *_, w=label: stack.append(w))
                leave = module.register_forward_hook(lambda *_: stack.pop() and None)
                hooks.callback(enter.remove)
                hooks.callback(leave.remove)
            try:
                one = tree_map(lambda v: v[:1], self.tangents)
                with forward_mode(), as_it_was(self.roots):
                    in_chunks(engine, self.f, self.x, one, 1)
            except Exception:
                return stack[-1] if stack else "the function"
        return "the backward pass"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
