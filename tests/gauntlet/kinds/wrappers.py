"""Modules behind something else, modules that cannot be copied, modules that are compiled."""

from __future__ import annotations

import copy
import functools
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.utils.prune
import torch.utils.checkpoint
from torch import Tensor, nn

from ..awkward import EVERYWHERE, MEASURING, Awkward, Small


class _Plain(Small):
    """Nothing awkward but what is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.n = nn.BatchNorm2d(6)
        self.n.running_mean.normal_()
        self.d = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.d(self.n(self.c(x)).tanh()))


class NothingAwkward(_Plain):
    """The control: the gauntlet itself must let it pass everywhere."""

    needed = EVERYWHERE | {"reversed"}


class BehindALambda(_Plain):
    needed = MEASURING

    def subject(self) -> Any:
        return lambda x: self(x)


class BehindABoundMethod(_Plain):
    needed = MEASURING

    def logits(self, x: Tensor) -> Tensor:
        return self(x)

    def subject(self) -> Any:
        return self.logits


class BehindAPartial(_Plain):
    needed = MEASURING

    def subject(self) -> Any:
        return functools.partial(_call, self)


def _call(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)


class BehindACallableObject(_Plain):
    needed = MEASURING

    def subject(self) -> Any:
        return _Runner(self)


@dataclass
class _Runner:
    net: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)


class InTrainingModeItself(_Plain):
    """Batch statistics and dropout, or the metric and penalty that know what to do about it."""

    right = "refusal"
    right_at = {"metric": "number"}  # noqa: RUF012
    skip = frozenset({"penalty"})  # which means the batch's statistics

    def subject(self) -> Any:
        return self.train()


class _Training(_Plain):
    """In training mode, where the entry point does not see the module."""

    right = "refusal"
    right_at = {"metric": "number"}  # noqa: RUF012

    def wrap(self) -> Any:
        raise NotImplementedError

    def subject(self) -> Any:
        self.train()
        return self.wrap()


class TrainingBehindALambda(_Training):
    def wrap(self) -> Any:
        net = self
        return lambda x: net(x)


class TrainingBehindABoundMethod(_Training):
    def logits(self, x: Tensor) -> Tensor:
        return self(x)

    def wrap(self) -> Any:
        return self.logits


class TrainingBehindAPartial(_Training):
    def wrap(self) -> Any:
        return functools.partial(_call, self)


class TrainingBehindAPartialWithKeywords(_Training):
    def wrap(self) -> Any:
        return functools.partial(_call_by_name, net=self)


def _call_by_name(x: Tensor, *, net: nn.Module) -> Tensor:
    return net(x)


class TrainingBehindAClosureOfAClosure(_Training):
    def wrap(self) -> Any:
        def outer(net: nn.Module) -> Any:
            def inner(x: Tensor) -> Tensor:
                return net(x)

            return lambda x: inner(x)

        return outer(self)


class TrainingBehindACallableObject(_Training):
    def wrap(self) -> Any:
        return _Runner(self)


class TrainingBehindADataclassInADict(_Training):
    def wrap(self) -> Any:
        held = {"models": [_Runner(self)]}
        return lambda x: held["models"][0](x)


class TrainingBehindADecorator(_Training):
    def wrap(self) -> Any:
        @functools.wraps(_call)
        def wrapped(x: Tensor) -> Tensor:
            return _call(self, x)

        return functools.lru_cache(None)(wrapped)


class TrainingBehindADefaultArgument(_Training):
    def wrap(self) -> Any:
        return lambda x, net=self: net(x)


class TrainingBehindAGlobal(_Training):
    def wrap(self) -> Any:
        _GLOBAL["net"] = self
        return _through_a_global


_GLOBAL: dict[str, nn.Module] = {}


def _through_a_global(x: Tensor) -> Tensor:
    return _GLOBAL["net"](x)


class TrainingOfOneSubmoduleOnly(_Plain):
    """Frozen for fine-tuning, all but the norm."""

    right = "refusal"
    right_at = {"metric": "number"}  # noqa: RUF012
    skip = frozenset({"penalty"})

    def subject(self) -> Any:
        self.n.train()
        return self


class TrainingInAListOfModules(_Plain):
    """Modules in a Python list are no submodules; `eval` does not reach them."""

    right = "refusal"
    right_at = {"metric": "number"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Sequential(nn.BatchNorm2d(6), nn.Dropout(0.4))]

    def smooth(self, x: Tensor) -> Tensor:
        self.hidden[0].double().eval()
        return self(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden[0](self.c(x)).tanh())


class MovesItsModulesInForward(Small):
    """`to(x)` at each call, as code for several devices does; torch dies of it in forward mode."""

    crashes = True

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6).eval()]

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        for m in self.hidden:
            h = m.to(x.device, x.dtype)(h)
        return self.head(h.tanh())


class HoldsALock(_Plain):
    """Cannot be copied, so not cast either; the truth is another one's."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().forward(x)


class HoldsALockAndDetaches(Small):
    """The same with something to find, in float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() + h.square().detach())


class CopiesOnlyShallowly(Small):
    """`__deepcopy__` gives itself back: whoever casts the copy casts the model."""

    needed = MEASURING

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class SharesAModuleWithAnother(Small):
    """The convolution belongs to two networks, and is called twice."""

    needed = EVERYWHERE

    def __init__(self) -> None:
        super().__init__()
        self.again = self.c
        self.d = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.d(self.c(x)).tanh()))


class LegacyWeightNorm(Small):
    """The weight is a plain attribute, recomputed by a hook: no copying after a call."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.c = nn.utils.weight_norm(self.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class ParametrizedWeightNorm(Small):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class SpectralNorm(Small):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class OrthogonalParametrization(Small):
    def __init__(self) -> None:
        super().__init__()
        self.o = nn.utils.parametrizations.orthogonal(nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.o(self.head_input(x)))

    def head_input(self, x: Tensor) -> Tensor:
        return self.c(x).tanh().flatten(2).mul(torch.linspace(0, 1, 100).to(x)).mean(2)


class PrunedWeights(Small):
    """`nn.utils.prune` keeps the masked weight as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.prune.l1_unstructured(self.c, "weight", 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class HookThatReplacesTheOutput(Small):
    def __init__(self) -> None:
        super().__init__()
        self.c.register_forward_hook(lambda m, i, o: o * o.sigmoid())
        self.register_forward_pre_hook(lambda m, args: (args[0] * 0.7,))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x))


class HookThatDetaches(Small):
    def __init__(self) -> None:
        super().__init__()
        self.c.register_forward_hook(lambda m, i, o: o.tanh() + o.detach())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x))


class _Checkpointed(Small):
    reentrant = False

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        y = torch.utils.checkpoint.checkpoint(self.block, h, use_reentrant=self.reentrant)
        return self.head(h + y)


class CheckpointedWithoutReentry(_Checkpointed):
    needed = EVERYWHERE


class CheckpointedWithReentry(_Checkpointed):
    needed = MEASURING
    reentrant = True


class CheckpointedSequential(_Checkpointed):
    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        seq = torch.utils.checkpoint.checkpoint_sequential
        return self.head(h + seq(self.block, 3, h, use_reentrant=False))


class CheckpointImportedByName(_Checkpointed):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + _CHECKPOINT(self.block, h, use_reentrant=True))


_CHECKPOINT = torch.utils.checkpoint.checkpoint


class LazilyBuilt(Awkward):
    """Layers that are made at the first call; here that call was made."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.net = nn.Sequential(nn.LazyConv2d(6, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))
        self.net(torch.zeros(1, 3, 10, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BuiltInForward(Small):
    """A layer made by the first call, from torch's random state."""

    fresh = True

    def __init__(self) -> None:
        super().__init__()
        self.more: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.more is None:
            torch.manual_seed(4)
            self.more = nn.Linear(6, 6).to(x.dtype)
        h = self.c(x).tanh()
        return self.head(self.more(h.flatten(2).mT).mT.unflatten(2, x.shape[2:]))

    def smooth(self, x: Tensor) -> Tensor:
        if self.more is None:
            torch.manual_seed(4)
            self.more = nn.Linear(6, 6).double()
        return self.forward(x)


class Scripted(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())

    def subject(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.script(_Scriptable(self.c, self.fc).eval())


class _Scriptable(nn.Module):
    def __init__(self, c: nn.Module, fc: nn.Module) -> None:
        super().__init__()
        self.c, self.fc = c, fc
        i, j = torch.arange(10.0)[:, None], torch.arange(10.0)
        self.register_buffer("place", 1 + torch.cos(0.9 * i + 0.7 * j))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(3 * (self.c(x).tanh() * self.place).mean((-2, -1)))


class Traced(Scripted):
    def subject(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.trace(_Scriptable(self.c, self.fc).eval(), torch.zeros(2, 3, 10, 10))


class TracedAndFrozen(Scripted):
    """Weights have become constants: no casting to float64, no penalty."""

    def subject(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(_Scriptable(self.c, self.fc).eval(), torch.zeros(2, 3, 10, 10))
            return torch.jit.freeze(traced)


class ExportedProgram(Scripted):
    """`torch.export`, which fixes shapes."""

    slow = True

    def subject(self) -> Any:
        example = (torch.zeros(2, 3, 10, 10),)
        return torch.export.export(_Scriptable(self.c, self.fc).eval(), example).module()


class TracedByFx(Scripted):
    needed = MEASURING

    def subject(self) -> Any:
        return torch.fx.symbolic_trace(_Scriptable(self.c, self.fc).eval()).eval()


class Compiled(Scripted):
    slow = True

    def subject(self) -> Any:
        return torch.compile(self, backend="aot_eager")


class CompiledEager(Scripted):
    slow = True

    def subject(self) -> Any:
        return torch.compile(self, backend="eager")


class DataParallel(_Plain):
    needed = MEASURING

    def subject(self) -> Any:
        return nn.DataParallel(self).eval()


class AveragedModel(_Plain):
    """`torch.optim.swa_utils`: a copy inside a wrapper."""

    needed = MEASURING

    def subject(self) -> Any:
        return torch.optim.swa_utils.AveragedModel(self).eval()


class Ensemble(_Plain):
    """A lambda over several modules."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(128, 5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.other(x)

    def subject(self) -> Any:
        nets = [lambda x: _Plain.forward(self, x), self.other]
        return lambda x: sum(net(x) for net in nets)


class OneOfAnEnsembleInTraining(Ensemble):
    right = "refusal"
    right_at = {"metric": "number"}  # noqa: RUF012

    def subject(self) -> Any:
        self.n.train()
        return super().subject()


class FunctionalCallOfCopiedWeights(Small):
    """`torch.func.functional_call` with weights from elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())

    def subject(self) -> Any:
        weights = copy.deepcopy(dict(self.named_parameters()))
        return lambda x: torch.func.functional_call(self, weights, x)


class VmappedOverImages(Small):
    """The user's own vmap around a network for one image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.vmap(lambda one: self.head(self.c(one[None]).tanh())[0])(x)
