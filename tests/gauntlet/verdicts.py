"""What an entry point made of a network: right, refused, needlessly refused, wrong, or changed."""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liederiv import LieDerivError

from .awkward import Awkward
from .truth import Truth, split, truth_of
from .untouched import Snapshot

RIGHT, REFUSED, NEEDLESS, WRONG, CHANGED = "right", "refused", "needless", "wrong", "changed"
FAILURES = (NEEDLESS, WRONG, CHANGED)
ONE_BY_ONE = "measure one by one"


@dataclass(frozen=True)
class Verdict:
    """What one entry point did with one network."""

    network: str
    entry: str
    verdict: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.network} · {self.entry}: {self.verdict} ({self.detail})"


class NoNumberError(Exception):
    """The entry point gave no number (NaN, a status other than measured) without an error."""


class WrongNumberError(Exception):
    """The entry point gave a number that is not right; the message says which."""


def close(got: float, want: float, tolerance: float, floor: float) -> bool:
    """Whether a squared norm is right; the tolerance is of the norm."""
    return abs(math.sqrt(max(got, 0)) - math.sqrt(want)) <= tolerance * math.sqrt(want) + math.sqrt(
        floor
    )


def judge_scores(
    net: Awkward, want: dict[str, float], floor: dict[str, float], got: dict[str, float]
) -> None:
    """Compare squared norms by generator with the truth.

    Raises:
        NoNumberError: if a value is not finite.
        WrongNumberError: if one is not right.
    """
    if not all(math.isfinite(v) for v in got.values()):
        raise NoNumberError("not finite")
    for name, value in got.items():
        zero = floor[name] + net.zero
        if not math.isfinite(want[name]) or not close(value, want[name], net.tolerance, zero):
            raise WrongNumberError(f"{name}: {value:.4g} instead of {want[name]:.4g}")


def judge_arrays(net: Awkward, truth: Truth, got: dict[str, Any], x: Any) -> None:
    """Compare L f leaf by leaf, item by item and generator by generator."""
    for leaf, per_item in truth.lie.items():
        if leaf not in got:
            raise WrongNumberError(f"no leaf {leaf!r}")
        if not got[leaf].isfinite().all():
            raise NoNumberError("not finite")
        rows = sum(v.shape[1] for v in per_item)
        if got[leaf].shape[:2] != (len(truth.names), rows):
            raise WrongNumberError(f"leaf {leaf!r} has shape {list(got[leaf].shape)}")
        for i, want in enumerate(per_item):
            _judge_item(net, truth, leaf, i, split(got[leaf].double(), x, i, want.shape[1]))


def _judge_item(net: Awkward, truth: Truth, leaf: str, i: int, found: Tensor) -> None:
    want, entries = truth.lie[leaf][i], truth.lie[leaf][i][0].numel()
    zero = torch.sqrt(1e-9 * entries * (truth.noise[leaf][i] ** 2 + truth.acted[leaf][i] ** 2))
    for k, name in enumerate(truth.names):
        gap, size = float((found[k] - want[k]).norm()), float(want[k].norm())
        if not gap <= net.tolerance * size + float(zero[k]) + (net.zero * entries) ** 0.5:
            raise WrongNumberError(
                f"{name} of item {i}, leaf {leaf!r}: off by {gap:.3g} of {size:.3g} "
                f"(|L| = {float(found[k].norm()):.3g})"
            )


def try_entry(net: Awkward, entry: str, call: Any) -> Verdict:
    """Run one entry point on one network and judge what comes of it."""
    x = net.images()
    subject = net.subject()  # may switch the mode: before the snapshot
    before = Snapshot.of(net, x)
    verdict, detail = _outcome(net, subject, entry, call, x)
    changes = before.changes(net, x, grows=net.fresh)
    if changes and verdict in (RIGHT, REFUSED):
        verdict, detail = CHANGED, f"{verdict}, but changed: {', '.join(changes[:3])}"
    return Verdict(type(net).__name__, entry, verdict, detail)


def _outcome(net: Awkward, subject: Any, entry: str, call: Any, x: Any) -> tuple[str, str]:
    right = expected(net, entry)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(net, subject, x)
    except WrongNumberError as error:
        return WRONG, str(error)
    except (LieDerivError, NoNumberError) as error:
        said = next((w for w in net.forbidden if w in str(error)), None)
        if said:
            return WRONG, f"refused for a wrong reason, {said!r}: {str(error)[:120]}"
        needless = entry in net.needed and right == "number"
        return (NEEDLESS if needless else REFUSED), str(error)[:160]
    except Exception as error:  # anything that is no LieDerivError is a raw error
        if _fails_by_itself(net, subject, x, type(error)):
            return REFUSED, f"the network's own {type(error).__name__}"
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
        return WRONG, f"raised {type(error).__name__} at {at}: {str(error)[:120]}"
    if right == "refusal":
        return WRONG, "a number where none is right"
    return RIGHT, ""


def expected(net: Awkward, entry: str) -> str:
    """Whether a number or a refusal is right.

    A change over a step is a number also where there is no slope: there it is judged, always.
    """
    if entry == "step_penalty":
        return net.right_at.get(entry, "number")
    single = entry in (ONE_BY_ONE, "attribute")  # which takes one image after another
    alone = "number" if net.one_by_one and single else net.right
    return net.right_at.get(entry, alone)


def _fails_by_itself(net: Awkward, subject: Any, x: Any, kind: type[Exception]) -> bool:
    """Whether the caller's own call raises that error too."""
    try:
        with torch.random.fork_rng(devices=[]), net.ambient():
            subject(x.clone())
    except kind:
        return True
    except Exception:  # another one
        return False
    return False


def check_truth(cls: type[Awkward]) -> None:
    """Assert that the truth itself can be trusted."""
    error = truth_of(cls).error
    assert error < cls.tolerance / 10, f"the truth of {cls.__name__} is uncertain: {error:.1e}"


def failures(verdicts: Iterable[Verdict]) -> list[str]:
    """Those that must not be."""
    return [str(v) for v in verdicts if v.verdict in FAILURES]
