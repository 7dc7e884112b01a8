"""Operators off the beaten track: recurrent, sampled, sorted, complex, from linear algebra."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward import EVERYWHERE, MEASURING, Small, place, pooled


class _Recurrent(Small):
    rnn: type[nn.Module] = nn.LSTM

    def __init__(self) -> None:
        super().__init__()
        self.r = self.rnn(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.r(self.c(x).mean(2).mT)[0][:, -1])


class LongShortTermMemory(_Recurrent):
    needed = MEASURING


class GatedRecurrentUnit(_Recurrent):
    needed = MEASURING
    rnn = nn.GRU


class BidirectionalStackedLstm(Small):
    def __init__(self) -> None:
        super().__init__()
        self.r = nn.LSTM(6, 3, 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.r(self.c(x).mean(3).mT)[0].sin().mean(1))


class LstmCellUnrolled(Small):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for column in self.c(x).mean(2).unbind(-1):
            state = self.cell(column, state)
        return self.fc(state[0])  # type: ignore[index]


class PackedSequence(Small):
    def __init__(self) -> None:
        super().__init__()
        self.r = nn.GRU(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).mean(2).mT
        packed = nn.utils.rnn.pack_padded_sequence(t, torch.tensor([7] * len(t)), batch_first=True)
        return self.fc(self.r(packed)[1][0])


class GridSampleOfAMovingGrid(Small):
    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        eye = torch.eye(2, 3, dtype=h.dtype).expand(len(h), 2, 3)
        grid = F.affine_grid(eye, list(h.shape), align_corners=False)
        grid = grid + 0.3 * self.o(h).tanh().permute(0, 2, 3, 1)
        return self.head(F.grid_sample(h, grid, align_corners=False))


class GridSampleNearest(Small):
    """Positions are rounded, values are not."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        a = 0.3 * pooled(h)[:, 0]
        theta = torch.stack([a.cos(), -a.sin(), 0 * a, a.sin(), a.cos(), 0 * a], 1)
        grid = F.affine_grid(theta.reshape(-1, 2, 3), list(x.shape), align_corners=False)
        return self.head(F.grid_sample(h, grid, mode="nearest", align_corners=False))


class Interpolated(Small):
    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        up = F.interpolate(h, scale_factor=1.7, mode="bicubic")
        small = F.interpolate(up, size=(7, 5), mode="bilinear", antialias=True)
        return self.head(F.interpolate(small, size=(9, 9), mode="nearest-exact"))


class MaxUnpool(Small):
    def forward(self, x: Tensor) -> Tensor:
        h, where = F.max_pool2d(self.c(x), 2, return_indices=True)
        return self.head(F.max_unpool2d(h, where, 2))


class FractionalMaxPool(Small):
    """Draws its regions anew on each call."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.fractional_max_pool2d(self.c(x), 2, output_size=4))


class LpAndAdaptivePools(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(F.lp_pool2d(h.exp(), 3.0, 2)) + self.head(F.adaptive_max_pool2d(h, 3))


class TopTokens(Small):
    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2)
        kept = t.mean(1).topk(20).indices
        return self.fc(t.gather(2, kept[:, None].expand(-1, 6, -1)).tanh().cumsum(2).mean(2))


class SortedFeatures(Small):
    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2).sort(-1).values
        return self.fc((t * torch.linspace(0, 1, t.shape[2], dtype=t.dtype)).mean(2))


class CumulativeMaximum(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.cummax(3).values + h.logcumsumexp(2) + h.median(2, keepdim=True).values)


class FourierFilter(Small):
    """Complex weights: cast by hand, if at all."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 10, 6, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.irfft2(torch.fft.rfft2(self.c(x)) * self.w, s=(10, 10)).tanh())


class FourierFilterOfPairs(Small):
    """Complex weights stored as pairs of reals, as GFNet does."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 10, 6, 2))

    def forward(self, x: Tensor) -> Tensor:
        w = torch.view_as_complex(self.w)
        return self.head(torch.fft.irfft2(torch.fft.rfft2(self.c(x)) * w, s=(10, 10)).tanh())


class ComplexConvolution(Small):
    def __init__(self) -> None:
        super().__init__()
        self.d = nn.Conv2d(6, 6, 3, dtype=torch.complex64)

    def smooth(self, x: Tensor) -> Tensor:
        h = self.c(x)
        w, b = self.d.weight.to(torch.complex128), self.d.bias
        return self.head(
            F.conv2d(torch.complex(h, h.sin()), w, None if b is None else b.to(w)).abs()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(self.d(torch.complex(h, h.sin())).abs().to(x.dtype))


class LinearAlgebra(Small):
    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2)
        m = t @ t.mT / t.shape[2] + 0.1 * torch.eye(6, dtype=t.dtype)
        w = torch.linalg.cholesky(m)
        s = torch.linalg.solve(m, pooled(self.c(x))[..., None])[..., 0]
        return self.fc(s + w.sum(2) + torch.linalg.eigvalsh(m))


class WhitenedBySvd(Small):
    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2)
        u, s, v = torch.linalg.svd(t, full_matrices=False)
        return self.fc(
            (u @ (s.sqrt()[..., None] * v)).mul(torch.linspace(0, 1, t.shape[2]).to(t)).mean(2)
        )


class PairwiseDistances(Small):
    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2)
        return self.fc((torch.cdist(t, t.roll(1, 2) + 0.3).sin() @ t).mul(place(t)).mean(2))


class VectorQuantised(Small):
    """Codes are piecewise constant; the straight-through estimate is not their derivative."""

    right = "refusal"

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(8, 6) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).permute(0, 2, 3, 1)
        near = (h[..., None, :] - self.codes).square().sum(-1).argmin(-1)
        q = self.codes[near]
        return self.head((h + (q - h).detach()).permute(0, 3, 1, 2))


class MixtureOfExperts(Small):
    """Tokens are routed by their largest gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2).mT
        p, chosen = self.gate(t).softmax(-1).max(-1)
        y = torch.zeros_like(t)
        for e, expert in enumerate(self.experts):
            here = chosen == e
            y[here] = p[here][:, None] * expert(t[here])
        return self.head(y.mT.unflatten(2, x.shape[2:]))


class HalvesByUnfoldAndFold(Small):
    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        u = F.unfold(self.c(x), 3, padding=1).tanh()
        return self.head(F.fold(u, x.shape[2:], 3, padding=1))


class PixelShuffled(Small):
    needed = EVERYWHERE

    def __init__(self) -> None:
        super().__init__(24)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.pixel_shuffle(self.c(x), 2).tanh())


class LocalResponseNorm(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.local_response_norm(self.c(x), 3, alpha=0.5))


class AnyDtypeEmbeddingOfRoundedPixels(Small):
    """A table looked up by rounded values, beside a smooth path."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        code = (h[:, 0] * 3 + 8).round().clamp(0, 15).long()
        return self.head(h.tanh() + self.table(code).permute(0, 3, 1, 2))


class CosineSimilarityHead(Small):
    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        z = F.normalize(pooled(self.c(x)), dim=1)
        return F.cosine_similarity(z[:, None], self.fc.weight[None], dim=-1) * 10


class FixedPointIteration(Small):
    """Runs until it has converged: a number of steps that depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x))
        z = torch.zeros_like(y)
        for _ in range(50):
            new = (0.5 * z + y).tanh()
            if float((new - z).detach().abs().max()) < 1e-12:
                break
            z = new
        return z
