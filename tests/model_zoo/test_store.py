"""The folder of a scan's results: schema, atomicity, foreign files, claims, other readers."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import fields
from datetime import datetime, timezone

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from patience import PATIENCE

from liederiv.errors import LieDerivError
from liederiv.model_zoo.scan.columns import MEASUREMENTS, ORIGIN, Origin, columns_of, schema_of
from liederiv.model_zoo.scan.store import Store, StoreWarning

CONFIGURATION = {"score": {"scheme": "bspline", "seed": 0}, "layers": {"scheme": "bspline"}}
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc)


def origin(measurement="score", model="resnet18", key="a" * 16, outcome="measured", **more):
    return Origin(key, measurement, outcome, f"{model} as asked", model, started=NOW, **more)


def scores(n=2):
    return pd.DataFrame(
        {
            "metric": ["lee"] * n,
            "transform": ["rotation"] * n,
            "output": ["probs"] * n,
            "value": [0.5, None][:n],
            "status": ["measured", "failed"][:n],
            "reason": ["", "not finite"][:n],
            "per_image": [[0.25, 0.75], []][:n],
        },
        columns=columns_of("score"),
    )


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "scan", CONFIGURATION)


def test_rows_come_back_with_their_origin(store):
    store.write(origin(parameters=11, seconds=1.5), scores())
    frame = store.read("score")
    assert list(frame.columns) == schema_of("score").names
    assert frame["value"].tolist()[0] == 0.5
    assert frame["per_image"][0].tolist() == [0.25, 0.75]
    assert frame["reason"].tolist() == ["", "not finite"]
    assert frame["parameters"].tolist() == [11, 11]
    assert frame["started"][0].to_pydatetime() == NOW
    assert store.measurements == ("score",)


@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_a_failure_has_the_schema_of_a_success(store, measurement):
    store.write(origin(measurement, "bad", outcome="killed", reason="why", log="logs/x.log"))
    path = store.path(measurement, "bad", "a" * 16)
    assert pq.read_schema(path).equals(schema_of(measurement), check_metadata=True)
    row = store.read(measurement).iloc[0]
    assert (row["outcome"], row["status"], row["reason"]) == ("killed", "failed", "why")
    assert store.outcome(measurement, "bad", "a" * 16) == "killed"
    assert store.outcome(measurement, "bad", "b" * 16) is None


def test_whole_numbers_keep_their_type_beside_failures(store):
    store.write(origin(parameters=2**53 + 1), scores(1))
    store.write(origin(model="bad", outcome="timeout"))
    parameters = store.read("score").set_index("model")["parameters"]
    assert parameters["resnet18"] == 2**53 + 1
    assert parameters.isna()["bad"]


def test_a_second_result_replaces_the_first(store):
    store.write(origin(outcome="timeout"))
    store.write(origin(), scores())
    assert store.read("score")["outcome"].tolist() == ["measured", "measured"]


def test_files_of_others_are_passed_over(store):
    store.write(origin(), scores())
    folder = store.folder / "score"
    (folder / "broken.parquet").write_bytes(b"PAR1 not really")
    pd.DataFrame({"a": [1]}).to_parquet(folder / "foreign.parquet")
    (folder / "notes.txt").write_text("mine")
    with pytest.warns(StoreWarning, match="passed over") as caught:
        frame = store.read("score")
    assert len(frame) == 2
    assert {w.message.args[0].split(" is ")[0][-14:] for w in caught} == {
        "broken.parquet",
        "oreign.parquet",
    }


def test_an_empty_store_reads_as_an_empty_table(store):
    frame = store.read("aliasing")
    assert len(frame) == 0
    assert list(frame.columns) == schema_of("aliasing").names
    with pytest.raises(LieDerivError, match="measurement='depth' is unknown; choose one of score"):
        store.read("depth")


def test_any_reader_of_parquet_reads_the_folder(store):
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    store.write(origin(), scores())
    store.write(origin(model="bad", outcome="timeout", reason="slow"))
    pattern = str(store.folder / "score" / "*.parquet")
    expected = [("bad", "timeout", None), ("resnet18", "measured", 0.5)]
    columns = ["model", "outcome", "value"]
    rows = polars.read_parquet(pattern).filter(polars.col("reason") != "not finite")
    assert sorted(rows.select(columns).rows()) == expected
    query = f"SELECT {', '.join(columns)} FROM '{pattern}' WHERE reason <> 'not finite'"
    assert sorted(duckdb.sql(query).fetchall()) == expected
    table = ds.dataset(store.folder / "score").to_table()
    assert len(table) == 3
    assert len(pd.read_parquet(store.folder / "score")) == 3


def test_names_of_files_are_safe_and_distinct(store):
    name = "local-dir:/home/me/../ü net:x"
    strange = Origin("a" * 16, "score", "failed", "asked", name)
    path = store.write(strange)
    assert path.parent == store.folder / "score"
    assert path.name == f"local-dir_home_me_.._net_x-{'a' * 16}.parquet"
    assert store.write_log("a/b", "c", "said\n") == "logs/a_b-c.log"
    assert (store.folder / "logs" / "a_b-c.log").read_text() == "said\n"


def test_other_settings_need_another_folder(store):
    with pytest.raises(LieDerivError, match=r"score results made with scheme='bspline', not 'four"):
        Store.create(store.folder, {"score": {"scheme": "fourier", "seed": 0}})
    with pytest.raises(LieDerivError, match=r"made with seed=0, not None"):
        Store.create(store.folder, {"score": {"scheme": "bspline"}})
    again = Store.create(store.folder, {"aliasing": {"factor": 4}, "score": CONFIGURATION["score"]})
    assert again.configuration == {**CONFIGURATION, "aliasing": {"factor": 4}}
    assert Store.open(store.folder).configuration == again.configuration


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(LieDerivError, match=r"holds no results of a scan \(manifest.json is miss"):
        Store.open(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(LieDerivError, match="is no manifest of a scan"):
        Store.open(tmp_path)
    newer = {"schema_version": 99, "configuration": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(LieDerivError, match="of schema version 99, this liederiv reads up to"):
        Store.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LieDerivError, match="cannot be used for results"):
        Store.create(tmp_path / "file", CONFIGURATION)


def test_an_interrupted_write_leaves_nothing_to_read(store, monkeypatch):
    def fail(table, path):
        path.write_bytes(b"PAR1 half")
        assert path.parent == store.folder / ".partial"
        raise KeyboardInterrupt

    monkeypatch.setattr("liederiv.model_zoo.scan.store.pq.write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        store.write(origin(), scores())
    assert list((store.folder / "score").iterdir()) == []
    assert list((store.folder / ".partial").iterdir()) == []


def test_leftovers_of_killed_scans_go_after_a_day(store):
    old, new = (store.folder / ".partial" / name for name in ("old", "new"))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    Store.create(store.folder, CONFIGURATION)
    assert (old.exists(), new.exists()) == (False, True)


def _hold(folder, ready):
    with Store.open(folder).claim("k") as mine:
        ready.put(mine)
        time.sleep(PATIENCE)


def test_the_claim_of_a_dead_process_does_not_count(store):
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    process = context.Process(target=_hold, args=(store.folder, ready))
    process.start()
    try:
        assert ready.get(timeout=PATIENCE)
        with store.claim("k") as mine, store.claim("other") as other:
            assert (mine, other) == (False, True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with store.claim("k") as mine, store.claim("k") as again:
        assert (mine, again) == (True, False)
    with store.claim("k") as mine:
        assert mine


def test_every_column_of_the_origin_is_documented():
    names = [name for name, _ in ORIGIN]
    assert names == [*(f.name for f in fields(Origin)), "status"]
    assert all(f"        {f.name}:" in Origin.__doc__ for f in fields(Origin))
