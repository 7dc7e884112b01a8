"""Names of the scores that transforms lead to, before any input is seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from liederiv.domains import known_domains
from liederiv.errors import LieDerivError
from liederiv.generators import Generator, resolve_generators
from liederiv.scoring import targets

__all__ = ["row_names"]


def row_names(
    transforms: str | Generator | Iterable[str | Generator],
    unit: Literal["pixel", "grid"] = "pixel",
) -> tuple[str, ...]:
    """Generators and groups that results may have, on any kind of input that knows the transforms.

    Raises:
        LieDerivError: if no kind of input knows them all.

    Example:
        >>> row_names("translation")
        ('translation_x', 'translation_y', 'translation', 'translation_z')
    """
    names: dict[str, None] = {}
    refusal: LieDerivError | None = None
    for catalogue in (c for domain in known_domains() for c in domain.catalogues):
        try:
            found = resolve_generators(transforms, unit=unit, catalogue=catalogue)
        except LieDerivError as error:
            refusal = refusal or error
        else:
            names.update(dict.fromkeys(name for name, _, _ in targets(found)))
    if not names and refusal is not None:
        raise refusal
    return tuple(names)
