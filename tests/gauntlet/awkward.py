"""What all awkward networks have in common: how they are built, handed in, and what is right."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

MEASURING = frozenset({"lie_derivative", "measure", "metric", "assert_equivariant"})
EVERYWHERE = MEASURING | {"penalty", "attribute"}


def photographs(
    batch: int = 2, size: tuple[int, int] = (10, 10), dtype: torch.dtype = torch.float32
) -> Tensor:
    """Smooth random images [B, 3, h, w] of order one; the second is darker than the first."""
    random = torch.Generator().manual_seed(7)
    x = torch.randn(batch, 3, *size, dtype=torch.float64, generator=random)
    x = (x + x.roll(1, 2) + x.roll(1, 3) + x.roll((1, 1), (2, 3))) / 2
    brightness = torch.linspace(0.4, -0.4, batch, dtype=torch.float64)
    return (x + brightness[:, None, None, None]).to(dtype)


def place(h: Tensor) -> Tensor:
    """Weights [h, w] that make a pooled map depend on where things are."""
    i, j = (torch.arange(n, dtype=h.dtype, device=h.device) for n in h.shape[-2:])
    return 1 + torch.cos(0.9 * i[:, None] + 0.7 * j)


def pooled(h: Tensor) -> Tensor:
    """[B, C, h, w] to [B, C], not invariant to anything."""
    return 3 * (h * place(h)).mean((-2, -1))


class Awkward(nn.Module):
    """A small network with something awkward about it.

    Attributes:
        kind: name of the module it stands in.
        right: ``number`` (refusing is fine unless `needed`), or ``refusal``.
        right_at: the same for single entry points, where it differs.
        needed: entry points at which a refusal is a failure.
        skip: entry points that have nothing to say about it.
        one_by_one: measured with batch_size=1, the number of single images is right.
        output: representation handed to the entry points and to the truth.
        output_type: likewise.
        generators: likewise.
        tolerance: largest relative error of a right number.
        step: of the truth's differences, relative to the largest pixel.
        zero: squared norm that counts as zero whatever the sensitivity is.
        fresh: the truth calls an untouched copy each time, since a call changes the network.
        forbidden: words that no refusal may contain, because they would be a false diagnosis.
        crashes: run in a process of its own, since torch may kill it.
        slow: left to ``make test-all``.
    """

    kind: ClassVar[str] = ""
    right: ClassVar[Literal["number", "refusal"]] = "number"
    right_at: ClassVar[dict[str, str]] = {}
    needed: ClassVar[frozenset[str]] = frozenset()
    skip: ClassVar[frozenset[str]] = frozenset()
    one_by_one: ClassVar[bool] = False
    output: ClassVar[Any] = "auto"
    output_type: ClassVar[str] = "logits"
    generators: ClassVar[str] = "translation,rotation"
    tolerance: ClassVar[float] = 0.02
    step: ClassVar[float] = 2e-6
    zero: ClassVar[float] = 0.0
    fresh: ClassVar[bool] = False
    forbidden: ClassVar[tuple[str, ...]] = ()
    crashes: ClassVar[bool] = False
    slow: ClassVar[bool] = False
    images: ClassVar[Callable[[], Any]] = staticmethod(photographs)

    @classmethod
    def build(cls) -> Awkward:
        """The network, always with the same weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return cls().eval()

    def subject(self) -> Any:
        """What is handed to the entry points."""
        return self

    def ambient(self) -> AbstractContextManager[Any]:
        """What is switched on around the calls."""
        return nullcontext()

    def smooth(self, x: Any) -> Any:
        """The function that is meant, for the truth; written out where it is not the forward."""
        return self(x)


class Small(Awkward):
    """A convolution and a classifier on weighted means, for something awkward in between."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def head(self, h: Tensor) -> Tensor:
        """[B, width, h, w] to [B, 5]."""
        return self.fc(pooled(h))
