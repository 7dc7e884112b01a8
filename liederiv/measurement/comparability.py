"""One rule for all comparisons: which results may be held against each other.

A number depends on the images, on how they were prepared, and on how it was computed. These must be
the same on both sides; nobody sees from the numbers that they are not:

* the kind of inputs, their content and order, how many were measured;
* the interpolation scheme, the unit of translations, the generators behind each name;
* the output's representation, and the settings of the metrics, the seed and the dtype;
* what belongs to one model's use: size of input and output, crop, mean, std, interpolation.

Only in a comparison *between models*, each at its own input size as it was trained, may the last
group differ, and that is said. Model, weights, device, engine and versions are what is compared,
or what should not matter: they may differ, and that is said too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from liederiv.foreign import one_line
from liederiv.measurement.results import Provenance
from liederiv.metrics.registry import METRICS

__all__ = ["Contrast", "contrast", "value_of"]

_ALWAYS = {
    "inputs": "on another kind of inputs",
    "num_images": "on another number of images",
    "images_fingerprint": "on other images",
    "scheme": "with another scheme",
    "seed": "with another seed",
    "dtype": "in another dtype",
    "representation": "with another representation of the output",
}
_OF_THE_MODEL = {
    "input_size": "at another image size",
    "preprocessing": "with other preprocessing",
    "output_size": "with another size of the output",
}
_NOTED = {
    "model": "with another model",
    "weights": "with other weights",
    "weights_fingerprint": "with other weights",
    "device": "on another device",
    "engine": "with another engine",
    "versions": "with other versions",
}


@dataclass(frozen=True)
class Contrast:
    """How two measurements differ in what they are of.

    Attributes:
        refusals: why they cannot be compared, each as words with both values; empty if they can.
        notes: what else differs, likewise.
    """

    refusals: tuple[str, ...]
    notes: tuple[str, ...]


def contrast(
    old: Provenance,
    new: Provenance,
    *,
    metrics: Collection[str],
    transforms: Collection[str],
    between_models: bool = False,
) -> Contrast:
    """Apply the rule of the module's docstring.

    Args:
        old: of the first measurement.
        new: of the second.
        metrics: those that are to be compared; settings of others do not count.
        transforms: likewise.
        between_models: whether sizes and preprocessing may differ because the models do.
    """
    refusals = _differing(old, new, _ALWAYS)
    if not old.images_fingerprint or not new.images_fingerprint:
        refusals.append("on images whose content is not known (no fingerprint)")
    refusals += _settings(old.settings, new.settings, metrics)
    refusals += _definitions(old.transforms, new.transforms, transforms)
    of_the_model = _differing(old, new, _OF_THE_MODEL)
    noted = _differing(old, new, _NOTED)
    if between_models:
        return Contrast(tuple(refusals), tuple(of_the_model + noted))
    return Contrast(tuple(refusals + of_the_model), tuple(noted))


def _differing(old: Provenance, new: Provenance, words: Mapping[str, str]) -> list[str]:
    found: dict[str, str] = {}
    for name, said in words.items():
        a, b = value_of(old, name), value_of(new, name)
        if a != b:
            found.setdefault(said, f"{said} ({_difference(a, b)})")
    return list(found.values())


def value_of(provenance: Provenance, name: str) -> Any:
    """A field as it is compared."""
    value = getattr(provenance, name)
    # "… (declared)" and "… (recognised)" are the same ρ.
    return value.rpartition(" (")[0] or value if name == "representation" else value


def _difference(a: Any, b: Any) -> str:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [k for k in {**a, **b} if a.get(k) != b.get(k)]
        return "; ".join(f"{one_line(k)} {_words(a.get(k))}, now {_words(b.get(k))}" for k in keys)
    return f"{_words(a)}, now {_words(b)}"


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return " × ".join(one_line(v) for v in value) or "unknown"
    return one_line(value)[:80] or "unknown"


def _settings(
    old: Mapping[str, Any], new: Mapping[str, Any], metrics: Collection[str]
) -> list[str]:
    """Settings that the compared metrics have: a dynamic range matters to finite ones only."""
    finite = any(m not in METRICS or "finite" in METRICS[m].needs for m in metrics)
    names = [n for n in {**old, **new} if finite or n == "unit"]
    return [
        f"with another {one_line(n).replace('_', ' ')} ({_difference(old.get(n), new.get(n))})"
        for n in names
        if old.get(n) != new.get(n)
    ]


def _definitions(
    old: Mapping[str, tuple[str, ...]],
    new: Mapping[str, tuple[str, ...]],
    transforms: Collection[str],
) -> list[str]:
    """Transforms of both sides that are not the same generators."""
    return [
        f"with another definition of {one_line(name)}"
        for name in transforms
        if old.get(name) != new.get(name)
    ]
