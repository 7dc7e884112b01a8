"""Normalisations, filters and attention whose weights or statistics depend on the input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward import EVERYWHERE, MEASURING, Awkward, Small, pooled


class _Conditioned(Small):
    def __init__(self) -> None:
        super().__init__()
        self.g, self.b = nn.Linear(3, 6), nn.Linear(3, 6)

    def code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A scale and a shift per channel, from the image."""
        s = pooled(x)
        return self.g(s), self.b(s)


class LayerNormWithWeightOfTheInput(_Conditioned):
    """One image at a time, as the functional form takes one weight."""

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x.split(1):
            g, b = self.code(one)
            h = self.c(one).permute(0, 2, 3, 1)
            rows.append(F.layer_norm(h, (6,), g[0], b[0]).permute(0, 3, 1, 2))
        return self.head(torch.cat(rows))


class LayerNormWithBiasOfTheInput(_Conditioned):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x.split(1):
            h = self.c(one).permute(0, 2, 3, 1)
            rows.append(F.layer_norm(h, (6,), None, self.code(one)[1][0]).permute(0, 3, 1, 2))
        return self.head(torch.cat(rows))


class GroupNormWithWeightOfTheInput(_Conditioned):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x.split(1):
            g, b = self.code(one)
            rows.append(F.group_norm(self.c(one), 2, g[0], b[0]))
        return self.head(torch.cat(rows))


class BatchNormWithWeightOfTheInput(_Conditioned):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x.split(1):
            g, b = self.code(one)
            zero, unit = torch.zeros(6, dtype=x.dtype), torch.ones(6, dtype=x.dtype)
            rows.append(F.batch_norm(self.c(one), zero, unit, g[0], b[0]))
        return self.head(torch.cat(rows))


class BatchNormWithStatisticsOfTheInput(_Conditioned):
    """Frozen, since torch has no gradient for the statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x.split(1):
            h = self.c(one)
            mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3))
            rows.append(F.batch_norm(h, mean, var))
        return self.head(torch.cat(rows).tanh())


class BatchNormWithStatisticsOfADetachedInput(_Conditioned):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x.split(1):
            h = self.c(one)
            rows.append(F.batch_norm(h, h.detach().mean((0, 2, 3)), h.detach().var((0, 2, 3))))
        return self.head(torch.cat(rows).tanh())


class InstanceNorm(Small):
    needed = EVERYWHERE

    def __init__(self) -> None:
        super().__init__()
        self.n = nn.InstanceNorm2d(6, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.n(self.c(x)).tanh())


class InstanceNormWithWeightOfTheInput(_Conditioned):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x.split(1):
            g, b = self.code(one)
            rows.append(F.instance_norm(self.c(one), weight=g[0], bias=b[0]))
        return self.head(torch.cat(rows))


class RmsNormWithWeightOfTheInput(_Conditioned):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x.split(1):
            h = self.c(one).permute(0, 2, 3, 1)
            rows.append(F.rms_norm(h, (6,), self.code(one)[0][0]).permute(0, 3, 1, 2))
        return self.head(torch.cat(rows))


class FiLM(_Conditioned):
    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        g, b = self.code(x)
        return self.head(self.c(x) * (1 + g[..., None, None]) + b[..., None, None])


class FiLMOfADetachedCode(_Conditioned):
    def forward(self, x: Tensor) -> Tensor:
        g, b = self.code(x.detach())
        return self.head(self.c(x) * (1 + g[..., None, None]) + b[..., None, None])


class AdaptiveLayerNorm(_Conditioned):
    """As in diffusion transformers: norm without weights, then a scale of the input."""

    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        g, b = self.code(x)
        h = F.layer_norm(self.c(x).flatten(2).mT, (6,))
        h = h * (1 + g[:, None]) + b[:, None]
        return self.head(h.mT.unflatten(2, x.shape[2:]))


class DynamicConvolution(Small):
    """A filter for each image, the batch folded into groups."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(3, 6 * 6 * 9)

    def forward(self, x: Tensor) -> Tensor:
        h, (B, _, H, W) = self.c(x).tanh(), x.shape
        w = self.w(pooled(x)).reshape(B * 6, 6, 3, 3)
        y = F.conv2d(h.reshape(1, B * 6, H, W), w, padding=1, groups=B)
        return self.head(y.reshape(B, 6, H, W))


class DynamicConvolutionImageByImage(DynamicConvolution):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        w = self.w(pooled(x)).reshape(len(x), 6, 6, 3, 3)
        return self.head(
            torch.cat([F.conv2d(a[None], b, padding=1) for a, b in zip(h, w, strict=True)])
        )


class DynamicTransposedConvolution(DynamicConvolution):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        w = self.w(pooled(x)).reshape(len(x), 6, 6, 3, 3)
        maps = [F.conv_transpose2d(a[None], b, stride=2) for a, b in zip(h, w, strict=True)]
        return self.head(torch.cat(maps))


class PreluWithWeightOfTheInput(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(torch.cat([F.prelu(v[None], v.mean((1, 2)).sigmoid()) for v in h]))


class WeightStandardisation(Small):
    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        w = self.c.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return self.head(F.conv2d(x, w, self.c.bias, padding=1).tanh())


class _Attention(Small):
    def __init__(self) -> None:
        super().__init__(8)
        self.qkv = nn.Linear(8, 24)
        self.register_buffer("pos", torch.randn(100, 8))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 2 heads, tokens, 4] each."""
        t = self.c(x).flatten(2).mT + self.pos
        return tuple(self.qkv(t).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4))  # type: ignore[return-value]

    def read(self, y: Tensor) -> Tensor:
        """[B, heads, tokens, 4] to [B, 5]."""
        return self.head(y.transpose(1, 2).flatten(2).mT.unflatten(2, (10, 10)))


class CausalAttention(_Attention):
    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        return self.read(F.scaled_dot_product_attention(*self.heads(x), is_causal=True))


class AttentionWithBooleanMask(_Attention):
    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(100, 100, dtype=torch.bool).tril()
        return self.read(F.scaled_dot_product_attention(*self.heads(x), attn_mask=mask))


class AttentionWithMaskOfTheInput(_Attention):
    """A bias found from the queries themselves."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        mask = (q.mean(-1)[..., None] - k.mean(-1)[..., None, :]).square().neg()
        return self.read(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


class AttentionWithDetachedMask(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        mask = (5 * (q.mean(-1)[..., None] - k.mean(-1)[..., None, :]).square().neg()).detach()
        return self.read(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


class AttentionWithScaleAndNoDropout(_Attention):
    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.read(F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, scale=1.7))


class AttentionWithDropoutLeftOn(_Attention):
    """`dropout_p` does not know the mode of the module."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.read(F.scaled_dot_product_attention(*self.heads(x), dropout_p=0.3))


class GroupedQueryAttention(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.read(F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True))


class MultiheadAttentionModule(Small):
    needed = EVERYWHERE

    def __init__(self) -> None:
        super().__init__(8)
        self.a = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2).mT
        return self.head(self.a(t, t, t, need_weights=False)[0].mT.unflatten(2, x.shape[2:]))


class MultiheadAttentionWeightsReturned(MultiheadAttentionModule):
    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2).mT
        w = self.a(t, t, t, average_attn_weights=False)[1]
        return self.head((w @ t[:, None].sin()).mean(1).mT.unflatten(2, x.shape[2:]))


class TransformerEncoderLayer(Small):
    needed = EVERYWHERE

    def __init__(self) -> None:
        super().__init__(8)
        self.t = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.t(self.c(x).flatten(2).mT).mT.unflatten(2, x.shape[2:]))


class SequenceFirstAttention(Small):
    """[tokens, batch, channels], as torch had it first: the batch is axis 1 inside."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__(8)
        self.a = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2).permute(2, 0, 1)
        return self.head(self.a(t, t, t)[0].permute(1, 2, 0).unflatten(2, x.shape[2:]))


class AttentionAcrossTheBatch(Small):
    """batch_first forgotten: images look at each other."""

    right = "refusal"
    one_by_one = True

    def __init__(self) -> None:
        super().__init__(8)
        self.a = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2).mT
        return self.head(self.a(t, t, t)[0].mT.unflatten(2, x.shape[2:]))


class ConditionedOnItself(Awkward):
    """Weights of the classifier made from the image (a hypernetwork)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(3, 15)

    def forward(self, x: Tensor) -> Tensor:
        s = pooled(x)
        return torch.bmm(self.w(s).unflatten(1, (5, 3)), s[..., None])[..., 0]
