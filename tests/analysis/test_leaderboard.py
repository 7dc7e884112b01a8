"""Leaderboard, groups, failures, accuracies and comparison of scans, on made-up numbers."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from made_scan import MODELS, NASTY, START, TRANSFORMS, lee_of, make_scan, origin, score_frame

from liederiv.analysis.models.accuracy import join_accuracy, read_accuracy
from liederiv.analysis.models.leaderboard import failures, leaderboard
from liederiv.analysis.models.scan_comparison import compare_scans, summarise_differences
from liederiv.analysis.models.statistics import describe_models
from liederiv.errors import LieDerivError

NAMES = list(MODELS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_scan(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="module")
def board(store):
    return leaderboard(store.read("score"))


def test_one_row_per_measured_model(board):
    assert sorted(board.frame["model"]) == sorted(MODELS)
    assert board.transforms == tuple(TRANSFORMS)
    assert (board.metric, board.output) == ("lee", "probs")
    assert board.units["rotation"] == "prob²/rad²"


def test_values_and_intervals(board):
    frame = board.frame.set_index("model")
    for i, name in enumerate(NAMES):
        for transform in TRANSFORMS:
            value = lee_of(i, transform)
            row = frame.loc[name, [transform, f"{transform}_low", f"{transform}_high"]]
            np.testing.assert_allclose(row.astype(float), [value, 0.8 * value, 1.3 * value])


def test_other_metric_and_output(store):
    board = leaderboard(store.read("score"), "eq_t", "logits")
    got = board.frame.set_index("model")["rotation"]
    for i, name in enumerate(NAMES):
        assert got[name] == pytest.approx(np.sqrt(lee_of(i, "rotation") * 1e4))


@pytest.mark.parametrize("by", ["translation", "-parameters", "model", None])
def test_sorting(board, by):
    frame = board.sorted(by).frame
    column = frame[(by or "translation").removeprefix("-")].tolist()
    assert column == sorted(column, reverse=bool(by) and by.startswith("-"))


def test_of_decibels_the_largest_is_the_best(board):
    decibels = replace(board, metric="eq_t")
    column = decibels.sorted().frame[board.whole_transforms[0]].tolist()
    assert column == sorted(column, reverse=True)
    assert decibels.sorted().frame["model"].iloc[-1] == board.sorted().frame["model"].iloc[0]
    best = decibels.grouped("class").set_index("class").loc["mixer", "best"]
    mixers = board.frame[board.frame["class"] == "mixer"]
    assert best == mixers.sort_values("translation")["model"].iloc[-1]


def test_models_without_a_value_come_last(tmp_path):
    store = make_scan(tmp_path, models={n: MODELS[n] for n in NAMES[:3]}, layers=False)
    frame = score_frame(0)
    frame.loc[frame["transform"] == "rotation", ["status", "value"]] = ["failed", None]
    store.write(replace(origin("alexnet"), parameters=1), frame)
    for by in ("rotation", "-rotation"):
        assert leaderboard(store.read("score")).sorted(by).frame["model"].iloc[-1] == "alexnet"


def test_groups(board):
    grouped = board.grouped("class").set_index("class")
    assert grouped["models"].sum() == len(MODELS)
    frame = board.frame[board.frame["class"] == "mixer"]
    assert len(frame) == 3
    assert grouped.loc["mixer", "rotation"] == pytest.approx(frame["rotation"].median())
    assert grouped.loc["mixer", "best"] == frame.sort_values("translation")["model"].iloc[0]
    assert board.grouped("architecture").set_index("architecture").loc["resnet50", "models"] == 3


def test_classes(board):
    classes = board.frame.set_index("model")["class"]
    assert classes["resnet18.a1_in1k"] == "CNN"
    assert classes["swin_tiny_patch4_window7_224.ms_in1k"] == "transformer"
    assert classes["coatnet_0_rw_224.sw_in1k"] == "hybrid"
    assert classes[NASTY] == "other"


def test_failures(store):
    failed = failures(store.read("score")).set_index("requested_model")
    assert failed.loc["huge_model", "outcome"] == "out of memory"
    assert list(failed.index) == ["bad_model", "huge_model"]


def test_a_measurement_counts_rather_than_a_failure_and_the_newest_of_them(tmp_path):
    store = make_scan(tmp_path, models={"resnet18": 11.7}, layers=False)
    late = origin("bad_model", finished=START + timedelta(days=1))
    store.write(replace(late, key="1" * 16, outcome="failed", finished=START + timedelta(days=2)))
    store.write(replace(late, key="2" * 16), score_frame(3))
    store.write(replace(late, key="3" * 16, finished=START), score_frame(4))
    rows = store.read("score")
    board = leaderboard(rows).frame.set_index("model")
    assert board.loc["bad_model", "rotation"] == pytest.approx(lee_of(3, "rotation"))
    assert list(failures(rows)["requested_model"]) == ["huge_model"]


def test_nothing_measured(tmp_path):
    rows = make_scan(tmp_path, models={}).read("score")
    with pytest.raises(LieDerivError, match=r"no model has been measured \(2 failed\)"):
        leaderboard(rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, r: leaderboard(r, "lie"), "--metric='lie' was not measured; there are: eq_t, l"),
        (lambda b, r: leaderboard(r, "lee", "map"), "--output='map' was not measured for lee"),
        (lambda b, r: b.sorted("-top1"), "--sort='-top1' is no column; choose one of model,"),
        (lambda b, r: b.grouped("size"), "--group='size' is unknown; choose one of family"),
    ],
)
def test_bad_input(board, store, call, message):
    with pytest.raises(LieDerivError) as error:
        call(board, store.read("score"))
    assert str(error.value).startswith(message)


TABLE = """model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation
resnet50.a1_in1k,81.214,18.786,95.102,4.898,25.56,288,1.000,bicubic
resnet50.a1_in1k,80.000,20.000,95.000,5.000,25.56,224,1.000,bicubic
deit_tiny_patch16_224.fb_in1k,72.160,27.840,91.120,8.880,"1,005.72",224,0.900,bicubic
"""


def test_accuracies_are_joined_by_full_name_and_nearest_size(board, tmp_path):
    path = tmp_path / "results-imagenet.csv"
    path.write_text(TABLE)
    frame = join_accuracy(board.frame, read_accuracy(path)).set_index("model")
    assert frame.loc["resnet50.a1_in1k", ["top1", "accuracy_size"]].tolist() == [80.0, 224.0]
    assert frame.loc["deit_tiny_patch16_224.fb_in1k", "top5"] == 91.12
    assert np.isnan(frame.loc["resnet50.tv_in1k", "top1"])
    assert frame["top1"].notna().sum() == 2


def test_table_without_tags(board, tmp_path):
    path = tmp_path / "old.csv"
    path.write_text("model,top1\nresnet50,80.4\nefficientnet_b0,77.7\n")
    frame = join_accuracy(board.frame, read_accuracy(path)).set_index("model")
    assert frame.loc["efficientnet_b0.ra_in1k", "top1"] == 77.7
    # Three sets of weights of resnet50: which one the table means is unknown.
    assert frame["top1"].notna().sum() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("a,b\n1,2\n", "lacks the column 'model'"), ("", "cannot be read")],
)
def test_bad_accuracy_table(tmp_path, text, message):
    path = tmp_path / "table.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LieDerivError, match=message):
        read_accuracy(path)


def test_scans_compare_model_by_model(tmp_path):
    names = {n: MODELS[n] for n in NAMES[:4]}
    a = make_scan(tmp_path / "a", models=names, layers=False).read("score")
    b = make_scan(tmp_path / "b", 0.5, {**names, "alexnet": 60.0}, layers=False).read("score")
    found = compare_scans(a, b)
    assert set(found["model"]) == set(names)
    lee = found[(found["metric"] == "lee") & (found["output"] == "probs")]
    np.testing.assert_allclose(lee["b"], 0.5 * lee["a"])
    # Every image has halved: a paired interval excludes zero however they differ from each other.
    assert lee["significant"].all()
    summary = summarise_differences(found).set_index(["metric", "output", "transform"])
    row = summary.loc["lee", "probs", "rotation"]
    assert (row["models"], row["lower"], row["higher"]) == (4, 4, 0)
    assert row["ratio"] == pytest.approx(0.5)
    assert row["rank_correlation"] == pytest.approx(1.0)


def test_other_images_are_said_to_be_so(tmp_path):
    a = make_scan(tmp_path / "a", models={"resnet18": 11.7}, layers=False)
    b = make_scan(tmp_path / "b", models={"alexnet": 60.0}, layers=False)
    with pytest.raises(LieDerivError, match="none in common"):
        compare_scans(a.read("score"), b.read("score"))
    b.write(replace(origin("resnet18"), num_images=5), score_frame(0, images=5))
    found = compare_scans(a.read("score"), b.read("score"))
    assert len(found) == 1
    assert "the measurements are of different images" in found["status"].iloc[0]
    assert isinstance(found, pd.DataFrame)


def test_random_weights_have_neither_accuracy_nor_recipe(tmp_path):
    store = make_scan(tmp_path, models={"resnet50.a1_in1k": 25.6}, layers=False)
    drawn = replace(origin("resnet18.a1_in1k"), weights="random (seed 0)")
    store.write(drawn, score_frame(1))
    table = pd.DataFrame({"model": ["resnet50.a1_in1k", "resnet18.a1_in1k"], "top1": [81.0, 71.0]})
    board = leaderboard(store.read("score"))
    frame = join_accuracy(board.frame, table.assign(top5=90.0, img_size=224.0)).set_index("model")
    assert frame["top1"].dropna().to_dict() == {"resnet50.a1_in1k": 81.0}
    models = describe_models(board).set_index("model")
    assert models["recipe"].dropna().to_dict() == {"resnet50.a1_in1k": "a1"}
