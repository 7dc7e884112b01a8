"""Outputs that are no single float tensor [B, n], or hide something in one."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..awkward import EVERYWHERE, MEASURING, Awkward, Small, pooled

LIE = frozenset({"lie_derivative"})


class DictOfTensors(Small):
    needed = LIE
    output = {"logits": "invariant", "map": "NCHW"}  # noqa: RUF012

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.c(x).tanh()
        return {"logits": self.head(h), "map": h}


class DictInAnotherOrder(Small):
    """Declared in another order than returned."""

    needed = LIE
    output = {"map": "NCHW", "logits": "invariant"}  # noqa: RUF012

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.c(x).tanh()
        return {"logits": self.head(h), "map": h}


class DictWithADetachedLeaf(Small):
    """A small head beside a large map, and its derivative is cut."""

    output = {"map": "NCHW", "aux": "invariant"}  # noqa: RUF012

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.c(x)
        return {"map": 1e4 * h.tanh(), "aux": 1e-3 * self.head(h.detach().sin())}


class TupleWithADetachedLeaf(Small):
    output = ("invariant", "invariant")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.c(x)
        return 1e3 * self.head(h.tanh()), self.head(h + h.square().detach())


class TupleOfVeryDifferentScales(Small):
    """Both are right, one is a millionth of the other."""

    needed = LIE
    output = ("invariant", "invariant")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.c(x)
        return 1e3 * self.head(h.tanh()), 1e-3 * self.head(h.sin())


class IntegerLeaf(Small):
    output = {"logits": "invariant", "label": "invariant"}  # noqa: RUF012

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.head(self.c(x).tanh())
        return {"logits": y, "label": y.argmax(1)}


class NoneLeaf(Small):
    output = {"logits": "invariant", "loss": "invariant"}  # noqa: RUF012

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"logits": self.head(self.c(x).tanh()), "loss": None}


@dataclass
class _Answer:
    logits: Tensor
    hidden: Tensor


class DataclassOutput(Small):
    """As Hugging Face's models return them, without being a pytree."""

    output = {"logits": "invariant", "hidden": "invariant"}  # noqa: RUF012

    def forward(self, x: Tensor) -> Any:
        h = self.c(x).tanh()
        return _Answer(self.head(h), pooled(h))


_Pair = namedtuple("_Pair", "logits hidden")


class NamedTupleOutput(Small):
    output = ("invariant", "invariant")

    def forward(self, x: Tensor) -> Any:
        h = self.c(x).tanh()
        return _Pair(self.head(h), pooled(h))


class OrderedDictOutput(Small):
    """As torchvision's segmentation models."""

    output = {"out": "NCHW", "aux": "invariant"}  # noqa: RUF012

    def forward(self, x: Tensor) -> Any:
        h = self.c(x).tanh()
        return OrderedDict(out=h, aux=self.head(h))


class DictWithAKeyMissing(Small):
    """A key is declared that the model does not return."""

    right = "refusal"
    output = {"logits": "invariant", "map": "NCHW"}  # noqa: RUF012

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.c(x).tanh())}


class DictWithOtherKeys(Small):
    """As many as declared, under other names."""

    right = "refusal"
    output = {"a": "invariant", "b": "NCHW"}  # noqa: RUF012

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.c(x).tanh()
        return {"logits": self.head(h), "map": h}


class LabelsOnly(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).argmax(1)


class ScoreWithoutAxis(Small):
    """[B]."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())[:, 0]


class SingleLogit(Small):
    """[B, 1]: has no softmax."""

    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())[:, :1]


class MapOutput(Small):
    """Exactly as large as the image; zero padding breaks it at the border."""

    needed = EVERYWHERE
    output = "NCHW"
    output_type = "output"

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x).tanh()


class MapOutputOfHalfTheSize(Small):
    needed = EVERYWHERE
    output = "NCHW"
    output_type = "output"

    def __init__(self) -> None:
        super().__init__()
        self.d = nn.Conv2d(6, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(x).tanh())


class ChannelsLastMapOutput(Small):
    needed = MEASURING
    output = "NHWC"
    output_type = "output"

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x).tanh().permute(0, 2, 3, 1)


class ExpandedOutput(Small):
    """Entries share memory."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())[:, :1].expand(-1, 5)


class OutputIsAViewOfTheInput(Awkward):
    """A crop: what the caller holds is what the network returns."""

    skip = frozenset({"penalty", "attribute"})

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 3, 4]


class OutputIsTheInputItself(Awkward):
    needed = MEASURING
    skip = frozenset({"penalty", "attribute"})
    output = "NCHW"
    output_type = "output"

    def forward(self, x: Tensor) -> Tensor:
        return x


class ConstantOutput(Awkward):
    """Depends on nothing: a true zero, or refused since nothing reaches it."""

    skip = frozenset({"penalty", "attribute"})

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(5, dtype=x.dtype).expand(len(x), 5).clone()


class ComplexOutput(Small):
    """Spectra: what is a square there?"""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(self.head(self.c(x).tanh()))


class ListOfNumbers(Small):
    """No tensor at all."""

    right = "refusal"

    def forward(self, x: Tensor) -> Any:
        return self.head(self.c(x).tanh()).tolist()


class NumpyOutput(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Any:
        return self.head(self.c(x).tanh()).detach().numpy()


class OneTinyLogitCut(Small):
    """One logit of five is a thousandth of the others and stands still."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        return torch.cat([y[:, :4], 1e-3 * y[:, 4:].detach()], 1)


class SparseOutput(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).to_sparse()


class TensorSubclassOutput(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).as_subclass(_Labelled)


class _Labelled(Tensor):
    """A subclass with a name and nothing else."""
