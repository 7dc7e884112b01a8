"""The ConvNeXt-style block: convolution, norm, two linear layers, residual.

The separable convolution on Rⁿ × Sⁿ⁻¹ is depthwise: first over space (messages of all neighbours
are summed, per orientation), then over orientations. Source: arXiv 2501.01999, section 3; Bekkers
et al., "Fast, Expressive SE(n) Equivariant Networks", ICLR 2024, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Block", "Conv", "Links"]


@dataclass(frozen=True)
class Links:
    """The edges of one block and what its kernel sees of them.

    Attributes:
        edges: [2, E] senders and receivers.
        receivers: number of receiving points.
        spatial: kernel basis per edge, [E, basis], or [E, O, basis] with orientations.
        spherical: kernel basis per pair of orientations, [O, O, basis], or None without.
        window: factor per edge, [E], or None for 1.
    """

    edges: Tensor
    receivers: int
    spatial: Tensor
    spherical: Tensor | None
    window: Tensor | None = None


class Conv(nn.Module):
    """Depthwise convolution on points, with orientations or without.

    Tensors carry the names of the authors' checkpoints; `pre_linear` is kept for those and takes
    no part here (it only acts on edge attributes, which this network has none of).
    """

    callibrated: Tensor

    def __init__(self, channels: int, basis: int, oriented: bool) -> None:
        super().__init__()
        self.pre_linear = nn.Linear(channels, channels, bias=False)
        self.kernel = nn.Linear(basis, channels, bias=False)
        if oriented:
            self.fiber_kernel = nn.Linear(basis, channels, bias=False)
        self.oriented = oriented
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("callibrated", torch.tensor(False))

    def forward(
        self,
        x: Tensor,
        spatial: Tensor,
        spherical: Tensor | None,
        edges: Tensor,
        receivers: int | None = None,
        window: Tensor | None = None,
    ) -> Tensor:
        """Features of the receiving points from those of the sending ones.

        Args:
            x: [N, C], or [N, O, C] with orientations.
            spatial: kernel basis per edge, see `Links`.
            spherical: kernel basis per pair of orientations, see `Links`.
            edges: [2, E] senders and receivers.
            receivers: number of receiving points; None for as many as senders.
            window: factor per edge, [E], or None.

        Returns:
            [receivers, C] or [receivers, O, C].
        """
        summed = self.over_space(x, spatial, edges, receivers, window)
        return self.over_orientations(summed, spherical) + self.bias

    def over_space(
        self,
        x: Tensor,
        spatial: Tensor,
        edges: Tensor,
        receivers: int | None = None,
        window: Tensor | None = None,
    ) -> Tensor:
        """Sum over neighbours of x · kernel."""
        kernel = self.kernel(spatial)
        if window is not None:
            kernel = kernel * window.reshape(-1, *[1] * (kernel.ndim - 1))
        message = x[edges[0]] * kernel
        rows = len(x) if receivers is None else receivers
        zero = torch.zeros((rows, *message.shape[1:]), dtype=message.dtype, device=message.device)
        return zero.index_add(0, edges[1], message)

    def over_orientations(self, x: Tensor, spherical: Tensor | None) -> Tensor:
        """Mean over sending orientations of x · kernel; nothing without orientations."""
        if not self.oriented:
            return x
        kernel = self.fiber_kernel(spherical)
        return torch.einsum("boc,poc->bpc", x, kernel) / kernel.shape[1]

    @torch.no_grad()
    def calibrate(
        self,
        x: Tensor,
        spatial: Tensor,
        spherical: Tensor | None,
        edges: Tensor,
        receivers: int | None = None,
        window: Tensor | None = None,
    ) -> None:
        """Rescale the kernels so that x and both steps have the same standard deviation."""
        summed = self.over_space(x, spatial, edges, receivers, window)
        both = self.over_orientations(summed, spherical)
        std = [float(t.std(unbiased=False)) for t in (x, summed, both)]
        if min(std) > 0:
            self.kernel.weight *= std[0] / std[1]
            if self.oriented:
                self.fiber_kernel.weight *= std[1] / std[2]
        self.callibrated.fill_(True)


class Block(nn.Module):
    """Convolution, LayerNorm, Linear, GELU, Linear, optional layer scale, optional residual."""

    layer_scale: Tensor | None

    def __init__(
        self,
        channels: int,
        out_channels: int,
        basis: int,
        *,
        oriented: bool,
        widening: int,
        layer_scale: float | None,
        residual: bool,
    ) -> None:
        super().__init__()
        self.conv = Conv(channels, basis, oriented)
        self.act_fn = nn.GELU()
        self.linear_1 = nn.Linear(channels, widening * channels)
        self.linear_2 = nn.Linear(widening * channels, out_channels)
        if layer_scale is None:
            self.register_buffer("layer_scale", None)
        else:
            self.layer_scale = nn.Parameter(torch.full((out_channels,), float(layer_scale)))
        self.norm = nn.LayerNorm(channels)
        self.residual = residual

    def forward(
        self,
        x: Tensor,
        spatial: Tensor,
        spherical: Tensor | None,
        edges: Tensor,
        receivers: int | None = None,
        window: Tensor | None = None,
    ) -> Tensor:
        """[N, (O,) C] to [receivers, (O,) C']; arguments as for `Conv.forward`."""
        y = self.norm(self.conv(x, spatial, spherical, edges, receivers, window))
        y = self.linear_2(self.act_fn(self.linear_1(y)))
        if self.layer_scale is not None:
            y = self.layer_scale * y
        return x + y if self.residual else y
