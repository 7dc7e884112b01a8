"""`liederiv score`: what it prints and writes, and what must not change the numbers."""

import json
import math

import pandas as pd
import pytest
import timm
import torch

import liederiv
from liederiv.model_zoo import load

ROW = {
    "metric",
    "transform",
    "output",
    "value",
    "ci_low",
    "ci_high",
    "unit",
    "floor",
    "status",
    "reason",
}


def values(path):
    """Results of a JSON file: (metric, transform, output) → value."""
    rows = json.loads(path.read_text())["results"]
    return {(r["metric"], r["transform"], r["output"]): r["value"] for r in rows}


def assert_close(a, b, tolerance):
    """Entry by entry, relative."""
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert math.isclose(value, b[key], rel_tol=tolerance), key


def test_prints_a_table_with_units_and_intervals(score):
    result = score()
    assert result.exit_code == 0
    for text in ("class probabilities", "logits", "rotation", "prob²/rad²", "95 % interval"):
        assert text in result.stdout
    assert "3 images" in result.stdout
    assert "scheme bspline" in result.stdout


def test_quiet_prints_nothing(score, tmp_path):
    result = score("--quiet", "--json", tmp_path / "a.json")
    assert result.exit_code == 0
    assert result.output == ""
    assert (tmp_path / "a.json").is_file()


def test_json_schema(score, tmp_path, user_code, photographs):
    score("--json", tmp_path / "a.json", "--seed", 7, "--scheme", "central")
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["schema_version"] == 1
    assert report["model"] == f"{user_code}:classifier"
    assert report["weights"] == f"as built by {user_code}:classifier (seed 7)"
    assert report["scheme"] == "central"
    assert report["num_images"] == 3
    assert report["seed"] == 7
    assert report["images"] == str(photographs)
    assert report["versions"]["liederiv"] == liederiv.__version__
    assert report["versions"]["torch"] == torch.__version__
    assert report["preprocessing"]["input_size"] == [3, 32, 32]
    assert {(r["metric"], r["transform"], r["output"]) for r in report["results"]} == {
        (metric, "rotation", output)
        for metric in ("lee", "mean_abs")
        for output in ("probs", "logits")
    }
    for row in report["results"]:
        assert set(row) == ROW
        assert row["status"] == "measured"
        assert 0 < row["ci_low"] <= row["value"] <= row["ci_high"]
        assert 0 <= row["floor"] < row["value"]
    units = {(r["metric"], r["output"]): r["unit"] for r in report["results"]}
    assert units["lee", "probs"] == "prob²/rad²"
    assert units["mean_abs", "logits"] == "logit/rad"


def test_csv_and_parquet_agree_with_json(score, tmp_path):
    files = [tmp_path / name for name in ("a.json", "a.csv", "a.parquet")]
    result = score("--json", files[0], "--csv", files[1], "--per-image", files[2])
    assert result.exit_code == 0
    expected = values(files[0])
    table = pd.read_csv(files[1]).set_index(["metric", "transform", "output"])["value"]
    assert_close(expected, table.to_dict(), 1e-12)
    images = pd.read_parquet(files[2])
    assert set(images["image"]) <= {f"image{i}.png" for i in range(5)}
    assert images["image"].nunique() == 3
    means = images.groupby(["metric", "transform", "output"])["value"].mean()
    assert_close(expected, means.to_dict(), 1e-6)


def test_same_seed_same_numbers(score, tmp_path):
    for name in ("a", "b"):
        score("--metrics", "lee,relative,sampled", "--json", tmp_path / f"{name}.json")
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("a", "b"))
    assert len(first["results"]) > 8
    assert first["results"] == second["results"]


def test_another_seed_other_weights(score, tmp_path):
    for seed in (0, 1):
        score("--seed", seed, "--json", tmp_path / f"{seed}.json")
    first, second = values(tmp_path / "0.json"), values(tmp_path / "1.json")
    assert all(first[key] != second[key] for key in first)


def test_batch_size_does_not_change_results(score, tmp_path):
    for size in ("auto", "1", "2", "3"):
        how = ("--metrics", "lee,relative", "--transforms", "translation,scale")
        score(*how, "--batch-size", size, "--json", tmp_path / f"{size}.json")
    for size in ("1", "2", "3"):
        assert_close(values(tmp_path / "auto.json"), values(tmp_path / f"{size}.json"), 1e-4)


def test_float64_agrees_with_float32(score, tmp_path):
    for dtype in ("float32", "float64"):
        score("--dtype", dtype, "--json", tmp_path / f"{dtype}.json")
    assert_close(values(tmp_path / "float32.json"), values(tmp_path / "float64.json"), 1e-4)


def test_unit_grid_counts_half_widths(score, tmp_path):
    for unit in ("pixel", "grid"):
        how = ("--transforms", "translation_x", "--unit", unit)
        score(*how, "--json", tmp_path / f"{unit}.json")
    pixel, grid = values(tmp_path / "pixel.json"), values(tmp_path / "grid.json")
    key = ("lee", "translation_x", "logits")
    assert grid[key] == pytest.approx(pixel[key] * 16**2, rel=1e-5)  # 16 pixels per half-width


def test_score_agrees_with_the_library(score, tmp_path, user_code, photographs):
    score("--json", tmp_path / "a.json")
    loaded = load(f"{user_code}:classifier")
    images = liederiv.model_zoo.load_images(photographs, loaded.data_config, 3)
    x = torch.stack(images[:])
    expected = liederiv.lie_derivative(loaded.model, x, "rotation", output="invariant")
    found = values(tmp_path / "a.json")["lee", "rotation", "logits"]
    assert found == pytest.approx(float(expected.square().mean()), rel=1e-5)


def test_dense_model_is_measured_end_to_end(score, tmp_path):
    result = score("--json", tmp_path / "a.json", model="dense")
    assert result.exit_code == 0
    assert "FeatureMap" in result.stdout
    assert "recognised" in result.stdout
    assert values(tmp_path / "a.json")["lee", "rotation", "output"] > 1e-4
    # A 1 × 1 network commutes with every scheme's interpolation up to its nonlinearity: the same
    # kind of output, far more equivariant than the 3 × 3 one.
    score("--json", tmp_path / "b.json", model="pixelwise")
    dense, pixelwise = (values(tmp_path / f"{n}.json") for n in "ab")
    assert pixelwise["lee", "rotation", "output"] < dense["lee", "rotation", "output"]


def test_grey_images_for_a_one_channel_model(score, tmp_path):
    how = ("--model-kwargs", "channels=1", "--model-kwargs", "classes=3")
    result = score(*how, "--json", tmp_path / "a.json")
    assert result.exit_code == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["preprocessing"]["input_size"] == [1, 32, 32]


def test_non_finite_outputs_are_reported_as_failed(score, tmp_path):
    result = score("--json", tmp_path / "a.json", model="not_a_number")
    assert "Failed: non-finite output or derivative for 3 of 3 images" in result.stdout
    for row in json.loads((tmp_path / "a.json").read_text())["results"]:
        assert row["status"] == "failed"
        assert row["value"] is None


@pytest.mark.parametrize(
    ("model", "size", "layout"),
    [
        ("test_resnet", 64, "FeatureMap(layout='NCHW'"),
        ("test_vit", 64, "TokenGrid(grid=(4, 4), prefix=1"),
        ("swin_s3_tiny_224", 64, "FeatureMap(layout='NHWC'"),
    ],
)
def test_features_of_a_convnet_a_vit_and_a_swin(run, photographs, tmp_path, model, size, layout):
    small = ()
    if "swin" in model:
        small = ("--model-kwargs", "depths=(1,1,1,1)", "--model-kwargs", "embed_dim=24")
        small += ("--model-kwargs", "window_size=4")
    result = run(
        *("score", model, "--no-pretrained", "--img-size", size, "--images", photographs),
        *("--num-images", 1, "--transforms", "translation_x,rotation", "--metrics", "lee"),
        *("--output-type", "features", "--json", tmp_path / "a.json", *small),
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["representation"].startswith(layout)
    assert report["representation"].endswith("(declared)")
    assert {r["output"] for r in report["results"]} == {"features"}
    assert all(r["status"] == "measured" and r["value"] > 0 for r in report["results"])
    assert {r["unit"] for r in report["results"] if r["metric"] == "lee"} == {
        "feature²/px²",
        "feature²/rad²",
    }


def test_num_classes_and_model_kwargs_reach_timm(run, photographs, tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=5).state_dict(), tmp_path / "w.pth")
    result = run(
        *("score", "test_resnet", "--checkpoint", tmp_path / "w.pth", "--num-classes", 5),
        *("--model-kwargs", "drop_rate=0.5", "--img-size", 64, "--images", photographs),
        *("--num-images", 1, "--transforms", "rotation", "--metrics", "lee"),
        *("--json", tmp_path / "a.json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "a.json").read_text())["weights"] == "checkpoint w.pth"


def test_a_model_without_classifier_has_no_probabilities(run, photographs, tmp_path):
    result = run(
        *("score", "--model", "test_resnet", "--no-pretrained", "--num-classes", 0),
        *("--img-size", 64, "--images", photographs, "--num-images", 1),
        *("--transforms", "rotation", "--metrics", "lee", "--json", tmp_path / "a.json"),
    )
    assert result.exit_code == 0, result.output
    assert {key[2] for key in values(tmp_path / "a.json")} == {"output"}


def test_the_dynamic_range_reaches_the_metrics_and_results_say_what_they_are(score, tmp_path):
    how = ("--metrics", "eq_t,shift_consistency", "--quiet", "--json", tmp_path / "a.json")
    known = []
    for more in ((), ("--dynamic-range", 2)):
        assert score(*how, *more).exit_code == 0
        report = json.loads((tmp_path / "a.json").read_text())
        (row,) = [r for r in report["results"] if r["metric"] == "eq_t"]
        known.append(row["value"])
    assert known[1] - known[0] == pytest.approx(20 * math.log10(2), abs=1e-6)
    assert "I_max = 2" in report["definitions"]["eq_t"]
    assert "not crops of a larger image" in report["definitions"]["shift_consistency"]
    (row,) = [r for r in report["results"] if r["metric"] == "shift_consistency"]
    assert row["transform"] == "shift along xy, 0 to 7 px, border mirrored"
    result = score("--metrics", "eq_t", "--output-type", "logits")
    assert "give dynamic_range" in str(result.exception)
    assert "must be a positive number" in str(score("--dynamic-range", 0).exception)
    printed = score("--metrics", "shift_consistency").stdout
    assert "not crops of a larger image" in " ".join(printed.split())


def test_the_margin_reaches_the_metrics(score, tmp_path):
    values = []
    for margin in (0, 8):
        score(
            *("--metrics", "eq_t", "--dynamic-range", 1, "--margin", margin),
            *("--output-type", "output", "--json", tmp_path / "a.json"),
            model="dense",
        )
        (row,) = json.loads((tmp_path / "a.json").read_text())["results"]
        values.append(row["value"])
    assert values[1] is None or values[1] > values[0] + 20  # a padding of 1 px, far away
