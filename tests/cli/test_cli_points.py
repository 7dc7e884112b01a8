"""`liederiv score`, `layers` and `check` of networks on point clouds."""

import json
import re

import pandas as pd
import pytest
import torch

from liederiv.model_zoo import load

NETWORK = "rapidash_tn_r3"


def test_score_prints_what_was_measured(run, tmp_path):
    out, rows = tmp_path / "s.json", tmp_path / "s.parquet"
    result = run(
        *("score", NETWORK, "--num-images", 3, "--dtype", "float64", "--seed", 1),
        *("--transforms", "translation,rotation", "--metrics", "lee,relative,sampled_error"),
        *("--json", out, "--per-image", rows),
    )
    assert result.exit_code == 0, result.output
    assert "3 clouds (charged N-body test systems" in result.stdout
    assert "of 5 points each · scheme exact" in result.stdout
    assert "output²/length²" in result.stdout
    assert "rotation, uniform over SO(3)" in result.stdout
    data = json.loads(out.read_text())
    assert data["inputs"] == "clouds"
    assert len(data["images_fingerprint"]) == 16
    lee = {r["transform"]: r["value"] for r in data["results"] if r["metric"] == "lee"}
    assert lee["translation"] < 1e-18 * lee["rotation"]
    assert set(pd.read_parquet(rows)["image"]) == {f"nbody-test-{i}" for i in range(3)}


def test_layers_adds_up(run, tmp_path):
    out = tmp_path / "l.json"
    arguments = ("--num-images", 1, "--transforms", "rotation_z", "--json", out)
    result = run("layers", NETWORK, *arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"sum +100\.0 %", result.stdout)
    assert "spatial_basis_fn.0" in result.stdout
    assert "mean over clouds: rotation_z" in result.stdout
    assert json.loads(out.read_text())["closure_error"] < 1e-3


def test_layers_says_how_well_fibers_are_turned(run):
    arguments = ("--num-images", 1, "--transforms", "rotation_z")
    result = run("layers", "rapidash_sen_r3s2", *arguments)
    assert re.search(r"harmonic fit that turns them leaves out \d", result.stdout)
    assert "harmonic fit" not in run("layers", NETWORK, *arguments).stdout


def test_check_in_float64(run):
    result = run("check", NETWORK, "--transforms", "rotation")
    assert result.exit_code == 0, result.output
    assert "rotation_z" in result.stdout


def test_two_networks_on_the_same_clouds(run):
    result = run(
        *("compare", NETWORK, "rapidash_sen_r3s2", "--num-images", 2, "--metrics", "lee"),
        *("--transforms", "rotation"),
    )
    assert result.exit_code == 0, result.output
    assert "rotation" in result.stdout


def test_networks_on_points_are_listed(run):
    result = run("models", "rapidash_sen*", "--names-only")
    assert "rapidash_sen_r3s2" in result.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", NETWORK, "--img-size", 32), "--img-size is for models of images"),
        (("score", NETWORK, "--transforms", "shear"), "'shear' is unknown for point clouds in 3-D"),
        (("score", NETWORK, "--unit", "grid"), "unit='grid' counts half-widths"),
        (("score", NETWORK, "--output-type", "probs"), "output_type='probs' needs scores"),
        (("score", NETWORK, "--images", "nowhere"), "'nowhere' is unknown"),
        (("layers", NETWORK, "--aliasing"), "--aliasing is about feature maps of images"),
        (("layers", NETWORK, "--what-if", 2), "--what-if is about feature maps of images"),
        (("score", "rapidash_nothing"), "Unknown model 'rapidash_nothing'"),
    ],
)
def test_bad_input_is_one_sentence(refused, arguments, message):
    assert message in refused(*arguments)


def test_gate_holds_a_network_to_its_symmetry(run):
    limits = ("gate", "rapidash_sen_r3s2", "--num-images", 3, "--max")
    kept = run(*limits, "translation=1e-12")
    assert kept.exit_code == 0, kept.output
    assert "on 3 clouds" in kept.stdout
    broken = run(*limits, "translation=1e-12,rotation=1e-12")
    assert broken.exit_code == 3
    assert "lee/rotation/output" in broken.stderr


def test_track_follows_the_checkpoints_of_a_network(run, tmp_path):
    for step in (1, 2):
        network = load(NETWORK, pretrained=False, seed=step).model
        torch.save({"state_dict": network.state_dict()}, tmp_path / f"checkpoint-{step}.pth")
    table = tmp_path / "t.csv"
    arguments = ("--num-images", 2, "--transforms", "rotation", "--csv", table)
    result = run("track", tmp_path, "--model", NETWORK, *arguments)
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(table).query("transform == 'rotation' and metric == 'lee'")
    assert rows["position"].tolist() == [1, 2]
    assert rows["value"].nunique() == 2
