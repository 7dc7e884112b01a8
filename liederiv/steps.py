r"""Steps of finite size along one-parameter groups: how they are written, and which are customary.

A step of size h moves an input from T_{−h/2} x to T_{h/2} x. It is written in the unit that people
use, which is not always that of the generator's parameter t:

* pixels for ``px``;
* degrees (``deg``) for ``rad``, t = π/180 per degree;
* per cent (``%``) for logarithms of a factor, t = log(1 + h/100): 1 % is growth by 1 % in all;
* the generator's own unit for all others.

``translation_x@1px``, ``rotation@0.5deg`` and ``scale@1%`` are names of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from liederiv.errors import LieDerivError
from liederiv.foreign import one_line
from liederiv.generators import Catalogue, Generator
from liederiv.measurement.scoring import targets

__all__ = [
    "RANGE",
    "Step",
    "StepUnit",
    "Steps",
    "base_name",
    "default_grid",
    "halvings",
    "parse_steps",
    "plan_of",
    "read_size",
    "step_label",
    "step_of",
    "unit_of",
]

StepValue = float | str
Steps = str | Mapping[str, StepValue | Iterable[StepValue]] | None
"""``translation=0.5,1,2;rotation=1deg``, or the same as a mapping; None for the customary ones."""

_SMALLEST, _LARGEST, _MOST = 1e-6, 1e4, 64
_CHOSEN = {"px": 1.0, "deg": 1.0, "%": 1.0, "length": 0.1, "input-std": 0.1}
_TOP = {"px": 4.0, "deg": 64.0, "%": 32.0, "length": 2.0}
_GRID = 8  # steps, each twice the one before
_ALIASES = {"°": "deg", "degree": "deg", "degrees": "deg", "pixel": "px", "pixels": "px"}


@dataclass(frozen=True)
class StepUnit:
    """The unit in which steps of a generator are written.

    Attributes:
        symbol: as in names of rows: ``px``, ``deg``, ``%``, ….
        parameter: unit of the generator's parameter.
    """

    symbol: str
    parameter: str

    def parameter_of(self, value: float) -> float:
        """T for a step of that size."""
        if self.symbol == "deg":
            return math.radians(value)
        return math.log1p(value / 100) if self.symbol == "%" else value

    def size_of(self, t: float) -> float:
        """The size of a step of parameter t."""
        if self.symbol == "deg":
            return math.degrees(t)
        return 100 * math.expm1(t) if self.symbol == "%" else t


def unit_of(parameter: str) -> StepUnit:
    """The unit of steps from that of a generator's parameter.

    Example:
        >>> unit_of("rad").symbol, round(unit_of("rad").parameter_of(180), 4)
        ('deg', 3.1416)
    """
    symbol = {"rad": "deg"}.get(parameter, parameter.replace(" ", "-"))
    return StepUnit("%" if parameter.startswith("log-") else symbol, parameter)


@dataclass(frozen=True)
class Step:
    """One step of one generator.

    Attributes:
        size: h in the unit of steps.
        t: h in the generator's unit.
        symbol: unit of ``size``.
        chosen: whether its error is reported by itself, or only belongs to the curve.
    """

    size: float
    t: float
    symbol: str
    chosen: bool

    @property
    def label(self) -> str:
        """As in names of rows, after the @."""
        return f"{self.size:.6g}{self.symbol}"


def step_label(transform: str, step: Step) -> str:
    """Name of a row: ``rotation@1deg``."""
    return f"{transform}@{step.label}"


def base_name(transform: str) -> str:
    """The transform of a row's name, without its step.

    Example:
        >>> base_name("rotation@1deg"), base_name("rotation")
        ('rotation', 'rotation')
    """
    return transform.partition("@")[0]


def halvings(top: float) -> tuple[float, ...]:
    """The customary grid below a largest step, ascending."""
    return tuple(top / 2**j for j in reversed(range(_GRID)))


def default_grid(unit: StepUnit) -> tuple[float, ...]:
    """Steps to follow LEE(h) over where a kind of input says nothing else, ascending."""
    return halvings(_TOP.get(unit.symbol, 1.0))


def parse_steps(steps: Steps) -> dict[str, tuple[tuple[float, str], ...]]:
    """Sizes and units (empty where none is given) of steps for each transform that is named.

    Raises:
        LieDerivError: naming the part that is not understood.

    Example:
        >>> parse_steps("translation=0.5,1px;rotation=1deg")
        {'translation': ((0.5, ''), (1.0, 'px')), 'rotation': ((1.0, 'deg'),)}
    """
    if steps is None:
        return {}
    if isinstance(steps, str):
        parts = [part.strip() for part in steps.split(";") if part.strip()]
        pairs: list[tuple[str, Sequence[StepValue]]] = []
        for part in parts:
            name, sign, values = part.partition("=")
            if not sign:
                raise LieDerivError(f"steps: {part!r} is no step; {_FORM}.")
            pairs.append((name.strip(), [v.strip() for v in values.split(",")]))
    elif isinstance(steps, Mapping):
        pairs = [
            (n, list(v) if isinstance(v, Iterable) and not isinstance(v, str) else [v])
            for n, v in steps.items()
        ]
    else:
        raise LieDerivError(f"steps is a {type(steps).__name__}; {_FORM}, or a mapping like it.")
    found = {str(name): tuple(_size(name, v) for v in values) for name, values in pairs}
    if len(found) != len(pairs):
        raise LieDerivError("steps names a transform twice; give all its steps at once.")
    empty = next((name for name, values in found.items() if not values or not name), None)
    if empty is not None or (not found):
        raise LieDerivError(f"steps holds no step{f' of {empty}' if empty else ''}; {_FORM}.")
    return found


_FORM = "write TRANSFORM=SIZE,SIZE;TRANSFORM=SIZE, e.g. translation=0.5px,1px;rotation=1deg"


RANGE = f"a number from {_SMALLEST:g} to {_LARGEST:g}, with its unit"
"""What a step must be, in words."""


def read_size(value: StepValue) -> tuple[float, str] | None:
    """Size and unit (empty where none is given) of one step; None if it is no step.

    Example:
        >>> read_size("0.5px"), read_size(2), read_size("0px")
        ((0.5, 'px'), (2.0, ''), None)
    """
    text = str(value).strip()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ%°-_ ")
    symbol = text[len(number) :].strip()
    try:
        size = float(number)
    except ValueError:
        return None
    known = not isinstance(value, bool) and _SMALLEST <= size <= _LARGEST
    return (size, _ALIASES.get(symbol, symbol)) if known else None


def _size(name: str, value: StepValue) -> tuple[float, str]:
    size = read_size(value)
    if size is None:
        text = one_line(str(value).strip())[:40]
        raise LieDerivError(f"steps: {text!r} of {name} must be {RANGE}; {_FORM}.")
    return size


def step_of(name: str, unit: StepUnit, size: float, symbol: str, *, chosen: bool) -> Step:
    """A step in the unit of steps.

    Raises:
        LieDerivError: if it is given in a unit that the generator has not.
    """
    if symbol in ("", unit.symbol):
        return Step(size, unit.parameter_of(size), unit.symbol, chosen)
    if symbol == unit.parameter:
        return Step(unit.size_of(size), size, unit.symbol, chosen)
    other = f" or {unit.parameter}" if unit.parameter != unit.symbol else ""
    raise LieDerivError(
        f"steps: {name}@{size:g}{symbol} is in the wrong unit; a step of {name} is measured in "
        f"{unit.symbol}{other}."
    )


def plan_of(
    generators: Sequence[Generator],
    grids: Sequence[Sequence[float]],
    steps: Steps = None,
    catalogue: Catalogue | None = None,
) -> tuple[tuple[Step, ...], ...]:
    """The steps of each generator, ascending: the grid, and what is chosen.

    Args:
        generators: K generators.
        grids: sizes for each, in the unit of steps; empty for none but the chosen.
        steps: those chosen, by generator and by group, both of which count; None (and
            transforms that it does not name) stands for 1 px, 1 degree, 1 %, and a small step of
            whatever has another unit.
        catalogue: of the generators, to tell a name that is not measured from a wrong one.

    Raises:
        LieDerivError: for steps in a wrong unit, or of what is not measured.
    """
    asked = parse_steps(steps)
    known = {name for name, _, _ in targets(generators)} | {g.group for g in generators}
    for name in asked:
        if name not in known:
            kinds = "" if catalogue is None or name in catalogue.names else " unknown, so"
            raise LieDerivError(
                f"steps: {name!r} is{kinds} not among the transforms that are measured "
                f"({', '.join(dict.fromkeys(g.group for g in generators))}); add it to them, or "
                "leave its steps out."
            )
    plan = []
    for g, grid in zip(generators, grids, strict=True):
        unit = unit_of(g.unit)
        own = [size for name in dict.fromkeys((g.group, g.name)) for size in asked.get(name, ())]
        sizes = own or [(_CHOSEN.get(unit.symbol, 0.01), "")]
        chosen = [step_of(g.name, unit, *size, chosen=True) for size in sizes]
        steps_of = {s.label: s for s in (step_of(g.name, unit, v, "", chosen=False) for v in grid)}
        steps_of |= {s.label: s for s in chosen}
        if len(steps_of) > _MOST:
            raise LieDerivError(f"steps: {len(steps_of)} of {g.name} are too many; {_MOST} do.")
        plan.append(tuple(sorted(steps_of.values(), key=lambda s: s.t)))
    return tuple(plan)
