"""The truth: float64 differences of the raw network, called as its user would, item by item."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from liederiv.points import PointCloud

from .awkward import Awkward
from .fields import F64, act, cloud_field, leaves_of, names_of, tangent, with_leaves

_DIRECTIONS = 4


@dataclass(frozen=True)
class Truth:
    """What is right for one network, by leaf of its output.

    Attributes:
        names: of the K generators.
        lie: L f of each item, [K, rows of the item, …].
        noise: √(mean (J n)²) of each item along noise of the tangents' norm, [K].
        acted: √(mean (X_out f)²), likewise.
        error: of the differences, relative to the derivative.
    """

    names: tuple[str, ...]
    lie: Mapping[str, list[Tensor]]
    noise: Mapping[str, list[Tensor]]
    acted: Mapping[str, list[Tensor]]
    error: float

    def lee(self, leaf: str = "") -> dict[str, float]:
        """Mean over items of the mean of (L f)², by generator."""
        per = torch.stack([v.flatten(1).square().mean(1) for v in self.lie[leaf]]).mean(0)
        return dict(zip(self.names, per.tolist(), strict=True))

    def floor(self, leaf: str = "") -> dict[str, float]:
        """What counts as zero in a squared norm: 1e-9 of the squared response to noise."""
        s = torch.stack(
            [a**2 + b**2 for a, b in zip(self.noise[leaf], self.acted[leaf], strict=True)]
        )
        return dict(zip(self.names, (1e-9 * s.mean(0)).tolist(), strict=True))

    def totals(self, *, floor: bool = False) -> dict[str, float]:
        """Mean over items of ‖L f‖² over all leaves, by generator; or what counts as zero there."""
        found = dict.fromkeys(self.names, 0.0)
        for leaf, items in self.lie.items():
            size = sum(v[0].numel() for v in items) / len(items)
            zero = self.floor(leaf)
            for k, name in enumerate(self.names):
                norm = sum(float(v[k].square().sum()) for v in items) / len(items)
                found[name] += size * zero[name] if floor else norm
        return found

    def relative(self, leaf: str = "") -> float:
        """The error that `assert_equivariant` judges, of the worst generator."""
        lie = torch.stack([v.flatten(1).square().mean(1).sqrt() for v in self.lie[leaf]])
        s = torch.stack(
            [a**2 + b**2 for a, b in zip(self.noise[leaf], self.acted[leaf], strict=True)]
        )
        worst, scale = lie.amax(0), s.mean(0).sqrt()
        return float(torch.where(worst == 0, torch.zeros_like(worst), worst / scale).max())


def leaves(y: Any) -> dict[str, Any]:
    """The tensors of an output by name."""
    if isinstance(y, Mapping):
        return {str(k): v for k, v in y.items()}
    if hasattr(y, "_asdict"):
        return y._asdict()
    if isinstance(y, tuple | list):
        return {str(i): v for i, v in enumerate(y)}
    if dataclasses.is_dataclass(y):
        return {f.name: getattr(y, f.name) for f in dataclasses.fields(y)}
    return {"": y}


def spec_of(output: Any, leaf: str) -> str:
    """The representation of one leaf."""
    if isinstance(output, Mapping):
        return output[leaf]
    if isinstance(output, tuple | list):
        return output[int(leaf)] if leaf.isdigit() else output[0]
    return output


class Raw:
    """The raw network in float64 as a function of one item, to its leaves in float64."""

    def __init__(self, cls: type[Awkward]) -> None:
        self.cls, self.net, self.step = cls, cls.build().double(), cls.step

    def __call__(self, x: Any) -> dict[str, Tensor]:
        net = copy.deepcopy(self.net) if self.cls.fresh else self.net
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            found = leaves(net.smooth(x))
        return {k: v.detach().to(F64).clone() for k, v in found.items() if _is_float(v)}


def _is_float(v: Any) -> bool:
    return isinstance(v, Tensor) and v.is_floating_point()


Output = dict[str, Tensor]


def derivative(f: Raw, x: Any, v: list[Tensor]) -> tuple[Output, Output]:
    """J v by Richardson's extrapolation of two central differences, and their disagreement."""

    def moved(t: float) -> Output:
        return f(with_leaves(x, [a + t * b for a, b in zip(leaves_of(x), v, strict=True)]))

    def central(h: float) -> Output:
        above, below = moved(h), moved(-h)
        return {k: (above[k] - below[k]) / (2 * h) for k in above}

    size = max(float(a.abs().max()) for a in leaves_of(x)) or 1.0
    step = f.step * size / (max(float(b.abs().max()) for b in v) or 1.0)
    coarse, fine = central(step), central(step / 2)
    return {k: (4 * fine[k] - coarse[k]) / 3 for k in fine}, {k: coarse[k] - fine[k] for k in fine}


def _rms(y: Tensor) -> Tensor:
    return y.square().mean().sqrt()


def find_truth(f: Raw, x: Any, generators: str, output: Any) -> Truth:
    """The truth of a function f of one item at the items of a batch x."""
    x, names = x.double(), names_of(generators, x)
    random = torch.Generator().manual_seed(11)
    lie: dict[str, list[Tensor]] = {}
    noise: dict[str, list[Tensor]] = {}
    acted: dict[str, list[Tensor]] = {}
    worst = 0.0
    for one in (x[i : i + 1] for i in range(len(x))):
        y, per, norms, moved = f(_copy(one)), [], [], []
        response = _response(f, one, random)
        for name in names:
            v = tangent(name, one)
            jv, gap = derivative(f, one, v)
            norms.append(float(torch.cat([b.flatten() for b in v]).norm()))
            for k in y:  # relative to the derivative, or to what is judged as zero
                least = 1e-3 * response[k] * norms[-1]
                worst = max(worst, float(_rms(gap[k]) / _rms(jv[k]).clamp_min(least + 1e-30)))
            moved.append({k: act(spec_of(output, k), name, y[k], one) for k in y})
            per.append({k: jv[k] - moved[-1][k] for k in y})
        for k in y:
            lie.setdefault(k, []).append(torch.stack([p[k] for p in per]))
            noise.setdefault(k, []).append(torch.tensor([n * response[k] for n in norms]).double())
            acted.setdefault(k, []).append(torch.stack([_rms(m[k]) for m in moved]))
    return Truth(tuple(names), lie, noise, acted, worst)


def _copy(x: Any) -> Any:
    return with_leaves(x, [v.clone() for v in leaves_of(x)])


def _response(f: Raw, x: Any, random: torch.Generator) -> dict[str, float]:
    """√(mean (J n)²) along Gaussian noise of norm one."""
    found: list[Output] = []
    for _ in range(_DIRECTIONS):
        n = [torch.randn(v.shape, dtype=F64, generator=random) for v in leaves_of(x)]
        norm = torch.cat([v.flatten() for v in n]).norm()
        found.append(derivative(f, x, [v / norm for v in n])[0])
    return {k: float(torch.stack([_rms(y[k]) ** 2 for y in found]).mean().sqrt()) for k in found[0]}


@cache
def truth_of(cls: type[Awkward]) -> Truth:
    """The truth of a network at its own images."""
    return find_truth(Raw(cls), cls.images(), cls.generators, cls.output)


def penalty_of(cls: type[Awkward], directions: Mapping[str, Tensor], t: float) -> float:
    """The penalty with weights moved by t along ``directions``: LEE, mean over generators."""
    raw = Raw(cls)
    with torch.no_grad():
        for name, p in raw.net.named_parameters():
            if name in directions:
                p += t * directions[name]
    found = find_truth(raw, cls.images(), cls.generators, cls.output).lee()
    return sum(found.values()) / len(found)


def over_a_pixel(
    cls: type[Awkward], name: str, start: float, end: float
) -> dict[str, float] | None:
    """Mean squared change of the output from one translation to another, mean over items.

    Images are rolled, as the periodic scheme moves them by whole pixels; points are moved.

    Returns:
        the change by the name of the generator; None for what is no translation, or an output that
        moves along.
    """
    x = cls.images().double()
    moves = cls.output not in ("auto", "invariant", "scalars", "vectors")
    if not name.startswith("translation") or moves:
        return None
    raw, found = Raw(cls), []
    for one in (x[i : i + 1] for i in range(len(x))):
        ends = [raw(_translated(one, name, t)) for t in (start, end)]
        if list(ends[0]) != [""]:
            return None
        found.append(float((ends[1][""] - ends[0][""]).square().mean()))
    return {name: sum(found) / len(found)}


def _translated(x: Any, name: str, t: float) -> Any:
    if isinstance(x, PointCloud):
        _, b = cloud_field(name, x.pos.shape[1])
        return with_leaves(x, [x.pos + t * b, *(v.clone() for v in leaves_of(x)[1:])])
    return x.roll(-int(t), -1 if name.endswith("x") else -2)


def split(values: Tensor, x: Any, item: int, rows: int) -> Tensor:
    """The part of an array [K, rows of the batch, …] that belongs to one item."""
    if isinstance(x, PointCloud) and values.shape[1] == len(x.batch) != len(x):
        return values[:, x.batch == item]
    return values[:, item : item + rows]
