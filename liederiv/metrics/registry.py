"""All metrics by name, in families: one list of classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from liederiv.errors import LieDerivError
from liederiv.metrics.agreement import Accuracy, EffectiveInvariance, ShiftConsistency
from liederiv.metrics.base import Metric
from liederiv.metrics.discrete import Discrete
from liederiv.metrics.eq import EqR, EqRRelative, EqT, EqTFrac, EqTFracRelative, EqTRelative
from liederiv.metrics.lee import BlurResponse, Lee, MeanAbs, RelativeNorm, RelativeSpectrum
from liederiv.metrics.reference import Reference
from liederiv.metrics.sampled import SampledError
from liederiv.metrics.scale import LeeShare, LeeStep, Reach, RelativeNormStep, RelativeSpectrumStep
from liederiv.names import FAMILIES

__all__ = [
    "METRICS",
    "families",
    "metric_names",
    "register_metric",
    "resolve_metrics",
    "words_of",
]

METRICS: dict[str, Metric] = {}
"""Every metric by name."""


def register_metric(kind: type[Metric]) -> type[Metric]:
    """Let a metric be asked for by its name and family; may decorate its class.

    Raises:
        LieDerivError: if the name is taken, or a limit would not do what its user expects.
    """
    if kind.gated and kind.larger_is_better is not False:
        raise LieDerivError(
            f"{kind.__name__} is gated, but larger_is_better={kind.larger_is_better}: limits are "
            "on what should be small; leave one of the two out."
        )
    if kind.name in (*METRICS, "all") or (kind.name in families() and kind.name != kind.family):
        raise LieDerivError(f"name={kind.name!r} of {kind.__name__} is taken; choose another.")
    METRICS[kind.name] = kind()
    if kind.family not in FAMILIES:
        FAMILIES.append(kind.family)
    return kind


def families() -> dict[str, tuple[str, ...]]:
    """Names that stand for several metrics."""
    found: dict[str, tuple[str, ...]] = {}
    for m in METRICS.values():
        found[m.family] = (*found.get(m.family, ()), m.name)
    return found | {"all": tuple(METRICS)}


def words_of(name: str) -> tuple[str, str]:
    """A metric's name in words, and in short; the name itself where there are no such.

    Example:
        >>> words_of("lee")
        ('local equivariance error', 'LEE')
    """
    m = METRICS.get(name)
    title, heading = (m.title, m.heading) if m is not None else ("", "")
    return title or name, " ".join(heading.split()) or name


@dataclass(frozen=True)
class _Names(Collection[str]):
    """Names of the metrics of which something holds, whenever it is asked."""

    attribute: str

    def __iter__(self) -> Iterator[str]:
        return (name for name, m in METRICS.items() if getattr(m, self.attribute))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)


def metric_names(attribute: str) -> Collection[str]:
    """Names of the metrics of which something holds, e.g. ``gated``; see `Metric`.

    A metric that is registered later is in it, too.

    Example:
        >>> list(metric_names("gated"))[:3]
        ['lee', 'mean_abs', 'relative_norm']
    """
    return _Names(attribute)


def resolve_metrics(names: str | Iterable[str]) -> tuple[Metric, ...]:
    """Resolve names and families, in order and without repetition.

    Raises:
        LieDerivError: for an unknown name or an empty list.

    Example:
        >>> [m.name for m in resolve_metrics("lee")]
        ['lee', 'mean_abs']
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    groups, found = families(), dict[str, Metric]()
    for name in names:
        # A family of the same name as its first metric stands for the whole family.
        members = groups.get(name, (name,) if name in METRICS else ())
        if not members:
            known = ", ".join(dict.fromkeys([*groups, *METRICS]))
            raise LieDerivError(f"metric {name!r} is unknown; choose from {known}.")
        found.update((m, METRICS[m]) for m in members)
    if not found:
        raise LieDerivError(f"metrics is empty; choose from {', '.join(groups)}.")
    return tuple(found.values())


for _kind in (
    *(Lee, MeanAbs, RelativeNorm, RelativeSpectrum, BlurResponse, Reference),
    *(Reach, LeeStep, RelativeNormStep, RelativeSpectrumStep, LeeShare),
    *(EqT, EqTFrac, EqR, EqTRelative, EqTFracRelative, EqRRelative, SampledError),
    *(ShiftConsistency, EffectiveInvariance, Discrete, Accuracy),
):
    register_metric(_kind)
