"""Finding out by experiment whether a module is elementwise, and whether it is affine.

No list of classes knows every activation. A module is a pointwise nonlinearity exactly when

1. output element i depends on input element i only,
2. it is the same function at every position, so that it can be run on a finer grid,
3. it is not affine: otherwise it commutes with every linear resampling.

Each is tested on the tensor that the module is given, by changing half of its elements, by
permuting its positions and by comparing midpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .layouts import Layout
from .maps import from_map, to_map

__all__ = ["is_affine", "is_elementwise", "is_pointwise_nonlinearity", "sample_inputs"]

_TOLERANCE = 1e-5  # relative to the largest output; rounding in float32
_EXPECTED = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)


@torch.no_grad()
def is_elementwise(module: nn.Module, z: Tensor, layout: Layout) -> bool:
    """Whether output i depends on input i only, in the same way at every position.

    Args:
        module: in eval mode.
        z: an input that it accepts.
        layout: where positions and channels are in z.

    Example:
        >>> z = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> layout = Layout("NCHW", (6, 6))
        >>> is_elementwise(nn.PReLU(4), z, layout), is_elementwise(nn.Softmax(1), z, layout)
        (True, False)
    """
    y = _run(module, z)
    if y is None or y.shape != z.shape:
        return False
    same = _same_within(_TOLERANCE * float(y.abs().max()))
    random = torch.Generator().manual_seed(0)
    for _ in range(2):
        # Shifting half of the elements upwards moves every mean and every maximum.
        changed = torch.rand(z.shape, generator=random).to(z.device) < 0.5
        step = (1 + torch.rand(z.shape, generator=random).to(z)) * _spread(z)
        other = _run(module, torch.where(changed, z + step, z))
        if other is None or not same(other[~changed], y[~changed]):
            return False
    shuffled = _run(module, _shuffle(z, layout))
    return shuffled is not None and same(shuffled, _shuffle(y, layout))


@torch.no_grad()
def is_affine(module: Callable[[Tensor], Tensor], z: Tensor) -> bool:
    """Whether the module maps midpoints to midpoints, near z and for larger inputs.

    Args:
        module: in eval mode.
        z: an input that it accepts.

    Example:
        >>> z = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> is_affine(nn.Conv2d(4, 2, 3), z), is_affine(nn.MaxPool2d(2), z)
        (True, False)
    """
    random = torch.Generator().manual_seed(1)
    for size in (1.0, 8.0):
        step = torch.randn(z.shape, generator=random).to(z) * _spread(z) * size
        ends = _run(module, z + step), _run(module, z - step)
        middle = _run(module, z)
        if ends[0] is None or ends[1] is None or middle is None:
            return False
        scale = max(float(v.abs().max()) for v in (*ends, middle) if v is not None)
        if not _same_within(10 * _TOLERANCE * scale)((ends[0] + ends[1]) / 2, middle):
            return False
    return True


def is_pointwise_nonlinearity(module: nn.Module, z: Tensor, layout: Layout) -> bool:
    """Whether the module has an alias-free counterpart as an activation."""
    return is_elementwise(module, z, layout) and not is_affine(module, z)


def sample_inputs(module: nn.Module) -> Iterator[tuple[Tensor, Layout]]:
    """Random maps that a module of unknown width may accept, for use without an example.

    The number of channels is a length of one of its parameters or buffers, or 4.
    """
    tensors = [*module.parameters(), *module.buffers()]
    sizes = dict.fromkeys([*(s for t in tensors for s in t.shape), 4])
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    random = torch.Generator().manual_seed(0)
    for channels in list(sizes)[:8]:
        z = 3 * torch.randn(1, channels, 5, 6, generator=random)
        yield z.to(like), Layout("NCHW", (5, 6))


def _run(module: Callable[[Tensor], Tensor], z: Tensor) -> Tensor | None:
    """The output for a copy of z; None if it is not one finite floating tensor."""
    try:
        y = module(z.clone())
    except _EXPECTED:
        return None
    fine = isinstance(y, Tensor) and y.is_floating_point() and bool(y.isfinite().all())
    return y if fine else None


def _same_within(tolerance: float) -> Callable[[Tensor, Tensor], bool]:
    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and (a.numel() == 0 or float((a - b).abs().max()) <= tolerance)

    return same


def _spread(z: Tensor) -> float:
    """Typical size of z's variation; 1 for a constant tensor."""
    spread = float(z.std()) if z.numel() > 1 else 0.0
    return spread if spread > 0 else 1.0


def _shuffle(z: Tensor, layout: Layout) -> Tensor:
    """Permute the positions of a tensor."""
    prefix, maps = to_map(z, layout)
    order = torch.randperm(maps[0, 0].numel(), generator=torch.Generator().manual_seed(2))
    mixed = maps.flatten(2)[..., order.to(z.device)].view_as(maps)
    return from_map(prefix, mixed, layout)
