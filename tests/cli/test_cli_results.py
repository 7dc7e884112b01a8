"""`liederiv results` and `liederiv compare` of scans."""

import io

import pandas as pd
import pytest
from made_scan import MODELS, NASTY, make_scan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "zoo"
    make_scan(folder)
    return folder


@pytest.fixture
def ok(run):
    def call(*arguments):
        done = run(*arguments)
        assert done.exit_code == 0, done.output
        return done.output

    return call


def test_table_lists_all_models_the_best_first(ok, folder):
    out = ok("results", folder)
    assert "lee of probs: 21 models; units: translation prob²/px²," in out
    lines = [line.strip() for line in out.splitlines()]
    for name in MODELS:
        assert any(line.startswith(name) for line in lines), name
    values = [float(line.split()[-3]) for line in lines if line.startswith(("resnet", "vit"))]
    assert values == sorted(values)
    assert NASTY in out  # no markup was taken for markup


def test_accuracy(ok, folder, tmp_path):
    path = tmp_path / "results-imagenet.csv"
    path.write_text("model,top1\nresnet50.a1_in1k,80.1\nresnet18.a1_in1k,71.5\n")
    out = ok("results", folder, "--accuracy", path, "--sort=-top1")
    assert "2 of 21 models have an accuracy in" in out
    assert out.index("resnet50.a1_in1k") < out.index("resnet18.a1_in1k") < out.index("resmlp")


def test_csv_has_intervals_and_provenance(ok, folder):
    frame = pd.read_csv(io.StringIO(ok("results", folder, "--format", "csv")))
    assert set(frame["model"]) == set(MODELS)
    assert {"class", "family", "tag", "parameters", "rotation_low", "rotation_high"} <= set(frame)


def test_markdown_is_a_table_whatever_the_names_are(ok, folder):
    lines = ok("results", folder, "--format", "md").splitlines()
    assert len(lines) == 2 + len(MODELS)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_parquet_and_groups(ok, folder, tmp_path):
    path = tmp_path / "board.parquet"
    assert ok("results", folder, "--format", "parquet", "--out", path, "--group", "class") == ""
    frame = pd.read_parquet(path)
    assert set(frame["class"]) == {"CNN", "transformer", "mixer", "hybrid", "other"}
    assert frame["models"].sum() == len(MODELS)


def test_failures(ok, folder):
    out = ok("results", folder, "--failed")
    assert "2 measurements failed" in out
    assert "ValueError: <b>boom</b> | [red]no" in out
    assert "out of memory" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sort", "beauty"], "--sort='beauty' is no column; choose one of model,"),
        (["--format", "xls"], "--format='xls' is unknown; choose one of table, csv, md, parquet."),
        (["--format", "parquet"], "--format=parquet needs a file"),
        (["--out", "x.csv"], "--out needs a format for files"),
        (["--group", "size"], "--group='size' is unknown"),
        (["--accuracy", "nowhere.csv"], "--accuracy='nowhere.csv' cannot be read"),
    ],
)
def test_bad_input(refused, folder, options, message):
    assert message in refused("results", folder, *options)


def test_no_scan(refused, tmp_path):
    assert "holds no results of a scan" in refused("results", tmp_path)


def test_compare_takes_scans(ok, folder, tmp_path):
    make_scan(tmp_path / "after", 0.5)
    path = tmp_path / "differences.csv"
    out = ok("compare", folder, tmp_path / "after", "--csv", path)
    assert "over models" in out
    rows = pd.read_csv(path)
    assert set(rows["model"]) == set(MODELS)
    line = next(line for line in out.splitlines() if line.split()[:3] == ["lee", "scale", "probs"])
    assert line.split()[3:] == ["21", "21", "0", "0.5", "1"]


def test_report_is_one_file(ok, folder, tmp_path, refused):
    path = tmp_path / "zoo.html"
    assert "MB; open it in a browser." in ok("report", folder, "--out", path, "--title", "My zoo")
    page = path.read_text()
    assert page.startswith("<!doctype html>")
    assert "<title>My zoo</title>" in page
    assert "--out='x.txt' must end in .html." in refused("report", folder, "--out", "x.txt")
