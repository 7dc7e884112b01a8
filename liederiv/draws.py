"""Random numbers that belong to what is measured: the same for an image wherever it stands.

Noise directions, sampled transforms and random probes are drawn for each image (or point cloud)
from a seed made of its content and of the user's seed. So a measurement does not depend on the
order of the images, on their neighbours, on the size of a batch, on the device or on whether the
same numbers come as float32 or float64. Two images with equal pixels share their draws, and so do
all models that are given equal pixels; other preprocessing makes another image of a photograph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from liederiv.errors import LieDerivError

__all__ = [
    "canonical_bytes",
    "draw_coordinates",
    "item_seeds",
    "seeded_coordinates",
    "seeded_normal",
    "seeded_uniform",
]


def canonical_bytes(v: Tensor) -> bytes:
    """The values of a tensor as bytes: of float32 (integers: of int64), without a negative zero."""
    v = v.detach().cpu()
    if not v.is_floating_point():
        return v.long().contiguous().numpy().tobytes()
    return (v.float() + 0.0).contiguous().numpy().tobytes()


def item_seeds(contents: Iterable[bytes], seed: int, stream: str = "") -> list[int]:
    """One seed for each item, from its content, the user's seed and what the draws are for.

    Args:
        contents: of the items, see `canonical_bytes`.
        seed: the user's.
        stream: purpose of the draws; different ones are independent.

    Example:
        >>> first, second = item_seeds([b"one", b"other"], 0)
        >>> item_seeds([b"other", b"one"], 0) == [second, first]
        True
    """
    salt = hashlib.blake2b(f"{int(seed)}/{stream}".encode(), digest_size=32).digest()
    # The generators of torch keep 32 bits of their seed.
    digests = [hashlib.blake2b(c, key=salt, digest_size=4).digest() for c in contents]
    return [int.from_bytes(d, "little") for d in digests]


def _source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded_normal(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float64 [len(seeds), *shape], the same on any device."""
    draws = [torch.randn(*shape, dtype=torch.float64, generator=_source(s)) for s in seeds]
    return torch.stack(draws)


def seeded_uniform(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Numbers uniform in [0, 1), float64 [len(seeds), *shape]."""
    draws = [torch.rand(*shape, dtype=torch.float64, generator=_source(s)) for s in seeds]
    return torch.stack(draws)


def seeded_coordinates(
    seeds: Sequence[int], half_range: Sequence[float] | Tensor, *, num_samples: int
) -> Iterator[Tensor]:
    """Coordinates of group elements, uniform in ±half_range, each item's from its own seed.

    Args:
        seeds: one per item, see `item_seeds`.
        half_range: K numbers, or [B, K] for ranges of each item.
        num_samples: how many for each item.

    Yields:
        float64 [B, K], num_samples times.
    """
    _check_samples(num_samples)
    limits = torch.as_tensor(half_range, dtype=torch.float64)
    yield from _scaled(seeded_uniform(seeds, (num_samples, limits.shape[-1])), limits)


def draw_coordinates(
    items: int,
    half_range: Sequence[float] | Tensor,
    *,
    num_samples: int,
    rng: torch.Generator | None,
) -> Iterator[Tensor]:
    """The same from one source for all items, for training, where every step draws anew.

    Args:
        items: B.
        half_range: K numbers, or [B, K] for ranges of each item.
        num_samples: how many for each item.
        rng: source of randomness, not rewound; None takes torch's own.

    Yields:
        float64 [B, K], num_samples times.
    """
    _check_samples(num_samples)
    limits = torch.as_tensor(half_range, dtype=torch.float64)
    shape = (items, num_samples, limits.shape[-1])
    device = "cpu" if rng is None else rng.device
    uniform = torch.rand(shape, generator=rng, dtype=torch.float64, device=device).cpu()
    yield from _scaled(uniform, limits)


def _check_samples(num_samples: int) -> None:
    if num_samples < 1:
        raise LieDerivError(f"num_samples={num_samples} must be at least 1.")


def _scaled(uniform: Tensor, limits: Tensor) -> Iterator[Tensor]:
    t = (2 * uniform - 1) * (limits if limits.ndim == 1 else limits[:, None])
    yield from t.unbind(1)
