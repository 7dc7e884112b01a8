r"""Does a map show the image where it should? Seen by painting spots on the image.

The shape of a map does not say where its pixels look: 32 × 32 pixels of a 64 × 64 image may be
every second place, the middle or a corner of the image, attention between 32 queries, or a map
that stands on its side. A spot painted on the image tells them apart: with f(x + spot) − f(x)
squared and summed over channels, a map of the whole image changes around the spot's own place, as
a share of height and width; a crop changes twice as far from the middle, or not at all.

Five spots (the corners of the middle three quarters, and the middle) and x itself take six forward
passes of one image. What all spots change alike (a pooled branch) is left out. A map whose pixels
see everything equally cannot be told from none, and is not confirmed. A mirrored map is one of the
whole image, and moves the wrong way: that is its error, and measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liederiv.differentiation import forward_mode
from liederiv.differentiation.calls import PlainFunction
from liederiv.differentiation.models import watched

__all__ = ["Spots", "misplacement", "paint"]

_PLACES = ((0.125, 0.125), (0.125, 0.875), (0.5, 0.5), (0.875, 0.125), (0.875, 0.875))
_SPEED = (0.35, 1.15)  # how far the change moves when the spot does; large fields shorten it
_ACROSS = 0.3  # how far it may move along the other axis, as a share of that
_NEAR = 0.3  # half the side of the square around the spot that holds …
_SHARE = 0.6  # … at least this share of the change
_SEEN = 1e-3  # of the strongest change: a spot below this is not seen


@dataclass(frozen=True)
class Spots:
    """What spots on an image change in a map.

    Attributes:
        places: of the spots, shares of height and width, float64 [S, 2].
        changes: squared change of the map's pixels, float64 [S, h, w].
    """

    places: Tensor
    changes: Tensor

    def problem(self) -> str:
        """Why the map does not show the image where it should; empty if it does."""
        total = self.changes.sum((1, 2))
        for s, (v, u) in enumerate(self.places.tolist()):
            if not total[s] > _SEEN * total.max():
                return f"a spot at {_percent(v, u)} of the image changes nothing in it"
        own = self.changes - self.changes.amin(0)
        if not (own.sum((1, 2)) > 1e-6 * total).all():  # squares: 1e-3, as in _SEEN, of the change
            return "it changes alike wherever the image does"
        own = self._upright(own / own.sum((1, 2), keepdim=True))
        seen = _centres(own)
        for s, (place, found) in enumerate(zip(self.places, seen, strict=True)):
            if self._near(own[s], place) < _SHARE:
                return (
                    f"a spot at {_percent(*place.tolist())} of the image changes places in it "
                    f"that are elsewhere or far apart, around {_percent(*found.tolist())}"
                )
        return self._speeds(seen)

    def _slopes(self, seen: Tensor) -> Tensor:
        """How far the change moves, for the spot's motion down and to the right: [2, 2]."""
        spot = self.places - 0.5
        return (spot.mT @ (seen - seen.mean(0))) / spot.square().sum(0)[:, None]

    def _upright(self, changes: Tensor) -> Tensor:
        """Changes of a map that is not mirrored; a mirrored one covers the image all the same."""
        along = self._slopes(_centres(changes)).diagonal()
        return changes.flip([1 + axis for axis in range(2) if along[axis] < 0])

    def _near(self, change: Tensor, place: Tensor) -> float:
        """Share of a change in a square around its place."""
        inside = []
        for n, p in zip(change.shape, place.tolist(), strict=True):
            inside.append((_middles(n) - p).abs() <= _NEAR + 0.5 / n)
        return float(change[inside[0]][:, inside[1]].sum())

    def _speeds(self, seen: Tensor) -> str:
        """Compare how the change moves with how the spot does."""
        slopes = self._slopes(seen)
        for axis, name in enumerate(("down", "to the right")):
            if self.changes.shape[1 + axis] == 1:
                continue
            along, across = float(slopes[axis, axis]), float(slopes[axis, 1 - axis])
            if not _SPEED[0] <= along <= _SPEED[1] or abs(across) > _ACROSS * along:
                return (
                    f"a spot that moves {name} by 1 % of the image moves in it by {along:.2g} % "
                    f"{name} and {across:.2g} % along the other axis"
                )
        return ""


def paint(f: Callable[[Any], Any], x: Tensor, to_maps: Callable[[Any], Tensor]) -> Spots | None:
    """See what spots on the first image change in a map.

    Args:
        f: the model.
        x: images [B, C, H, W].
        to_maps: of its output, [1, C, h, w].

    Returns:
        the changes; None if the map is not finite, which is said with the result.
    """
    with forward_mode():
        with watched(f) as roots:
            before = to_maps(PlainFunction(f, ()).anything(x[:1]))
        plain = PlainFunction(f, roots)
        coarse = torch.finfo(before.dtype).eps if before.is_floating_point() else 0.0
        eps = max(64 * torch.finfo(x.dtype).eps, 2 * coarse)  # of sums inside, of what comes out
        before = before.double()
        places, changes = [], []
        for v, u in _PLACES:
            painted, place = _painted(x[:1], v, u)
            after = to_maps(plain.anything(painted)).double()
            places.append(place)
            changes.append((after - before)[0].square().sum(0))
    if not all(bool(c.isfinite().all()) for c in changes):
        return None
    noise = eps * before[0].abs()
    floor = noise.square().sum(0)
    kept = [(c - floor).clamp_min(0).cpu() for c in changes]
    return Spots(torch.tensor(places, dtype=torch.float64), torch.stack(kept))


def misplacement(f: Callable[[Any], Any], x: Tensor, to_maps: Callable[[Any], Tensor]) -> str:
    """Why f's map cannot be taken for one of the whole image; empty if it can. See `paint`."""
    spots = paint(f, x, to_maps)
    return "" if spots is None else spots.problem()


def _painted(x: Tensor, v: float, u: float) -> tuple[Tensor, tuple[float, float]]:
    """The image with a spot as strong as its contrast, and the place of the spot's middle."""
    H, W = x.shape[-2:]
    h, w = max(1, H // 8), max(1, W // 8)
    top, left = (min(max(round(p * n - s / 2), 0), n - s) for p, n, s in ((v, H, h), (u, W, w)))
    contrast = float(x.double().std()) if x.numel() > 1 else 0.0
    colour = 0.5 ** (torch.arange(x.shape[1], device=x.device) % 3)  # 1, ½, ¼, 1, …
    out = x.clone()
    out[..., top : top + h, left : left + w] += (contrast or 1.0) * colour[:, None, None].to(x)
    return out, ((top + h / 2) / H, (left + w / 2) / W)


def _middles(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def _centres(shares: Tensor) -> Tensor:
    """Centres of mass of [S, h, w], each of sum 1, as shares of height and width: [S, 2]."""
    rows, columns = shares.sum(2), shares.sum(1)
    return torch.stack([rows @ _middles(rows.shape[1]), columns @ _middles(columns.shape[1])], 1)


def _percent(v: float, u: float) -> str:
    return f"{v:.0%} of the height and {u:.0%} of the width"
