"""The entry points, each called as a user would and its number compared with the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from liederiv import (
    LocalEquivarianceError,
    PointCloud,
    equivariance_penalty,
    lie_derivative,
    measure,
)
from liederiv.analysis import attribute, orbit
from liederiv.testing import assert_equivariant

from .awkward import Awkward
from .fields import names_of
from .truth import leaves, over_a_pixel, penalty_of, truth_of
from .verdicts import (
    CHANGED,
    ONE_BY_ONE,
    WRONG,
    NoNumberError,
    Verdict,
    WrongNumberError,
    expected,
    judge_arrays,
    judge_scores,
    try_entry,
)

RTOL = 1e-3


def _expects_number(net: Awkward, entry: str) -> bool:
    return expected(net, entry) == "number"


def _lie_derivative(net: Awkward, f: Any, x: Any) -> None:
    with net.ambient():
        L = lie_derivative(f, x, net.generators, scheme="fourier", output=net.output)
    if _expects_number(net, "lie_derivative"):
        judge_arrays(net, truth_of(type(net)), leaves(L), x)
    elif not all(v.isfinite().all() for v in leaves(L).values() if v is not None):
        raise NoNumberError("not finite")


def _reversed(net: Awkward, f: Any, x: Any) -> None:
    names = names_of(net.generators, x)
    with net.ambient():
        L = lie_derivative(f, x, names[::-1], scheme="fourier", output=net.output)
    if _expects_number(net, "reversed"):
        judge_arrays(
            net,
            truth_of(type(net)),
            {k: v if v is None else v.flip(0) for k, v in leaves(L).items()},
            x,
        )
    elif not all(v.isfinite().all() for v in leaves(L).values() if v is not None):
        raise NoNumberError("not finite")


def _kind_of(net: Awkward, x: Any) -> str:
    return "output" if isinstance(x, PointCloud) else net.output_type


def _measure(net: Awkward, f: Any, x: Any, batch_size: int | None = None) -> None:
    kind = _kind_of(net, x)
    with net.ambient():
        found = measure(
            f, x, net.generators, "lee", scheme="fourier", output=net.output, output_type=kind,
            resamples=2, batch_size=batch_size,
        )  # fmt: skip
    rows = [found.get("lee", name, kind) for name in names_of(net.generators, x)]
    if any(r.status != "measured" or r.value is None for r in rows):
        raise NoNumberError(f"{rows[0].status}: {rows[0].reason}")
    if _expects_number(net, "measure") or batch_size == 1:
        judge_scores(
            net,
            truth_of(type(net)).lee(),
            truth_of(type(net)).floor(),
            {r.transform: float(r.value or 0) for r in rows},
        )


def _one_by_one(net: Awkward, f: Any, x: Any) -> None:
    _measure(net, f, x, batch_size=1)


def _metric(net: Awkward, f: Any, x: Any, batch_size: int | None = None) -> None:
    metric = LocalEquivarianceError(
        net.generators, "fourier", output=net.output, output_type=_kind_of(net, x),
        batch_size=batch_size,
    )  # fmt: skip
    with net.ambient():
        metric.update(f, x)
    found = {k: float(v) for k, v in metric.compute().items()}
    chosen = {name: found[name] for name in names_of(net.generators, x)}
    if not all(math.isfinite(v) for v in chosen.values()):
        raise NoNumberError("not finite")
    if _expects_number(net, "metric") or batch_size == 1:
        judge_scores(net, truth_of(type(net)).lee(), truth_of(type(net)).floor(), chosen)


def _assert_equivariant(net: Awkward, f: Any, x: Any) -> None:
    said = ""
    try:
        with net.ambient():
            assert_equivariant(f, x, net.generators, output=net.output, rtol=RTOL)
    except AssertionError as error:
        said = str(error)
    if "error nan" in said:
        raise NoNumberError("not finite")
    if not _expects_number(net, "assert_equivariant"):
        return
    truth = truth_of(type(net))
    still = max(truth.lee().values()) <= net.zero  # 0/0 is 0
    error = 0.0 if still else truth.relative()
    if said and error < RTOL / 3:
        raise WrongNumberError(f"failed where the error is {error:.2g}: {said[:120]}")
    if not said and not error < RTOL * 3:
        raise WrongNumberError(f"passed where the error is {error:.2g}")


def _penalty(net: Awkward, f: Any, x: Any) -> None:
    with net.ambient():
        value = equivariance_penalty(
            f, x, net.generators, scheme="fourier", output=net.output, output_type=_kind_of(net, x),
            num_generators=None, num_images=None,
        )  # fmt: skip
    params = {k: p for k, p in f.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(value, list(params.values()), allow_unused=True)
    reached = {k: g for k, g in zip(params, grads, strict=True) if g is not None}
    if not math.isfinite(float(value)) or not all(g.isfinite().all() for g in reached.values()):
        raise NoNumberError("not finite")
    if not _expects_number(net, "penalty"):
        return
    truth = truth_of(type(net))
    want, floor = truth.lee(), {k: v + net.zero for k, v in truth.floor().items()}
    K = len(want)
    total = sum(want.values()) / K
    if abs(float(value) - total) > 2.5 * net.tolerance * total + sum(floor.values()) / K:
        raise WrongNumberError(f"{float(value):.4g} instead of {total:.4g}")
    _judge_gradient(net, reached, total, sum(floor.values()) / K)


def _judge_gradient(net: Awkward, grads: dict[str, Tensor], total: float, floor: float) -> None:
    """The derivative of the penalty along some direction of the weights that it reaches."""
    random, step = torch.Generator().manual_seed(5), 1e-5
    params, directions = dict(net.named_parameters()), {}
    if not set(grads) <= set(dict(net.build().named_parameters())):
        return  # wrapped: names are others
    for name in grads:
        p = params[name].detach().double()
        directions[name] = (
            torch.randn(p.shape, generator=random).double() * p.square().mean().sqrt()
        )
    got = sum(float((grads[k].double() * directions[k]).sum()) for k in grads)
    up, down = penalty_of(type(net), directions, step), penalty_of(type(net), directions, -step)
    want = (up - down) / (2 * step)
    wide = (
        penalty_of(type(net), directions, 4 * step) - penalty_of(type(net), directions, -4 * step)
    ) / (8 * step)
    if abs(want - wide) > 0.02 * (abs(want) + 0.1 * total):
        return  # the penalty jumps, or drowns in rounding: no gradient is known
    if abs(got - want) > 2.5 * net.tolerance * (abs(want) + 0.1 * total) + floor:
        raise WrongNumberError(f"gradient along a direction {got:.4g} instead of {want:.4g}")


def _attribute(net: Awkward, f: Any, x: Any) -> None:
    how = {"output": net.output, "output_type": "output"}
    with net.ambient():
        found = attribute(f, x, net.generators, scheme="fourier", **how)
    got = found.totals
    if not all(math.isfinite(v) for v in got.values()):
        raise NoNumberError("not finite")
    if not _expects_number(net, "attribute"):
        return
    truth = truth_of(type(net))
    judge_scores(net, truth.totals(), truth.totals(floor=True), got)


def _orbit(net: Awkward, f: Any, x: Any) -> None:
    """LEE(0), and how far the output has moved after one pixel."""
    ranges = dict.fromkeys(net.generators.split(","), 1.0)
    with net.ambient():
        found = orbit(
            f, x, net.generators, ranges=ranges, points=2, scheme="fourier", output=net.output,
            output_type=_kind_of(net, x), shifts=0, worst=0, resamples=2,
        )  # fmt: skip
    curves = [found.get(name) for name in names_of(net.generators, x)]
    zero = [int((c.t == 0).argmax()) for c in curves]
    got = {c.generator: float(c.lee[:, i].mean()) for c, i in zip(curves, zero, strict=True)}
    if not all(math.isfinite(v) for v in got.values()):
        raise NoNumberError("not finite")
    if not _expects_number(net, "orbit"):
        return
    truth = truth_of(type(net))
    if all((c.compared == 1).all() for c in curves):  # of maps, other places count
        judge_scores(net, truth.lee(), truth.floor(), got)
    for c in curves:
        want = over_a_pixel(type(net), c.generator, 0.0, 1.0)
        if want is not None:
            change = {c.generator: float((c.change[:, -1] ** 2).mean())}
            rounding = {c.generator: float((c.floor**2).mean())}  # which the curve states itself
            floor = {name: v + rounding.get(name, 0.0) for name, v in truth.floor().items()}
            judge_scores(net, want, floor, change)


def _step_penalty(net: Awkward, f: Any, x: Any) -> None:
    """The penalty over two pixels of a translation."""
    moves = next((n for n in names_of(net.generators, x) if n.startswith("translation")), None)
    if moves is None:
        return
    with net.ambient():
        value = equivariance_penalty(
            f, x, moves, step={moves: 2.0}, scheme="fourier", output=net.output,
            output_type=_kind_of(net, x), num_generators=None, num_images=None,
        )  # fmt: skip
    if not math.isfinite(float(value)):
        raise NoNumberError("not finite")
    want = over_a_pixel(type(net), moves, -1.0, 1.0)
    if _expects_number(net, "step_penalty") and want is not None:
        floor = truth_of(type(net)).floor()
        judge_scores(net, {moves: want[moves] / 4}, floor, {moves: float(value)})


ENTRY_POINTS: dict[str, Callable[[Awkward, Any, Any], None]] = {
    "lie_derivative": _lie_derivative,
    "reversed": _reversed,
    "measure": _measure,
    "metric": _metric,
    "assert_equivariant": _assert_equivariant,
    "penalty": _penalty,
    "attribute": _attribute,
    "orbit": _orbit,
    "step_penalty": _step_penalty,
}
ALONE = {ONE_BY_ONE: _one_by_one}


def run_gauntlet(cls: type[Awkward], entries: Iterable[str] | None = None) -> list[Verdict]:
    """Entry points (all, if not named) on one network: on the same object, as a user would."""
    if not cls.crashes:
        return _run(cls, entries)
    truth_of(cls)  # for all children
    queue = get_context("fork").SimpleQueue()
    found: list[Verdict] = []
    for entry in _calls(cls, entries):
        child = get_context("fork").Process(
            target=lambda e: queue.put(_run(cls, (e,))), args=(entry,)
        )
        child.start()
        child.join()
        crashed = [Verdict(cls.__name__, entry, WRONG, f"the process died: {child.exitcode}")]
        found += queue.get() if child.exitcode == 0 else crashed
    return found


def _calls(
    cls: type[Awkward], entries: Iterable[str] | None
) -> dict[str, Callable[[Awkward, Any, Any], None]]:
    calls = ENTRY_POINTS | (ALONE if cls.one_by_one else {})
    chosen = calls if entries is None else entries
    skipped = cls.skip | {f"step_{entry}" for entry in cls.skip}
    return {entry: calls[entry] for entry in chosen if entry in calls and entry not in skipped}


def quick(number: int) -> tuple[str, ...]:
    """Three entry points for the network of that number: in turns, so that all have their share."""
    others = [entry for entry in ENTRY_POINTS if entry != "lie_derivative"]
    return ("lie_derivative", others[number % len(others)], ONE_BY_ONE)


def _run(cls: type[Awkward], entries: Iterable[str] | None) -> list[Verdict]:
    net, found = cls.build(), []
    for entry, call in _calls(cls, entries).items():
        found.append(try_entry(net, entry, call))
        spoilt = found[-1].verdict in (CHANGED, WRONG)
        net = cls.build() if cls.fresh or spoilt else net
    return found
