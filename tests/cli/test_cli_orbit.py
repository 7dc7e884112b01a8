"""`liederiv orbit` from end to end: tables, files, labels, clouds, bad input."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from liederiv.analysis import orbit as follow
from liederiv.cli.orbit_tables import orbit_tables

QUICK = ("--points", 4, "--shifts", 16, "--worst", 24)


@pytest.fixture
def orbit(run, user_code, photographs):
    """`liederiv orbit` of a small classifier on the small photographs."""

    def call(*arguments, model="classifier", images=photographs):
        known = ("--images", images, "--num-images", 2)
        if "--transforms" not in arguments:
            known += ("--transforms", "translation_x,rotation")
        return run("orbit", f"{user_code}:{model}", *known, *QUICK, *arguments)

    return call


def test_tables_and_json_say_the_same(orbit, tmp_path):
    path = tmp_path / "o.json"
    result = orbit("--json", path, "--range", "translation=3")
    assert result.exit_code == 0, result.output
    for text in (
        "translation_x: class probabilities, mean over 2 images",
        "keep their class",
        "Whole orbits",
        "-15 … +15 °",
        "Period of the answer to translation_x:",
        "Worst transform in the box translation_x ±3 px, rotation ±15 °",
        "mirrored at its border",
        "verified: derivative within",
    ):
        assert text in result.stdout
    data = json.loads(path.read_text())
    assert data["schema_version"] == 1
    for key in ("model", "weights_fingerprint", "images_fingerprint", "scheme", "versions"):
        assert data[key] not in ("", None, {})
    assert (data["num_images"], data["output"]) == (2, "probs")
    shift, turn = data["orbits"]
    assert (shift["shown_unit"], turn["shown_unit"]) == ("px", "°")
    assert turn["range"] == pytest.approx(np.radians(15))
    zero = [p for p in shift["points"] if p["t"] == 0]
    assert [p["change"]["value"] for p in zero] == [0.0]
    per_image = shift["per_image"]
    for i, point in enumerate(shift["points"]):
        assert point["change"]["value"] == pytest.approx(
            np.mean([v[i] for v in per_image["change"]])
        )
        if shift["bound_holds"]:
            slack = 2 * point["path_error"] + 1e-6
            assert point["change"]["value"] <= point["path"]["value"] + slack
    assert data["worst"]["grid_passes"] <= data["worst"]["ascent_passes"] <= 24
    assert [p["generator"] for p in data["periods"]] == ["translation_x"]


def test_labels_of_class_folders(run, tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcd":
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC)
        image.save(tmp_path / "images" / name / "0.png")
    out = tmp_path / "o.json"
    known = ("--images", tmp_path / "images", "--num-images", 2, "--transforms", "rotation")
    model = ("test_resnet", "--no-pretrained", "--num-classes", 4, "--img-size", 48)
    result = run("orbit", *model, *known, *QUICK, "--json", out)
    assert result.exit_code == 0, result.output
    assert "loss (nats)" in result.stdout
    assert "cross-entropy by asymmetry" in result.stdout
    (c,) = json.loads(out.read_text())["orbits"]
    assert c["asymmetry_loss"]["value"] >= 0
    assert all(p["correct"]["value"] in (0, 0.5, 1) for p in c["points"])


def test_labels_that_are_not_the_models_are_said_to_be_left_out(orbit, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((40, 40, 3), ord(name), np.uint8)).save(tmp_path / name / "0.png")
    result = orbit("--transforms", "rotation", images=tmp_path)
    assert result.exit_code == 0, result.output
    assert "the images have labels of 3 classes, but the model" in " ".join(result.stdout.split())
    assert "loss (nats)" not in result.stdout


def test_a_map_leaves_out_what_enters(orbit):
    result = orbit("--transforms", "translation_x", "--worst", 0, model="pixelwise")
    assert result.exit_code == 0, result.output
    assert "Compared are places of the output that stay inside the image" in result.stdout
    assert "keep their class" not in result.stdout


def test_a_figure_is_drawn_and_quiet_is_quiet(orbit, tmp_path):
    path = tmp_path / "o.png"
    result = orbit("--figure", path, "--quiet")
    assert result.exit_code == 0
    assert result.output == ""
    assert path.stat().st_size > 20_000


def test_a_derivative_that_torch_has_wrong_is_measured_by_differences(orbit, tmp_path):
    path = tmp_path / "o.json"
    result = orbit("--json", path, "--transforms", "rotation", model="detached")
    assert result.exit_code == 0, result.output
    assert "engine finite-differences" in result.stdout
    assert "Note: the derivative that torch records differs" in result.stdout
    (c,) = json.loads(path.read_text())["orbits"]
    assert c["bound_holds"]
    assert all(p["lee_error"] > 0 for p in c["points"])


def test_clouds(run):
    result = run(
        *("orbit", "rapidash_tn_r3", "--num-images", 1, "--transforms", "translation_x,rotation_z"),
        *("--points", 2, "--worst", 12),
    )
    assert result.exit_code == 0, result.output
    assert "rotation_z: the model's output, mean over 1 clouds" in result.stdout
    assert "-180 … +180 °" in result.stdout
    assert "Period" not in result.stdout
    assert "border" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--points", "3"), "points=3 must be an even number"),
        (("--shifts", "3"), "shifts=3 must be 12 or more"),
        (("--worst", "2"), "worst=2 forward passes are too few"),
        (("--starts", "0"), "starts=0 must be 1 or more"),
        (("--range", "translation"), "must have the form TRANSFORM=NUMBER"),
        (("--range", "rotation=-4"), "must have the form TRANSFORM=NUMBER"),
        (("--range", "rotation=nan"), "must have the form TRANSFORM=NUMBER"),
        (("--range", "rotation=4,rotation=5"), "names 'rotation' twice"),
        (("--range", "rotation=1e300"), "must be a positive number up to 10000"),
        (("--range", "translation=4000"), "leaves nothing of an image"),
        (("--range", "shear=4"), "'shear' is not followed"),
        (("--figure", "x.gif"), "--figure='x.gif' must end in .png, .svg, .pdf"),
        (("--json", "x.txt"), "must end in .json"),
        (("--json", "/nowhere/x.json"), "is no writable folder"),
        (("--transforms", "wobble"), "wobble"),
        (("--output-type", "probs,logits"), "--output-type='probs,logits' must be one of"),
        (("--scheme", "nearest"), "nearest"),
        (("--amp",), "--amp is refused"),
    ],
)
def test_bad_input_is_refused(refused, user_code, photographs, arguments, message):
    moves = () if "--transforms" in arguments else ("--transforms", "translation_x,rotation")
    line = ("orbit", f"{user_code}:classifier", "--images", photographs, "--num-images", 1, "-q")
    assert message in refused(*line, *QUICK, *moves, *arguments)


def test_no_model_is_refused(refused):
    assert "MODEL is missing" in refused("orbit")


def test_a_change_below_rounding_is_said_to_be():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(4, 4)).eval()
    x = torch.rand(2, 3, 16, 16)
    shown = []
    for scale in (1.0, 1e-9):  # beside a bias of order 1, in float32
        torch.manual_seed(1)
        net[-1].weight.data = scale * torch.randn(4, 4)
        curves = follow(net, x, "translation_x", output_type="output", points=2, shifts=0, worst=0)
        console = Console(width=200, file=io.StringIO())
        for item in orbit_tables(curves):
            console.print(item)
        shown.append(console.file.getvalue())
    assert "rounding" not in shown[0]
    assert shown[1].count("rounding") == 2
    assert "< " in shown[1]
