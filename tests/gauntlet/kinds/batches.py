"""Rows that depend on each other, are in another order, or are no rows of the batch at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward import MEASURING, Small, photographs


class _OneByOne(Small):
    """Refused for a batch, right for single images."""

    right = "refusal"
    one_by_one = True


class BatchStatisticsInEvalMode(_OneByOne):
    """``track_running_stats=False`` normalises by the batch at all times."""

    skip = frozenset({"penalty"})  # there the batch's statistics are meant

    def __init__(self) -> None:
        super().__init__()
        self.n = nn.BatchNorm2d(6, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.n(self.c(x)).tanh())


class FunctionalBatchNormInTraining(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.batch_norm(self.c(x), None, None, training=True).tanh())


class BatchMeanSubtracted(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head((h - 0.9 * h.mean(0, keepdim=True)).tanh() + h)


class BatchMeanDetached(_OneByOne):
    """The dependence has no derivative."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head((h - h.mean(0, keepdim=True).detach()).tanh() + h)


class ScaledByTheLargestOfTheBatch(_OneByOne):
    """Changes all images but the largest one."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h / h.abs().amax())


class ItemOfTheBatchAsScale(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h / h.std().item())


class SoftmaxOverTheBatch(_OneByOne):
    """The wrong axis."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        return y + y.softmax(0)


class CumulativeSumOverTheBatch(_OneByOne):
    """The first image is right."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).cumsum(0)


class LooksAtThePreviousImage(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + torch.cat([torch.zeros_like(h[:1]), h[:-1]]).tanh())


class RecurrentOverTheBatch(_OneByOne):
    """batch_first forgotten: time runs over images."""

    def __init__(self) -> None:
        super().__init__()
        self.r = nn.GRU(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.r(self.c(x).mean(2).mT)[0].sin().mean(1))


class RowsReversed(_OneByOne):
    """The right numbers, each for another image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).flip(0)


class RowsSorted(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        return y[y[:, 0].argsort()]


class RowsRolled(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).roll(1, 0)


class SameAnswerForAll(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).mean(0, keepdim=True).expand(len(x), -1)


class PositionInTheBatch(_OneByOne):
    """Each image is treated by its number."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        return y * torch.arange(1, len(y) + 1)[:, None]


class SizeOfTheBatchAsTemperature(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()) / len(x)


class TestTimeAugmentation(Small):
    """2B rows for B images."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(torch.cat([x, x.flip(-1)])).tanh())


class TestTimeAugmentationAveraged(Small):
    """The same averaged: nothing awkward is left."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(torch.cat([x, x.flip(-1)])).tanh())
        return y.unflatten(0, (2, -1)).mean(0)


class InterleavedAugmentation(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x.repeat_interleave(2, 0)).tanh())


class TransposedOutput(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).T


class TransposedSquareOutput(Small):
    """As many classes as images: the shape gives nothing away."""

    right = "refusal"

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).T


class WithoutABatchAxis(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).mean(0)


class WithoutABatchAxisButOfItsSize(Small):
    """Two numbers for two images, that are the means of two classes."""

    right = "refusal"

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).mean(0)


class OnlyTheFirstImage(_OneByOne):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x[:1]).tanh())


class SqueezesAwayABatchOfOne(Small):
    """[5] for one image, [2, 5] for two; measured for what it is, or refused."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).squeeze(0)

    def smooth(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class SimilarityOfAllPairs(Small):
    """[B, B], as contrastive losses want it."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        z = F.normalize(self.head(self.c(x).tanh()), dim=1)
        return z @ z.T


class ScalarLoss(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).square().mean()


class FoldsTheBatchIntoTokens(Small):
    """[B · tokens, n]: rows by the hundred."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c(x).tanh().flatten(2).mT.flatten(0, 1))


class DependsOnTheBatchFromFourOn(_OneByOne):
    """Ghost batches: a pair is left alone, four images are mixed."""

    images = staticmethod(lambda: photographs(4, (8, 8)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        if len(x) >= 4:
            h = h - h.mean(0, keepdim=True)
        return self.head(h.tanh())


class MixesOnlyTheLastTwo(_OneByOne):
    """The first images of the batch are honest."""

    images = staticmethod(lambda: photographs(4, (8, 8)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        if len(y) < 4:
            return y
        return torch.cat([y[:2], y[2:].mean(0, keepdim=True).expand(2, -1)])


class FoldedAndUnfoldedRightly(Small):
    """Windows on the batch axis inside, put back before the end."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).unflatten(2, (2, 5)).unflatten(4, (2, 5)).permute(0, 2, 4, 1, 3, 5)
        w = h.flatten(0, 2)
        w = w.softmax(1) * w
        h = w.unflatten(0, (len(x), 2, 2)).permute(0, 3, 1, 4, 2, 5)
        return self.head(h.flatten(2, 3).flatten(3, 4))
