"""Files of results: exact round trips, and one sentence for whatever is none."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results_cases import NAMES, NUMBERS, PROVENANCE, measurement, score

from liederiv.errors import LieDerivError
from liederiv.measurement.results import Measurement
from liederiv.testing.limits import read_baseline

ENDINGS = (".json", ".csv", ".parquet")
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


def without_images(m):
    rows = tuple(replace(s, per_image=(), per_image_denominator=()) for s in m.scores)
    return Measurement(rows, m.provenance)


def same(a, b):
    """Equality for which NaN is NaN, 0.0 is not −0.0, and a missing number none."""
    return repr(a.scores) == repr(b.scores) and a.provenance == b.provenance


@st.composite
def any_measurement(draw):
    keys = draw(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=3, unique=True))
    rows = [
        replace(
            score(draw(NUMBERS)),
            metric=metric,
            transform=transform,
            output=output,
            ci_low=draw(NUMBERS),
            floor=draw(NUMBERS),
            unit=draw(TEXTS),
            reason=draw(TEXTS),
            definition=draw(TEXTS),
            per_image=(),
        )
        for metric, transform, output in keys
    ]
    p = replace(PROVENANCE, model=draw(TEXTS), warnings=tuple(draw(st.lists(TEXTS, max_size=2))))
    return Measurement(tuple(rows), p)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(m=any_measurement(), ending=st.sampled_from(ENDINGS))
def test_what_is_written_is_read(tmp_path, m, ending):
    if ending == ".csv" and not m.scores:
        return  # no row that could say how it was measured
    assert same(Measurement.load(m.save(tmp_path / f"m{ending}")), m)


def test_values_per_image_are_read_exactly(tmp_path):
    values = tuple(np.random.default_rng(0).random(4).tolist())
    ratio = score(
        sum(values) / 2, metric="relative_norm", per_image=values,
        per_image_denominator=(0.5,) * 4,
    )  # fmt: skip
    m = measurement(score(), ratio, replace(score(None), transform="scale", status="failed"))
    assert Measurement.load(m.save(tmp_path / "m.parquet")) == m
    for ending in (".json", ".csv"):
        assert Measurement.load(m.save(tmp_path / f"m{ending}")) == without_images(m)


def test_a_measurement_of_a_network_comes_back(tmp_path):
    import torch

    from liederiv import measure

    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    m = measure(
        lambda z: z[:, :, 3, 4] ** 2, x, "translation,rotation", "lee,relative,eq_t,discrete",
        image_names=NAMES,
    )  # fmt: skip
    assert Measurement.load(m.save(tmp_path / "m.parquet")) == m
    assert m.provenance.input_size == (3, 16, 16)
    assert m.provenance.output_size == (3,)
    assert len(m.provenance.transforms["translation"]) == 2
    for ending in (".json", ".csv"):
        assert same(Measurement.load(m.save(tmp_path / f"m{ending}")), without_images(m))


def test_names_that_are_no_unicode_are_written(tmp_path):
    m = Measurement((score(),), replace(PROVENANCE, model="\ud800"), ("a\udcff", "b", "c", "d"))
    for ending in ENDINGS:
        found = Measurement.load(m.save(tmp_path / f"m{ending}"))
        assert found.provenance.model == "\\ud800"
    assert found.image_names[0] == "a\\xff"


# --- what is none --------------------------------------------------------------------------------


def refused(path, match="cannot be read as results"):
    with pytest.raises(LieDerivError, match=match) as caught:
        read_baseline(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600
    return str(caught.value)


SHAPES = (
    "", "null", "3", "true", '"text"', "[]", "[1, 2]", "{}", "[[[[]]]]", '{"results": 3}',
    '{"results": [3]}', '{"results": [[]]}', '{"results": {"a": 1}}', '{"results": [null]}',
    '{"results": [{"metric": "lee"}]}', '{"results": [], "definitions": 3}', "[" * 100_000,
    '{"a": ' * 50_000, "9" * 6000, '{"results": [' + "9" * 6000 + "]}", "\x00", "{", "NaN",
)  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("text", SHAPES, ids=range(len(SHAPES)))
def test_other_shapes_are_one_sentence(tmp_path, text, ending):
    path = tmp_path / f"x{ending}"
    path.write_text(text)
    refused(path)


ODD = (None, 3, -1.5, True, "text", [], [1], {}, {"a": 1}, 10**400, [[[]]])


def test_any_field_may_be_of_another_kind(tmp_path):
    path = tmp_path / "x.json"
    data = json.loads(measurement().save(path).read_text())
    for key in data:
        for value in ODD:
            path.write_text(json.dumps(data | {key: value}))
            load_or_refuse(path)
        path.write_text(json.dumps({k: v for k, v in data.items() if k != key}))
        if key not in ("schema_version",):
            refused(path)
    for key in data["results"][0]:
        for value in ODD:
            path.write_text(json.dumps(data | {"results": [data["results"][0] | {key: value}]}))
            load_or_refuse(path)


def load_or_refuse(path):
    try:
        found = read_baseline(path)
    except LieDerivError:
        refused(path, "--baseline=")
    else:
        assert all(isinstance(s.value, float | None) for s in found.scores)


@pytest.mark.parametrize("ending", ENDINGS)
def test_shortened_files_are_refused(tmp_path, ending):
    path = measurement(score(), score(transform="scale")).save(tmp_path / f"x{ending}")
    whole = path.read_bytes()
    for end in {0, 1, *range(2, len(whole) - 1, max(1, len(whole) // 60))}:
        path.write_bytes(whole[:end])
        refused(path)


def test_a_csv_of_less_rows_or_none_of_ours_is_refused(tmp_path):
    path = measurement(score(), score(transform="scale")).save(tmp_path / "x.csv")
    frame = pd.read_csv(path)
    frame[:1].to_csv(path, index=False)
    assert "it has 1 of 2 rows" in refused(path)
    frame.drop(columns="provenance").to_csv(path, index=False)
    assert "does not say how it was measured" in refused(path)
    other = pd.read_csv(measurement(seed=1).save(tmp_path / "y.csv"))
    pd.concat([frame, other]).to_csv(path, index=False)
    assert "several measurements" in refused(path)


FOREIGN = {
    "no columns": pd.DataFrame(),
    "others": pd.DataFrame({"a": [1, 2]}),
    "numbers": pd.DataFrame({"metric": [1], "index": ["x"], "value": ["y"]}),
    "nulls": pd.DataFrame({"metric": [None], "transform": [None], "value": [None]}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_tables_of_others_are_refused(tmp_path, name):
    FOREIGN[name].to_parquet(tmp_path / "x.parquet")
    assert "does not say how it was measured" in refused(tmp_path / "x.parquet")


def test_a_table_that_lost_its_provenance_is_refused(tmp_path):
    """As `liederiv score --per-image` wrote it before, and as other programs rewrite it."""
    path = measurement().save(tmp_path / "x.parquet")
    pd.read_parquet(path).to_parquet(tmp_path / "y.parquet")
    assert "does not say how it was measured" in refused(tmp_path / "y.parquet")


def changed_table(tmp_path, change):
    path = measurement(score(), score(transform="scale")).save(tmp_path / "x.parquet")
    table = pq.read_table(path)
    frame = change(table.to_pandas())
    new = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(new.replace_schema_metadata(table.schema.metadata), path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f[f["transform"] == "scale"], "has other images than it says"),
        (lambda f: f[f["index"] > 0], "has other images than it says"),
        (lambda f: pd.concat([f, f[:1]]), "has other images than it says"),
        (lambda f: f.assign(image="a"), "has other images than it says"),
        (lambda f: f.assign(value=3 * f["value"]), "its images say"),
        (lambda f: f.assign(value=math.nan), "its images say"),
        (lambda f: f.assign(denominator=0.0), "its images say"),
        (lambda f: f.assign(value="much"), "ValueError"),
        (lambda f: f.assign(index=None), "has other images than it says"),
        (lambda f: f.drop(columns="value"), "KeyError"),
        (lambda f: f.assign(value=[[1.0]] * len(f)), ""),
        (lambda f: pd.concat([f, f.assign(metric="mean_abs")]), "more than it says"),
    ],
)
def test_a_table_whose_rows_do_not_fit_its_provenance_is_refused(tmp_path, change, words):
    assert words in refused(changed_table(tmp_path, change))


def test_pipes_and_folders_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    assert "no regular file" in refused(tmp_path / "x.json")
    (tmp_path / "y.json").mkdir()
    assert "no regular file" in refused(tmp_path / "y.json")
    assert "no such file" in refused(tmp_path / "z.json")
