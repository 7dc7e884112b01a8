"""Wherever two results meet, the same rule: measured alike, or not compared."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from made_scan import MODELS, make_scan, origin, score_frame
from results_cases import DIFFERENT, HARMLESS, measurement, score

from liederiv.analysis.models.leaderboard import leaderboard
from liederiv.analysis.models.scan_comparison import compare_scans, scan_notes
from liederiv.analysis.report import report_html
from liederiv.errors import LieDerivError
from liederiv.measurement.comparison import compare, contrast_of
from liederiv.model_zoo.scan.store import Store

OF_THE_MODEL = ("input_size", "preprocessing", "output_size")
TWO_MODELS = {"resnet18.a1_in1k": 11.7, "resnet50.a1_in1k": 25.6, "vit_tiny_patch16_224": 5.7}


@pytest.mark.parametrize("name", [n for n in DIFFERENT if n not in OF_THE_MODEL])
def test_measurements_made_otherwise_are_not_compared(name):
    other = measurement(**{name: DIFFERENT[name]})
    with pytest.raises(LieDerivError, match=r"different images|was made .*measure both alike"):
        compare(measurement(), other)


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_models_may_differ_in_size_and_that_is_said(name):
    a, b = measurement(), measurement(**{name: DIFFERENT[name]}, **HARMLESS)
    (row,) = compare(a, b)
    assert row.difference == 0
    notes = "; ".join(contrast_of(a, b).notes)
    assert "size" in notes or "preprocessing" in notes
    with pytest.raises(LieDerivError, match="measure both alike"):
        compare(a, b, between_models=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_has_no_difference(value):
    bad = measurement(replace(score(), value=value))
    for pair in ((bad, measurement()), (measurement(), bad)):
        (row,) = compare(*pair)
        assert row.status == f"its value is {value:g}"
        assert math.isnan(row.difference)
        assert not row.significant
    (row,) = compare(measurement(), measurement(score(unit="1")))
    assert row.status == "units differ: prob²/rad², now 1"


# --- scans ---------------------------------------------------------------------------------------


OTHERWISE = {
    "images_fingerprint": "1" * 16,
    "scheme": "fourier",
    "seed": 1,
    "dtype": "float64",
    "representation": "FeatureMap()",
    "settings": json.dumps({"unit": "grid"}),
    "num_images": 9,
}
OTHER_SIZES = {"input_height": 256, "settings": json.dumps({"crop_pct": 1.0})}


def scan(folder, **otherwise):
    store = make_scan(folder, models=TWO_MODELS, layers=False)
    if otherwise:
        (name, _), *_ = TWO_MODELS.items()
        store.write(origin(name, **otherwise), score_frame(0))
    return store.read("score")


@pytest.mark.parametrize("name", {**OTHERWISE, **OTHER_SIZES})
def test_a_model_that_was_scanned_otherwise_is_not_compared(tmp_path, name):
    value = {**OTHERWISE, **OTHER_SIZES}[name]
    rows = compare_scans(scan(tmp_path / "a"), scan(tmp_path / "b", **{name: value}))
    first, *others = TWO_MODELS
    (own,) = rows[rows["model"] == first].to_dict("records")
    assert "alike" in own["status"] or "different images" in own["status"]
    assert pd.isna(own["difference"])
    assert (rows[rows["model"].isin(others)]["status"] == "measured").all()


def test_versions_of_two_scans_are_said(tmp_path):
    a, b = scan(tmp_path / "a"), scan(tmp_path / "b", version_torch="9")
    assert [n for n in scan_notes(a, b) if "torch" in n]
    assert scan_notes(a, a) == ()


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_table_holds_models_that_were_measured_alike(tmp_path, name):
    rows = scan(tmp_path, **{name: OTHERWISE[name]})
    first, *others = TWO_MODELS
    board = leaderboard(rows)
    assert sorted(board.frame["model"]) == sorted(others)
    assert list(board.left_out) == [first]
    assert "unlike most of these models" in board.left_out[first]


def test_a_value_in_another_unit_is_left_out(tmp_path):
    store = make_scan(tmp_path, models=TWO_MODELS, layers=False)
    first, *others = TWO_MODELS
    store.write(origin(first), score_frame(0).assign(unit="prob²/Å²"))
    board = leaderboard(store.read("score"))
    assert sorted(board.frame["model"]) == sorted(others)
    assert "measured in prob²/Å²" in board.left_out[first]
    assert set(board.units.values()) == {"prob²/px²", "prob²/rad²", "prob²/(log-scale)²"}


def test_input_sizes_and_devices_of_models_may_differ(tmp_path):
    rows = scan(tmp_path, input_height=256, device="cuda", version_torch="9")
    assert leaderboard(rows).left_out == {}


def test_the_page_and_the_command_say_who_is_left_out(tmp_path):
    from typer.testing import CliRunner

    from liederiv.cli import app

    rows = scan(tmp_path, scheme="fourier")
    page = report_html(rows)
    assert "with another scheme (bspline, now fourier)" in page
    result = CliRunner().invoke(app, ["results", str(tmp_path), "--format", "csv"])
    assert result.exit_code == 0
    assert result.stderr.startswith("Left out: resnet18.a1_in1k, measured with another scheme")
    assert len(result.stdout.splitlines()) == len(TWO_MODELS)


def test_an_ordinary_scan_leaves_nobody_out(tmp_path):
    store = make_scan(tmp_path)
    board = leaderboard(Store.open(tmp_path).read("score"))
    assert board.left_out == {}
    assert len(board.frame) == len(MODELS)
    assert store.measurements
