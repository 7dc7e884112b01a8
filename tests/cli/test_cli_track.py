"""`liederiv track`: checkpoints in order, failures as rows, figures, continued runs."""

import json
import math
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import liederiv
from liederiv import ModelError
from liederiv.analysis.plots.trajectory import plot_trajectory
from liederiv.cli import tracking
from liederiv.model_zoo import load, load_images
from liederiv.model_zoo.scan.run_folder import find_checkpoints


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("names", "axis", "positions"),
    [
        (["checkpoint-2.pth.tar", "checkpoint-10.pth.tar", "checkpoint-0.pth.tar"], "checkpoint",
         [0, 2, 10]),
        (["epoch=3-step=400.ckpt", "epoch=0-step=100-v1.ckpt"], "step", [100, 400]),
        (["epoch_12.pt", "net_epoch3.pt"], "epoch", [3, 12]),
        (["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"], "checkpoint",
         [500, 1000]),
        (["resnet18_step_7.bin", "resnet18_step_30.bin"], "step", [7, 30]),
        (["epoch=1-step=5.ckpt", "epoch=2.ckpt"], "epoch", [1, 2]),
    ],
)  # fmt: skip
def test_checkpoints_are_placed_by_their_names(tmp_path, names, axis, positions):
    touch(tmp_path, *names)
    touch(tmp_path, "args.yaml", "checkpoint-1000/optimizer.pt", "checkpoint-500/rng_state_0.pth")
    found, skipped = find_checkpoints(tmp_path)
    assert [c.position for c in found] == positions
    assert {c.axis for c in found} == {axis}
    assert skipped == []
    assert all(c.path == tmp_path / c.name for c in found)


def test_names_without_a_number_have_no_place(tmp_path):
    touch(tmp_path, "checkpoint-1.pth.tar", "model_best.pth.tar", "last.ckpt")
    assert find_checkpoints(tmp_path)[1] == ["last.ckpt", "model_best.pth.tar"]
    (tmp_path / "checkpoint-1.pth.tar").unlink()
    with pytest.raises(ModelError, match=r"only last.ckpt, model_best.pth.tar, without a step"):
        find_checkpoints(tmp_path)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two images of each of four classes."""
    folder, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for i in range(8):
        path = folder / f"class{i % 4}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture
def run_dir(tmp_path, user_code):
    """Steps 2, 10 and 30 of a classifier that gets ever more confident; one file is torn."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = load(f"{user_code}:classifier").model
    model.num_classes = 4
    for step, scale in ((2, 1.0), (10, 2.0), (30, 4.0)):
        state = {k: v * (scale if k.startswith("4") else 1) for k, v in model.state_dict().items()}
        torch.save({"state_dict": state, "step": step}, folder / f"step={step}.ckpt")
    torch.save(state, folder / "model_best.pth")
    whole = (folder / "step=30.ckpt").read_bytes()
    (folder / "step=20.ckpt").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def track(run, user_code, labelled):
    def call(folder, *arguments):
        common = ("--model", f"{user_code}:classifier", "--images", labelled, "--num-images", 4)
        return run("track", folder, *common, "--transforms", "translation,rotation", *arguments)

    return call


def test_every_checkpoint_is_scored_and_failures_are_rows(
    track, run_dir, tmp_path, user_code, labelled
):
    result = track(
        run_dir, "--csv", tmp_path / "t.csv", "--parquet", tmp_path / "t.parquet",
        "--plot", tmp_path / "t.png",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert len(pd.read_csv(tmp_path / "t.csv")) == len(frame)
    assert list(dict.fromkeys(frame["position"])) == [2, 10, 20, 30]
    torn = frame[frame["position"] == 20]
    assert list(torn["status"]) == ["failed"]
    assert "truncated or not a checkpoint" in torn["reason"].iloc[0]
    assert (frame.loc[frame["position"] != 20, "status"] == "measured").all()
    # The rows are those of `measure` with that checkpoint's weights on the same images.
    loaded = load(f"{user_code}:classifier", run_dir / "step=10.ckpt")
    images = load_images(labelled, loaded.data_config, 4, 0)
    want = liederiv.measure(loaded.model, images.batches(4), "translation,rotation", "lee")
    rows = frame[(frame["position"] == 10) & (frame["metric"] == "lee")]
    for row in rows.itertuples():
        score = want.get("lee", row.transform, row.output)
        assert math.isclose(row.value, score.value, rel_tol=1e-5)
        assert math.isclose(row.ci_low, score.ci_low, rel_tol=1e-5)
    assert "model_best.pth" in result.stdout
    assert "truncated" in result.stdout
    with Image.open(tmp_path / "t.png") as figure:
        assert figure.size[0] > 600


def test_a_later_run_goes_on(track, run_dir, tmp_path, monkeypatch):
    file = tmp_path / "t.json"
    assert track(run_dir, "--json", file).exit_code == 0
    before = json.loads(file.read_text())
    assert [r["rows"][0]["status"] for r in before["checkpoints"].values()].count("failed") == 1

    opened = []
    module = tracking
    original = module._measure
    monkeypatch.setattr(
        module, "_measure", lambda m, c, *rest: (opened.append(c.name), original(m, c, *rest))[1]
    )
    (run_dir / "step=20.ckpt").write_bytes((run_dir / "step=30.ckpt").read_bytes())
    torch.save(torch.load(run_dir / "step=10.ckpt", weights_only=True), run_dir / "step=40.ckpt")
    os.utime(run_dir / "step=2.ckpt", ns=(1, 1))  # written anew
    again = track(run_dir, "--json", file, "--parquet", tmp_path / "t.parquet")
    assert again.exit_code == 0, again.output
    assert opened == ["step=2.ckpt", "step=20.ckpt", "step=40.ckpt"]
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert (frame["status"] == "measured").all()
    value = frame[(frame["metric"] == "lee") & (frame["transform"] == "rotation")]
    probs = value[value["output"] == "probs"].set_index("position")["value"]
    assert probs[20] == probs[30]
    assert probs[40] == probs[10]

    other = track(run_dir, "--json", file, "--scheme", "fourier")
    assert "results of other settings (scheme)" in str(other.exception)
    good = json.loads(file.read_text())
    name = next(iter(good["checkpoints"]))
    rows = good["checkpoints"][name]["rows"]
    shapes = [
        {}, [], 3, None, "text", good | {"settings": []}, good | {"settings": "abc"},
        good | {"checkpoints": 3}, good | {"checkpoints": [1]},
        *(good | {"checkpoints": {name: run}} for run in (
            3, [], {}, {"rows": rows}, {"file": [1, 2], "rows": []},
            {"file": [1, 2], "rows": [3]}, {"file": 3, "rows": rows},
            {"file": [1, 2], "rows": [rows[0] | {"value": "1"}]},
            {"file": [1, 2], "rows": [rows[0] | {"value": 10**400}]},
            {"file": [1, 2], "rows": [rows[0] | {"position": None}]},
        )),
    ]  # fmt: skip
    for shape in shapes:
        file.write_text(json.dumps(shape))
        result = track(run_dir, "--json", file)
        assert "holds no results of `liederiv track`" in str(result.exception), shape
    file.unlink()
    os.mkfifo(file)
    assert "is a pipe" in str(track(run_dir, "--json", file).exception)


def test_accuracy_where_labels_are_the_models_classes(run, labelled, tmp_path):
    """Weights that always say class 2: a quarter of the images is right."""
    model = load("test_resnet", pretrained=False, num_classes=4, img_size=32).model
    with torch.no_grad():
        model.get_classifier().bias[2] += 100
    (tmp_path / "run").mkdir()
    torch.save(model.state_dict(), tmp_path / "run" / "checkpoint-1.pth")
    result = run(
        "track", tmp_path / "run", "--model", "test_resnet", "--num-classes", 4, "--img-size", 32,
        "--images", labelled, "--num-images", 8, "--transforms", "rotation",
        "--parquet", tmp_path / "t.parquet", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert frame.loc[frame["metric"] == "accuracy", "value"].tolist() == [0.25]


def test_the_figure_shows_lee_and_accuracy():
    def rows(metric, transform, values, unit=""):
        return [
            {"metric": metric, "transform": transform, "output": "probs", "position": 10 * i,
             "value": v, "ci_low": v / 2, "ci_high": v * 2, "unit": unit, "status": "measured"}
            for i, v in enumerate(values)
        ]  # fmt: skip

    frame = pd.DataFrame(
        rows("lee", "translation_x", [1.0, 2.0, 3.0], "prob²/px²")
        + rows("lee", "translation", [1.0, 2.0, 3.0], "prob²/px²")
        + rows("lee", "rotation", [4.0, 5.0, 6.0], "prob²/rad²")
        + rows("accuracy", "none", [0.2, 0.5, 0.9])
    )
    figure = plot_trajectory(frame, axis="step", title="run")
    assert [ax.get_title() for ax in figure.axes] == ["translation", "rotation", "accuracy"]
    x, y = figure.axes[1].get_lines()[0].get_data()
    assert (x.tolist(), y.tolist()) == ([0, 10, 20], [4.0, 5.0, 6.0])
    assert figure.axes[1].get_ylabel() == "LEE (prob²/rad²)"
    assert figure.axes[2].get_lines()[0].get_ydata().tolist() == [0.2, 0.5, 0.9]
    plt.close(figure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plot", "x.txt"), "must end in .png, .pdf or .svg"),
        (("--json", "x.csv"), "must end in .json"),
        (("--transforms", "tilt"), "'tilt' is unknown"),
        (("--scheme", "cubic"), "scheme='cubic' is unknown"),
        (("--images", "/nowhere"), "does not exist"),
    ],
)
def test_bad_input_is_one_line(refused, run_dir, user_code, photographs, arguments, message):
    common = ("--images", photographs) if "--images" not in arguments else ()
    error = refused("track", run_dir, "--model", f"{user_code}:classifier", *common, *arguments)
    assert message in error


def test_a_run_of_which_nothing_can_be_read_says_so(track, tmp_path):
    touch(tmp_path, "checkpoint-1.pth", "checkpoint-2.pth")
    result = track(tmp_path)
    assert "none of the 2 checkpoints" in str(result.exception)
    assert "is no folder" in str(track(tmp_path / "missing").exception)
