"""`liederiv layers` from end to end: the tree, files, flags, bad input."""

import json
import re

import numpy as np
import pandas as pd
import pytest

RESNET = ("test_resnet", "--no-pretrained", "--img-size", "64")


@pytest.fixture
def layers(run, photographs):
    """`liederiv layers` of a small network on the small photographs."""

    def call(*arguments, model=RESNET):
        known = ("--images", photographs, "--num-images", 2)
        if "--transforms" not in arguments:
            known += ("--transforms", "translation_x,rotation")
        return run("layers", *model, *known, *arguments)

    return call


def test_tree_bars_and_sums_are_printed(layers):
    result = layers("--top", 3)
    assert result.exit_code == 0, result.output
    for text in ("conv1", "layer1", "By kind", "activation", "Closure error", "Witness: 16 of"):
        assert text in result.stdout
    assert re.search(r"sum +100\.0 % +100\.0 %", result.stdout)
    assert len(re.findall(r"[├└]─ (?!\()", result.stdout)) <= 3
    assert "‖L f‖², mean over images: translation_x" in result.stdout


@pytest.mark.parametrize("by", ["kind", "stage"])
def test_sums_only(layers, by):
    result = layers("--by", by)
    assert result.exit_code == 0
    assert f"By {by}" in result.stdout
    assert "├─" not in result.stdout
    assert ("layer1" in result.stdout) == (by == "stage")


def test_json_closes_and_has_provenance(layers, tmp_path):
    path = tmp_path / "layers.json"
    result = layers("--json", path, "--quiet")
    assert result.exit_code == 0
    assert result.output == ""
    data = json.loads(path.read_text())
    assert data["schema_version"] == 1
    for key in ("model", "weights_fingerprint", "images_fingerprint", "scheme", "seed", "versions"):
        assert data[key] not in ("", None, {})
    assert (data["num_images"], data["output"]) == (2, "logits")
    assert data["closure_error"] < 1e-4
    assert data["witness"]["checked"] == 16
    assert data["witness"]["disagreement"] < 1e-3
    assert set(data["total"]) == {"translation_x", "rotation"}
    rows = pd.DataFrame(data["rows"])
    for name, own in rows.groupby("generator"):
        assert own["share"].sum() == pytest.approx(1, abs=1e-4)
        assert own["exclusive_projection"].sum() == pytest.approx(data["total"][name], rel=1e-4)
        assert own["module"].iloc[0] == ""
        assert own["inclusive"].iloc[0] == pytest.approx(data["total"][name], rel=0.05)
    # A thousand logits: few probes cannot carry most of the norm.
    assert data["coverage"] >= 1 - data["tolerance"] or (rows["exclusive_error"] > 0).any()
    wanted = {"module", "class", "kind", "call", "depth", "input_layout", "output_layout"}
    assert wanted <= set(rows.columns)
    assert {"inclusive", "exclusive", "exclusive_error", "status", "share"} <= set(rows.columns)
    assert {"module", "ratio", "generator"} <= set(data["profile"][0])
    assert "aliasing" not in data


def test_steps_are_attributed_and_told(layers, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "a.parquet"]
    known = ("--step", "rotation=2deg", "--json", files[0])
    result = layers(*known, "--parquet", files[1])
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "the change over a step (translation_x 1 px, rotation 2 deg)" in text
    assert "Error of the integral over the step" in text
    assert "coverage" not in text  # of probes, of which a step has none
    data = json.loads(files[0].read_text())
    assert data["coverage"] is None
    assert {g: v["label"] for g, v in data["steps"].items()} == {
        "translation_x": "1 px",
        "rotation": "2 deg",
    }
    rows, images = pd.DataFrame(data["rows"]), pd.read_parquet(files[1])
    for name, step in data["steps"].items():
        assert step["quadrature"] <= 0.05
        own = rows[rows["generator"] == name]
        assert own["share"].sum() == pytest.approx(1, abs=step["quadrature"] + 1e-9)
        assert abs(own["share"].sum() - 1) == pytest.approx(step["missing"])
        found = images[images["generator"] == name]
        assert set(found["step"]) == {step["size"]}
        assert found.groupby("image")["share"].sum().to_numpy() == pytest.approx(1, abs=0.06)
    assert set(images["image"]) == {0, 1}


def test_finite_metrics_of_single_modules(layers, tmp_path):
    path = tmp_path / "layers.json"
    result = layers("--finite", "--json", path, "--by", "kind", "--top", 4)
    assert result.exit_code == 0, result.output
    assert "EQ-R of single modules, dB" in result.stdout
    data = json.loads(path.read_text())["finite"]
    rows = pd.DataFrame(data["rows"])
    assert set(rows["metric"]) == {"eq_t_relative", "eq_t_frac_relative", "eq_r_relative"}
    assert set(rows["unit"]) == {"dB"}
    assert rows["value"].dropna().between(0, 400).all()
    assert (rows["module"] == "").sum() == 3


def test_the_seed_decides(layers, tmp_path):
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path, seed in zip(files, (0, 0, 1), strict=True):
        layers("--json", path, "--quiet", "--by", "stage", "--seed", seed)
    a, b, c = (json.loads(path.read_text()) for path in files)
    assert a == b
    assert a["total"] != c["total"]


def test_parquet_has_a_row_per_image(layers, tmp_path):
    path = tmp_path / "layers.parquet"
    assert layers("--parquet", path, "--quiet").exit_code == 0
    frame = pd.read_parquet(path)
    assert set(frame["image"]) == {0, 1}
    assert frame["image_name"].nunique() == 2
    sums = frame.groupby(["generator", "image"])["share"].sum()
    assert np.allclose(sums, 1, atol=1e-4)


def test_aliasing_and_repairs(layers, tmp_path):
    path = tmp_path / "layers.json"
    result = layers("--aliasing", "--what-if", 2, "--json", path)
    assert result.exit_code == 0, result.output
    for text in ("aliasing\n", "What if 2 modules were repaired?", "rank correlation", "Ranked"):
        assert text.strip() in result.stdout
    data = json.loads(path.read_text())
    assert data["aliasing"]["rows"]
    assert {r["generator"] for r in data["aliasing"]["rows"]} == {"translation_x"}
    assert {"attribution", "random"} <= {r["choice"] for r in data["what_if"]["rows"]}


def test_translations_per_half_width(layers, tmp_path):
    totals = []
    for unit in ("pixel", "grid"):
        path = tmp_path / f"{unit}.json"
        layers("--unit", unit, "--transforms", "translation_x", "--json", path, "--quiet")
        totals.append(json.loads(path.read_text())["total"]["translation_x"])
    assert totals[1] == pytest.approx(32**2 * totals[0], rel=1e-3)


@pytest.mark.parametrize("model", ["dense", "classifier"])
def test_models_of_the_users_own(run, user_code, photographs, model):
    result = run(
        *("layers", f"{user_code}:{model}", "--images", photographs, "--num-images", 1),
        *("--transforms", "translation_x"),
    )
    assert result.exit_code == 0, result.output
    assert f"output {'logits' if model == 'classifier' else ''}" in result.stdout
    assert re.search(r"sum +100\.0 %", result.stdout)


def test_plot_is_written(layers, tmp_path):
    for ending in ("png", "svg", "pdf"):
        path = tmp_path / f"layers.{ending}"
        assert layers("--plot", path, "--quiet").exit_code == 0
        assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top", "0"), "--top=0 must be 1 or more"),
        (("--by", "layer"), "--by='layer' is unknown; choose one of module, kind, stage"),
        (("--what-if", "0"), "--what-if=0 must be 1 or more"),
        (("--what-if", "999"), "k=999 must lie between 1 and"),
        (("--plot", "x.gif"), "--plot='x.gif' must end in .png, .svg, .pdf"),
        (("--json", "x.txt"), "must end in .json"),
        (("--parquet", "/nowhere/x.parquet"), "is no writable folder"),
        (("--transforms", "wobble"), "wobble"),
        (("--unit", "mile"), "unit='mile' is unknown"),
        (("--scheme", "nearest"), "nearest"),
        (("--output-type", "probs,logits"), "must be one of auto"),
        (("--amp",), "--amp is refused"),
        (("--step", "-1px"), "--step: '-1px' of all transforms must be a number"),
        (("--step", "1deg"), "--step='1deg' does not fit translation_x, whose steps are measured"),
        (("--step", "translation=1px,2px"), "--step names 2 sizes of translation"),
        (("--step", "rotation=1deg"), "--step: 'rotation' is not among the transforms"),
        (("--num-images", "0"), "num_images"),
    ],
)
def test_bad_input_is_refused(refused, photographs, arguments, message):
    known = () if "--num-images" in arguments else ("--num-images", "1")
    moves = () if "--transforms" in arguments else ("--transforms", "translation_x")
    line = refused(
        "layers", *RESNET, "--images", photographs, "--quiet", *known, *moves, *arguments
    )
    assert message in line


def test_no_model_is_refused(refused):
    assert "MODEL is missing" in refused("layers")
