"""`liederiv scan`: its output, its refusals, a dry run, and that it measures what `score` does."""

import pandas as pd
import pytest
import timm

from liederiv.errors import LieDerivError
from liederiv.model_zoo.scan.store import Store

QUICK = ("--transforms", "rotation", "--num-images", 2, "--layers-images", 1, "--threads", 1)


@pytest.fixture
def scan(run, user_code, photographs, tmp_path):
    """`liederiv scan` of models of the user's module on the small photographs."""

    def call(*arguments, models=("classifier",)):
        names = [f"{user_code}:{m}" for m in models]
        return run(
            *("scan", *names, "--images", photographs, *QUICK, "--out", tmp_path / "out"),
            *arguments,
        )

    return call


def test_a_scan_measures_what_score_and_layers_measure(scan, run, user_code, photographs, tmp_path):
    done = scan("--measure", "score,layers", models=("classifier", "failing"))
    assert done.exit_code == 0, done.output
    assert "2 measured, 2 failed" in done.output
    name = f"{user_code}:classifier"
    alone = run(
        *("score", name, "--images", photographs, "--num-images", 2, "--transforms", "rotation"),
        *("--csv", tmp_path / "alone.csv", "--per-image", tmp_path / "alone.parquet"),
    )
    assert alone.exit_code == 0
    store = Store.open(tmp_path / "out")
    found = store.read("score")
    found = found[found["outcome"] == "measured"].reset_index(drop=True)
    expected = pd.read_csv(tmp_path / "alone.csv", keep_default_na=True)
    columns = ["metric", "transform", "output", "unit", "value", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False, rtol=1e-12)
    single = pd.read_parquet(tmp_path / "alone.parquet")
    images = found.explode("per_image")["per_image"].dropna().astype(float).tolist()
    assert images == single["value"].tolist()
    assert set(found["image_names"][0]) == set(single["image"])
    run(
        *("layers", name, "--images", photographs, "--num-images", 1, "--transforms", "rotation"),
        *("--parquet", tmp_path / "layers.parquet", "--quiet"),
    )
    layers = store.read("layers")
    layers = layers[layers["outcome"] == "measured"].reset_index(drop=True)
    expected = pd.read_parquet(tmp_path / "layers.parquet")
    pd.testing.assert_series_equal(layers["share"], expected["share"], rtol=1e-12)
    assert layers["share"].sum() == pytest.approx(1)
    assert layers["closure_error"].max() < 1e-4
    assert layers["total"].iloc[0] == pytest.approx(layers["exclusive_projection"].sum())


def test_a_dry_run_writes_nothing_and_shows_the_plan(scan, tmp_path):
    first = scan("--dry-run", models=("classifier", "failing"))
    assert first.exit_code == 0, first.output
    assert "2 models, measurements: 2 to do" in first.output
    assert not (tmp_path / "out").exists()
    scan(models=("classifier", "failing"))
    second = scan("--dry-run", "--measure", "score,aliasing", models=("classifier", "failing"))
    assert "measurements: 2 to do, 1 done, 1 failed" in second.output
    (row,) = [r for r in second.output.splitlines() if ":failing" in r and "score" in r]
    assert row.split()[-1] == "failed"
    key = Store.open(tmp_path / "out").read("score").set_index("model")["key"].iloc[-1]
    assert key in second.output


def test_a_cluster_may_have_gpus_where_this_machine_has_none(scan):
    planned = scan("--engine", "ray", "--device", "cuda", "--dry-run")
    assert planned.exit_code == 0, planned.output
    with_cpu = scan("--dry-run")
    assert planned.output != with_cpu.output, "another device is another key"


def test_a_scan_of_timm_knows_parameters_and_family(run, tmp_path):
    done = run(
        *("scan", "test_vit", "--no-pretrained", "--calibrate", "--img-size", 64, *QUICK),
        *("--num-images", 1, "--metrics", "lee", "--out", tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    row = Store.open(tmp_path / "out").read("score").iloc[0]
    assert row["outcome"] == "measured", row["reason"]
    assert row["model"] == "test_vit.r160_in1k"
    assert (row["architecture"], row["tag"]) == ("test_vit", "r160_in1k")
    assert row["family"] == "vision_transformer"
    model = timm.create_model("test_vit", img_size=64)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    assert (row["input_height"], row["input_width"]) == (64, 64)
    assert row["weights"] == "random (seed 0)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--measure", "score,depth"), "--measure='score,depth' must be some of score, layers"),
        (("--engine", "spark"), "--engine='spark' is unknown; choose local or ray"),
        (("--workers", "0"), "--workers=0 must be 1 or more"),
        (("--timeout", "0"), "--timeout=0 must be a positive number of seconds"),
        (("--max-params", "lots"), "--max-params='lots' must be a number such as 100M"),
        (("--address", "auto"), "--address belongs to --engine ray"),
        (("--memory", "much"), "--memory='much' is no size"),
        (("--gpus-per-task", "1.5"), "--gpus-per-task=1.5 must be a fraction or a whole number"),
        (("--scheme", "cubic"), "cubic"),
        (("--metrics", "mse"), "mse"),
        (("--num-images", "0"), "--num-images=0 must be 1 or more"),
        (("--shard", "9/8"), "--shard=9/8 is none of the 8 shards"),
        (("--preset", "all"), "`preset`='all' is unknown; choose one of paper-e2e"),
        (("--images", "nowhere"), "'nowhere' does not exist"),
        (("--exclude", "*"), "no model is left to scan"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(scan, tmp_path, arguments, message):
    outcome = scan(*arguments)
    assert isinstance(outcome.exception, LieDerivError), outcome.output
    assert message in str(outcome.exception)
    assert not list((tmp_path / "out").glob("score/*"))


def test_other_settings_in_the_same_folder_are_refused(scan):
    scan()
    outcome = scan("--scheme", "fourier")
    assert "results made with scheme='bspline', not 'fourier'" in str(outcome.exception)


@pytest.mark.parametrize("other", ["--offline", "--no-pretrained"])
def test_nothing_to_prefetch(refused, other):
    error = refused("scan", "resnet18", "--prefetch", other)
    assert f"--prefetch downloads published weights; leave {other} out." in error


def test_cache_limit_is_a_size(refused):
    error = refused("scan", "resnet18", "--cache-limit", "much")
    assert "--cache-limit='much' is no size; write for example 20GB" in error


@pytest.mark.parametrize(
    "flags",
    [
        *("--unit x", "--std 0,0,0", "--mean x", "--interpolation x", "--output-type prob"),
        *("--memory 1", "--memory 1e30", "--workers 0", "--timeout nan", "--engine slurm"),
    ],
)
def test_nothing_is_written_before_all_flags_are_right(refused, tmp_path, flags):
    option = flags.split()[0]
    said = refused("scan", "test_vit", "--no-pretrained", "--out", tmp_path / "out", *flags.split())
    assert option in said or option.strip("-") in said
    assert not (tmp_path / "out").exists()
