"""A baseline counts only if it was measured alike, holds the same rows, and has numbers."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results_cases import (
    DIFFERENT,
    HARMLESS,
    NUMBERS,
    PROVENANCE,
    measurement,
    score,
    scores,
)

from liederiv.errors import LieDerivError
from liederiv.measurement.comparison import contrast_of
from liederiv.measurement.results import Measurement, Provenance
from liederiv.testing.limits import Limit, judge_increase, judge_limits, read_baseline

ENDINGS = (".json", ".csv", ".parquet")
NOT_NUMBERS = (math.nan, math.inf, -math.inf, -1.0)


def through_file(tmp_path, m, ending):
    return read_baseline(m.save(tmp_path / f"base{ending}"))


def test_every_field_of_the_provenance_is_decided_upon():
    told = {"images", "verification", "warnings"}  # words for readers
    assert {f.name for f in fields(Provenance)} == {*DIFFERENT, *HARMLESS, *told}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_was_measured_otherwise_is_no_baseline(tmp_path, name, ending):
    new = measurement()
    old = through_file(tmp_path, measurement(**{name: DIFFERENT[name]}), ending)
    with pytest.raises(LieDerivError, match=r"--baseline was measured .*; measure both alike"):
        judge_increase(new, old, 0.05)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_may_differ_is_said(tmp_path, ending):
    new, old = measurement(), through_file(tmp_path, measurement(**HARMLESS), ending)
    (verdict,) = judge_increase(new, old, 0.05)
    assert verdict.state == "kept"
    said = "; ".join(contrast_of(old, new, between_models=False).notes)
    assert "with another model (other, now net)" in said
    for words in ("other weights", "another device", "another engine", "torch 0, now"):
        assert words in said
    assert contrast_of(new, new, between_models=False).notes == ()


def test_other_photographs_under_the_same_names(tmp_path):
    """The fingerprint is of the content; it is there even for tensors of a caller."""
    import torch

    from liederiv import measure

    torch.manual_seed(0)
    one, other = torch.rand(2, 4, 3, 16, 16)
    before, after = (
        measure(lambda z: z[:, :, 3, 4], x, "rotation", "lee", image_names="abcd")
        for x in (one, other)
    )
    for ending in ENDINGS:
        old = through_file(tmp_path, before, ending)
        with pytest.raises(LieDerivError, match="measured on other images"):
            judge_increase(after, old, 1e6)
        assert {v.state for v in judge_increase(before, old, 0)} == {"kept"}


def test_images_of_unknown_content_are_not_the_same():
    unknown = measurement(images_fingerprint="")
    with pytest.raises(LieDerivError, match="content is not known"):
        judge_increase(unknown, unknown, 0.05)


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("value", [*NOT_NUMBERS, 0.0, None])
def test_a_baseline_that_is_no_positive_number_keeps_nothing(tmp_path, value, ending):
    row = replace(score(), value=value, ci_low=None, ci_high=None, per_image=())
    old = through_file(tmp_path, measurement(row), ending)
    for now in (1.0, 0.0, 1e-300):
        (verdict,) = judge_increase(measurement(score(now)), old, 0.05)
        assert verdict.state == "not measured"
        assert not verdict.passed


@pytest.mark.parametrize("status", ["failed", "not applicable"])
@pytest.mark.parametrize("side", ["old", "new"])
def test_a_number_of_another_status_does_not_count(side, status):
    bad = measurement(replace(score(), status=status, reason="so it is"))
    pair = (measurement(), bad) if side == "old" else (bad, measurement())
    (verdict,) = judge_increase(*pair, 0.05)
    assert verdict.state == "not measured"
    assert "so it is" in verdict.reason


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_measurement_that_is_no_number_is_not_kept(value):
    bad = measurement(replace(score(), value=value, ci_low=0.0))
    for verdict in (
        *judge_increase(bad, measurement(), 0.05),
        *judge_limits(bad, [Limit("lee", "rotation", None, 1e300)]),
    ):
        assert verdict.state == "not measured"


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_limits_and_tolerances_must_be_numbers(value):
    with pytest.raises(LieDerivError, match="finite number from 0"):
        Limit("lee", "rotation", None, value)
    with pytest.raises(LieDerivError, match="finite number from 0"):
        judge_increase(measurement(), measurement(), value)


# --- rows ----------------------------------------------------------------------------------------

TWO = (score(), score(transform="scale"))


def test_rows_of_one_side_only_are_not_kept():
    states = [v.state for v in judge_increase(measurement(*TWO), measurement(), 0.05)]
    assert states == ["kept", "not measured"]
    states = [v.state for v in judge_increase(measurement(), measurement(*TWO), 0.05)]
    assert states == ["kept", "not measured"]
    limited = {("lee", "scale")}  # has a limit of its own
    (verdict,) = judge_increase(measurement(*TWO), measurement(), 0.05, limited=limited)
    assert verdict.state == "kept"


def test_a_baseline_without_a_row_in_common_is_refused():
    other = measurement(score(transform="scale"))
    with pytest.raises(LieDerivError, match="holds no score of lee on probs"):
        judge_increase(measurement(), other, 0.05)
    with pytest.raises(LieDerivError, match="nothing to judge"):
        judge_increase(Measurement((), PROVENANCE), measurement(), 0.05)
    with pytest.raises(LieDerivError, match="holds no score"):
        judge_increase(measurement(), Measurement((), PROVENANCE), 0.05)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_baseline_is_refused(tmp_path, ending):
    with pytest.raises(LieDerivError, match=r"--baseline=.*(holds none of lee|cannot be read)"):
        through_file(tmp_path, Measurement((), PROVENANCE), ending)


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_that_are_there_twice_are_refused(tmp_path, ending):
    with pytest.raises(LieDerivError, match="has lee/rotation/probs twice"):
        through_file(tmp_path, measurement(score(), score(0.5)), ending)
    with pytest.raises(LieDerivError, match="twice"):
        judge_increase(measurement(score(), score()), measurement(), 0.05)


def test_the_output_that_comes_first_must_be_the_same():
    logits = score(output="logits")
    with pytest.raises(LieDerivError, match="--output-type"):
        judge_increase(measurement(logits), measurement(score(), logits), 0.05)


# --- the property --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=400)
@given(
    new=st.lists(scores(), max_size=3),
    old=st.lists(scores(), max_size=3),
    changed=st.one_of(st.none(), st.sampled_from(sorted(DIFFERENT))),
    increase=NUMBERS.filter(lambda v: v is not None),
)
def test_kept_means_numbers_alike_and_within_the_limit(new, old, changed, increase):
    other = {} if changed is None else {changed: DIFFERENT[changed]}
    now, before = Measurement(tuple(new), PROVENANCE), measurement(*old, **other)
    before = replace(before, scores=tuple(old))
    try:
        verdicts = judge_increase(now, before, increase)
    except LieDerivError:
        return
    assert verdicts
    assert changed is None or (changed == "transforms" and all(not v.passed for v in verdicts))
    for v in verdicts:
        if v.passed:
            (a,), (b,) = (
                [s for s in rows if f"{s.metric}/{s.transform}/{s.output}" == v.name]
                for rows in (new, old)
            )
            assert a.status == b.status == "measured"
            assert a.unit == b.unit
            assert all(math.isfinite(x.value) and x.value >= 0 for x in (a, b))
            assert b.value > 0
            if v.state == "kept":
                assert a.value <= b.value * (1 + increase) * (1 + 1e-12)


@settings(deadline=None, max_examples=400)
@given(row=scores(), limit=NUMBERS.filter(lambda v: v is not None))
def test_kept_means_a_number_below_the_limit(row, limit):
    try:
        (verdict,) = judge_limits(
            measurement(row), [Limit("lee", row.transform, row.output, limit)]
        )
    except LieDerivError:
        assert not (math.isfinite(limit) and limit >= 0)
        return
    if verdict.passed:
        assert row.status == "measured"
        assert math.isfinite(row.value)
        assert row.value >= 0
        assert verdict.state == "unclear" or row.value <= limit
