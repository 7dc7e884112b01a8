"""One step for each transform, as `liederiv layers --step` takes it.

``1px``: one size that fits all transforms; ``translation=1px;rotation=1deg``: the grammar of
`liederiv.steps`, one size for each; ``auto``: the customary ones, 1 px, 1 degree, 1 %; ``0``: none,
which is the derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

from liederiv.errors import LieDerivError
from liederiv.foreign import shortened
from liederiv.generators import Generator
from liederiv.steps import Step, parse_steps, plan_of, step_of, unit_of

__all__ = ["single_steps"]

_ALL = "all transforms"
_EXAMPLE = "'translation=1px;rotation=1deg'"


def single_steps(text: str, generators: Sequence[Generator]) -> tuple[Step, ...]:
    """The step of each generator.

    Args:
        text: ``0``, ``auto``, one size with its unit, or sizes by name; a transform that is not
            named then has its customary one, and its own name goes before its group's.
        generators: K of them.

    Returns:
        K steps; none for ``0``.

    Raises:
        LieDerivError: for what is no size, several sizes of one transform, a transform that is not
            measured, or a unit that does not fit.

    Example:
        >>> from liederiv.generators import resolve_generators
        >>> [s.label for s in single_steps("translation=2px", resolve_generators("translation_x,rotation"))]
        ['2px', '1deg']
    """  # noqa: E501
    words = text.strip()
    if _is_zero(words):
        return ()
    try:
        if words == "auto" or "=" in words:
            sizes = parse_steps(None if words == "auto" else words)
            plan_of(generators, [()] * len(generators), None if words == "auto" else words)
        else:
            sizes = parse_steps({_ALL: words})
    except LieDerivError as error:
        raise LieDerivError(f"--step{str(error).removeprefix('steps')}") from None
    several = next((name for name, values in sizes.items() if len(values) > 1), None)
    if several is not None:
        raise LieDerivError(
            f"--step names {len(sizes[several])} sizes of {several}; layers attributes one step at "
            "a time: leave one."
        )
    if _ALL in sizes:
        return _one_for_all(words, sizes[_ALL][0], generators)
    return tuple(_of_group(g, sizes) for g in generators)


def _is_zero(words: str) -> bool:
    try:
        return float(words) == 0
    except ValueError:
        return False


def _of_group(g: Generator, sizes: dict[str, tuple[tuple[float, str], ...]]) -> Step:
    """The step of a generator by its own name, else its group's, else the customary one."""
    for name in (g.name, g.group):
        if name in sizes:
            return step_of(g.name, unit_of(g.unit), *sizes[name][0], chosen=True)
    return plan_of([g], [()])[0][0]


def _one_for_all(
    words: str, given: tuple[float, str], generators: Sequence[Generator]
) -> tuple[Step, ...]:
    """One size, where all generators take its unit."""
    size, symbol = given
    units = {g.name: unit_of(g.unit) for g in generators}
    taken = {name: dict.fromkeys((u.symbol, u.parameter)) for name, u in units.items()}
    shown = shortened(words, 40)
    odd = [name for name, known in taken.items() if symbol and symbol not in known]
    if odd:
        raise LieDerivError(
            f"--step={shown!r} does not fit {odd[0]}, whose steps are measured in "
            f"{' or '.join(taken[odd[0]])}; give each transform its own, e.g. {_EXAMPLE}, or auto."
        )
    if not symbol and len({u.symbol for u in units.values()}) > 1:
        raise LieDerivError(
            f"--step={shown!r} has no unit, and {', '.join(units)} differ in theirs; give each "
            f"transform its own, e.g. {_EXAMPLE}, or auto."
        )
    return tuple(step_of(n, u, size, symbol, chosen=True) for n, u in units.items())
