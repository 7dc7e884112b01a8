"""One step for each transform: what is understood, and what is refused in a sentence."""

import math

import pytest

from liederiv import LieDerivError
from liederiv.generators import resolve_generators
from liederiv.single_steps import single_steps


def sizes(text, transforms="translation_x,rotation"):
    return [step.t for step in single_steps(text, resolve_generators(transforms))]


@pytest.mark.parametrize(
    ("text", "transforms", "want"),
    [
        ("1px", "translation", [1.0, 1.0]),
        ("0.5", "translation_x", [0.5]),
        ("2°", "rotation", [math.radians(2)]),
        ("0.02rad", "rotation", [0.02]),
        ("1%", "scale", [math.log(1.01)]),
        ("auto", "translation_x,rotation,scale", [1.0, math.radians(1), math.log(1.01)]),
        ("rotation=2deg", "translation_x,rotation", [1.0, math.radians(2)]),
        ("translation=1px;translation_y=3px", "translation", [1.0, 3.0]),
        ("0", "translation", []),
        ("0.0", "translation", []),
    ],
)
def test_sizes_are_understood(text, transforms, want):
    assert sizes(text, transforms) == pytest.approx(want)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1px", "--step='1px' does not fit rotation, whose steps are measured in deg or rad"),
        ("1", "--step='1' has no unit, and translation_x, rotation differ in theirs"),
        ("1mm", "does not fit translation_x, whose steps are measured in px"),
        ("nan", "must be a number"),
        ("", "must be a number"),
        ("1e9px", "must be a number from"),
        ("rotation=1px", "--step: rotation@1px is in the wrong unit"),
        ("rotation=1,2", "--step names 2 sizes of rotation"),
        ("rotation=1;rotation=2", "--step names a transform twice"),
        ("scale=1", "--step: 'scale' is not among the transforms that are measured"),
        ("rotation=", "--step: '' of rotation must be a number"),
        ("=1px", "--step holds no step"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(LieDerivError, match=r"^--step") as error:
        sizes(text)
    assert message in str(error.value)
