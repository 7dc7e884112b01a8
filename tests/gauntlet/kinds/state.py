"""Networks that keep something between calls, or draw something at each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward import MEASURING, Small, pooled


class ActivationKeptAsAnAttribute(Small):
    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.c(x).tanh()
        return self.head(self.kept)


class ActivationKeptAndFilledBefore(Small):
    """Something is there already, which must be there afterwards."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.c(x).tanh()
        return self.head(self.kept)


class ActivationsKeptInAList(Small):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        self.kept.append(h)
        return self.head(h)


class ActivationsKeptInADict(Small):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        self.kept["deep"] = {"h": (h, h.mean())}
        return self.head(h)


class ActivationKeptInAnObject(Small):
    """Neither tensor nor container: an object of one's own."""

    class Store:
        tensor: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.store = self.Store()

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        self.store.tensor = h
        return self.head(h)


class ActivationKeptByAHook(Small):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.c.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept["c"] = output

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class ActivationKeptAsABuffer(Small):
    """`register_buffer` at each call: the state dict would hold a dual tensor."""

    fresh = True

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        self.register_buffer("last", h)
        return self.head(h)


class CallsCountedInABuffer(Small):
    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.c(x).tanh())


class CallsCountedAsAttribute(Small):
    """Every third call does something else."""

    right = "refusal"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = self.c(x)
        return self.head(h.tanh() if self.calls % 3 else h.sin() * 2)


class WarmsUpWithItsCalls(Small):
    """A scale that grows from call to call: right is what the first call from here on does."""

    fresh = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.mul_(1.2)
        return self.head(self.c(x).tanh()) * self.scale


class RunningStatisticsUpdatedInEval(Small):
    """Normalises by an average that each call moves: defined from the state as it was handed in."""

    right = "refusal"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        self.mean.lerp_(h.detach().mean((0, 2, 3)), 0.3)
        return self.head((h - self.mean[:, None, None]).tanh() + h)


class RunningStatisticsUpdatedButUnused(Small):
    """A monitor: the output does not see it."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        self.mean.lerp_(h.detach().mean((0, 2, 3)), 0.3)
        return self.head(h.tanh())


class BatchNormForcedToTrain(Small):
    """`F.batch_norm(training=True)` with running statistics: batch statistics, and an update."""

    right = "refusal"
    one_by_one = True

    def __init__(self) -> None:
        super().__init__()
        self.n = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        n = self.n
        h = F.batch_norm(self.c(x), n.running_mean, n.running_var, n.weight, n.bias, training=True)
        return self.head(h.tanh())


class CachesItsFirstInput(Small):
    """The second call is centred on the first one's image."""

    right = "refusal"

    def __init__(self) -> None:
        super().__init__()
        self.first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        if self.first is None:
            self.first = h.detach()[:1].clone()
        return self.head((h - self.first).tanh() + h)


class CachesPositionsOnly(Small):
    """A harmless cache: coordinates of that size."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None or self.grid.dtype != x.dtype:
            self.grid = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype)
        return self.head((self.c(x) * self.grid).tanh())


class CacheByTheShapeOfItsInput(Small):
    """An answer is remembered by shape: the next image of that shape gets it too.

    Right is what the first call from here on does.
    """

    fresh = True

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        key = tuple(x.shape)
        if key not in self.cache:
            self.cache[key] = self.head(self.c(x).tanh()).detach()
        return self.cache[key] + 0 * self.head(self.c(x))


class CacheByShapeFilledBefore(CacheByTheShapeOfItsInput):
    """Answers for other images: the same whatever comes, so a constant."""

    fresh = False
    skip = frozenset({"penalty", "attribute"})  # of a constant: zero is right

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self(0.3 * torch.ones(2, 3, 10, 10).cumsum(3))
            self(0.3 * torch.ones(1, 3, 10, 10).cumsum(2))

    right = "refusal"


class CacheByTheValueOfItsInput(Small):
    """Harmless, unless a dual tensor is kept: an answer for each image seen."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        key = float(x.detach().double().sum())
        if key not in self.cache:
            self.cache[key] = self.head(self.c(x).tanh())
        return self.cache[key]

    def smooth(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class DropoutLeftOn(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.c(x).tanh(), 0.2, training=True))


class DropoutModuleInTrainingMode(Small):
    """Set back to training whenever someone says eval()."""

    right = "refusal"

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(0.4)

    def forward(self, x: Tensor) -> Tensor:
        self.drop.train()
        y = self.head(self.drop(self.c(x).tanh()))
        self.drop.eval()
        return y


class StochasticDepth(Small):
    """A whole branch, half of the time."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        keep = (torch.rand(len(x), 1, 1, 1) < 0.5).to(h)
        return self.head(h + keep * h.sin())


class NoiseOnTheInput(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x + 0.1 * torch.randn_like(x)).tanh())


class NoiseFromNumpy(Small):
    """A source that torch's random state says nothing of."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.from_numpy(np.random.randn(*x.shape)).to(x)
        return self.head(self.c(x + 0.1 * noise).tanh())


class TinyNoise(Small):
    """One part in ten thousand: a difference drowns in it, a derivative does not."""

    def smooth(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.smooth(x + 1e-4 * torch.randn_like(x))


class NoiseSeededInside(Small):
    """The same noise at each call: a function like any other, that resets everybody's seed."""

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        noise = torch.randn(x.shape[1:], dtype=torch.float64).to(x)
        return self.head(self.c(x + noise).tanh())


class NoiseFromItsOwnGenerator(Small):
    """Cannot be copied by pickle; the same noise at each call."""

    def forward(self, x: Tensor) -> Tensor:
        random = torch.Generator().manual_seed(1)
        noise = torch.randn(x.shape[1:], dtype=torch.float64, generator=random).to(x)
        return self.head(self.c(x + noise).tanh())


class GeneratorKept(Small):
    """Noise that continues from call to call, from a generator that nobody rewinds."""

    right = "refusal"

    def __init__(self) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape[1:], generator=self.random).to(x)
        return self.head(self.c(x + 0.1 * noise).tanh())


class RandomSamplingOfTokens(Small):
    """Patch dropout at test time."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).tanh().flatten(2)
        return self.fc(t[..., torch.randperm(t.shape[2])[:50]].mean(2))


class RandomFlipAtTestTime(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(-1) if torch.rand(()) < 0.5 else x
        return self.head(self.c(x).tanh())


class ChangesItsWeights(Small):
    """Test-time adaptation: a step of descent on the weights at each call."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        with torch.enable_grad():
            loss = self.head(self.c(x.detach()).tanh()).square().mean()
            (g,) = torch.autograd.grad(loss, self.fc.weight)
        self.fc.weight.data.sub_(0.5 * g)
        return y


class StateKeptInAGlobal(Small):
    """What it remembers is in no module."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        y = pooled(self.c(x))
        _MEMORY.append(y.detach().mean())
        return self.fc(y.tanh() + 0.3 * sum(_MEMORY[-3:-1], torch.zeros(())).to(y))


_MEMORY: list[Tensor] = []
