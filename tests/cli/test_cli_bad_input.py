"""Bad input: one line on stderr that names the remedy, exit code 2, nothing executed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hostile_code import Payload
from patience import PATIENCE
from PIL import Image

from liederiv.model_zoo import load
from liederiv.model_zoo.weights import hub, packaged

ARCH = "test_resnet"


@pytest.fixture
def quick(refused, user_code, photographs):
    """`refused` for `score` of the user's classifier with more arguments."""

    def call(*arguments, model="classifier"):
        known = ("--transforms", "rotation", "--metrics", "lee", "--num-images", "2")
        images = () if "--images" in arguments else ("--images", photographs)
        return refused("score", f"{user_code}:{model}", *known, *images, *arguments)

    return call


def test_no_model(refused):
    for command in ("score", "check"):
        assert "MODEL is missing; name one, e.g. `liederiv score" in refused(command)


def test_unknown_model_suggests_near_names(refused):
    line = refused("score", "resnet5O")
    assert "Unknown model 'resnet5O'; did you mean resnet50" in line
    assert "Unknown tag 'nope' of model 'resnet18'; its tags are: a1_in1k" in refused(
        "score", "resnet18.nope"
    )


def test_two_different_models(refused):
    assert "name different models; give one" in refused("score", "resnet18", "--model", "resnet34")


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "_reachable", lambda url: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "PACKAGES", {})


@pytest.mark.parametrize("command", ["score", "check"])
def test_unreachable_hub_names_weights_and_ways_to_go_on(refused, no_hub, command):
    line = refused(command, "resnet18")
    assert "resnet18.a1_in1k are not cached here and the Hugging Face hub cannot be reached" in line
    for remedy in ("--checkpoint", "HF_HUB_OFFLINE=1", "--no-pretrained"):
        assert remedy in line


@pytest.mark.parametrize("folder", ["local-dir:/nowhere/at/all", "local-dir:"])
def test_missing_local_folder(refused, folder):
    assert "holds no config.json" in refused("score", folder)


def test_missing_checkpoint_and_folder(refused, tmp_path):
    missing = refused("score", ARCH, "--checkpoint", tmp_path / "nowhere.pth")
    assert "nowhere.pth does not exist; check the path" in missing
    assert "is a folder; give the file" in refused("score", ARCH, "--checkpoint", tmp_path)


def test_truncated_checkpoint(refused, tmp_path):
    path = tmp_path / "cut.pth"
    torch.save(load(ARCH, pretrained=False).model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:20_000])
    line = refused("score", ARCH, "--checkpoint", path)
    assert "cut.pth (20000 bytes) is truncated or not a checkpoint" in line


def test_mismatched_checkpoint(refused, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(load("test_vit", pretrained=False).model.state_dict(), path)
    assert "does not fit 'test_resnet'" in refused("score", ARCH, "--checkpoint", path)


@pytest.mark.parametrize("command", ["score", "check", "compare"])
def test_malicious_pickle_is_refused_and_not_executed(refused, tmp_path, command):
    path, sign = tmp_path / "bad.pth", tmp_path / "executed"
    torch.save({"state_dict": {"w": torch.ones(1)}, "extra": Payload(sign)}, path)
    how = ("score", ARCH, "--checkpoint", path)
    if command == "check":
        how = ("check", ARCH, "--checkpoint", path)
    elif command == "compare":
        how = ("compare", path, path, "--model", ARCH)
    assert "refused: it asks to import" in refused(*how)
    assert not sign.exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nosuch", "has no 'nosuch'; check the name after the colon"),
        ("raising", "raised RuntimeError: no data"),
        ("nothing", "returned a NoneType; it must return a torch.nn.Module"),
        ("FACTORIES", "has no 'FACTORIES'"),
        ("dictionary", "returns a dict, not one tensor; wrap it"),
        ("stochastic", "the model is stochastic"),
        ("decisions", "has type torch.int64, which has no derivative"),
        ("failing", "the model fails on images of shape [3, 32, 32]: ValueError: boom; check"),
    ],
)
def test_factories_that_cannot_be_measured(quick, model, message):
    assert message in quick(model=model)


def test_factory_in_a_missing_module(refused):
    assert "Module 'no_such_module' was not found" in refused("score", "no_such_module:factory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--transforms", "wobble"], "transform 'wobble' is unknown; choose from translation_x"),
        (["--transforms", ""], "transforms is empty; choose from"),
        (["--transforms", ","], "transforms is empty; choose from"),
        (["--scheme", "nearest"], "scheme='nearest' is unknown; choose one of bspline"),
        (["--metrics", "nope"], "metric 'nope' is unknown; choose from lee"),
        (["--metrics", ""], "metrics is empty; choose from lee"),
        (["--output-type", "nope"], "output_type='nope' is unknown; choose from auto, probs"),
        (["--output-type", ""], "output_type='' is unknown"),
        (["--output-type", "probs,features"], "mixes features with others"),
        (["--output-type", "features"], "does not declare how its features are laid out"),
        (["--unit", "mm"], "unit='mm' is unknown; choose 'pixel' or 'grid'"),
        (["--device", "toaster"], "--device='toaster' is unknown"),
        (["--device", "meta"], "--device='meta' is unknown"),
        (["--dtype", "float16"], "derivatives need float32 or float64"),
        (["--amp"], "--amp is refused: half-precision rounding is as large"),
        (["--num-images", "0"], "`num_images` must be at least 1, got 0"),
        (["--num-images", "-1"], "`num_images` must be at least 1, got -1"),
        (["--batch-size", "0"], "--batch-size='0' must be auto or a whole number from 1"),
        (["--batch-size", "foo"], "--batch-size='foo' must be auto"),
        (["--batch-size", "²"], "--batch-size='²' must be auto"),
        (["--seed", "-1"], "--seed=-1 must be a whole number from 0"),
        (["--seed", str(10**30)], "must be a whole number from 0"),
        (["--mean", "abc"], "--mean='abc' must be comma-separated numbers"),
        (["--mean", "nan"], "--mean='nan' must be comma-separated numbers"),
        (["--mean", "0.5,0.5"], "must have one value for each of the 3 input channels"),
        (["--std", "0"], "`std` must be positive in every channel"),
        (["--std", ""], "--std='' must be comma-separated numbers"),
        (["--img-size", "0"], "`img_size` must be a positive number of pixels"),
        (["--img-size", "1"], "`img_size` (1, 1) is not supported by"),
        (["--crop-pct", "0"], "--crop-pct=0.0 must be a fraction"),
        (["--crop-pct", "nan"], "--crop-pct=nan must be a fraction"),
        (["--crop-pct", "1e9"], "must be a fraction"),
        (["--interpolation", "magic"], "`interpolation` must be one of nearest"),
        (["--model-kwargs", "foo"], "--model-kwargs='foo' must have the form KEY=VALUE"),
        (["--model-kwargs", "=1"], "must have the form KEY=VALUE"),
        (["--model-kwargs", "foo=1"], "unexpected keyword argument 'foo'"),
        (["--num-classes", "5"], "pass what it needs in `model_kwargs`"),
        (["--num-classes", "-1"], "--num-classes=-1 must be 0 (no classifier) or more"),
        (["--images", "torch/nope"], "give it with `data_dir` (--data-dir)"),
        (["--images", "/no/such/folder"], "'/no/such/folder' does not exist; give 'samples'"),
    ],
)
def test_bad_value(quick, arguments, message):
    assert message in quick(*arguments)


def test_unknown_data_set(quick, tmp_path):
    line = quick("--images", "torch/nope", "--data-dir", tmp_path)
    assert "Data set 'torch/nope' cannot be opened" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["score", "check"])
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_asked_for_but_absent(refused, user_code, command, device):
    line = refused(command, f"{user_code}:classifier", "--device", device)
    assert f"--device={device} was asked for, but this torch sees no CUDA device" in line


def test_empty_folder_and_folder_without_images(quick, tmp_path):
    assert "holds no files; give a folder with images" in quick("--images", tmp_path)
    assert "`images` '' does not exist; give 'samples', a folder" in quick("--images", "")
    (tmp_path / "notes.txt").write_text("x")
    line = quick("--images", tmp_path)
    assert "holds 1 files, none an image (notes.txt: not an image)" in line
    assert "is a file; give the folder" in quick("--images", tmp_path / "notes.txt")


def test_corrupt_image_is_noted_and_not_fatal(run, user_code, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    result = run(
        *("score", f"{user_code}:classifier", "--images", tmp_path),
        *("--transforms", "rotation", "--metrics", "lee"),
    )
    assert result.exit_code == 0
    assert "Note: 1 files skipped (first: bad.png" in result.output
    assert "1 image (" in result.output


@pytest.mark.parametrize("option", ["--json", "--csv", "--per-image"])
def test_results_that_cannot_be_written_are_refused_before_the_run(
    refused, user_code, tmp_path, monkeypatch, option
):
    def never(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("liederiv.model_zoo.sources.factories.Factory.load", never)
    ending = {"--json": ".json", "--csv": ".csv", "--per-image": ".parquet"}[option]
    command = ("score", f"{user_code}:classifier", option)
    missing = refused(*command, tmp_path / "missing" / f"a{ending}")
    assert "is no writable folder; create it or choose another" in missing
    assert f"must end in {ending}" in refused(*command, tmp_path / "a.txt")
    (tmp_path / f"folder{ending}").mkdir()
    assert "it is a folder; name a file" in refused(*command, tmp_path / f"folder{ending}")


def test_compare_refuses_what_it_cannot_compare(refused, user_code, photographs, tmp_path):
    quick = ("--images", photographs, "--num-images", 2, "--metrics", "lee")
    names = f"{user_code}:classifier", f"{user_code}:dense"
    assert "another representation of the output" in refused("compare", *names, *quick)
    assert "say which architecture it holds with --model" in refused("compare", "a.pth", "b.pth")
    line = refused("compare", "a.pth", "b.pth", "--model", ARCH)
    assert "a.pth does not exist" in line
    assert "must end in .csv" in refused("compare", *names, "--csv", tmp_path / "a.txt")
    assert "is no writable folder" in refused("compare", *names, "--csv", tmp_path / "x" / "a.csv")


def test_check_refuses_nan(refused, user_code, photographs):
    line = refused("check", f"{user_code}:not_a_number", "--images", photographs)
    assert "the model's output is not finite" in line


def test_a_score_of_nothing_is_an_error_after_its_rows_are_kept(
    refused, user_code, photographs, tmp_path
):
    file = tmp_path / "a.json"
    arguments = ("--images", photographs, "--num-images", 2, "--metrics", "lee", "--quiet")
    line = refused("score", f"{user_code}:not_a_number", *arguments, "--json", file)
    assert "non-finite output or derivative for 2 of 2 images" in line
    assert {row["status"] for row in json.loads(file.read_text())["results"]} == {"failed"}


def test_models_without_a_match(refused):
    assert "no model matches 'zzz'; try a wildcard such as '*zzz*'" in refused("models", "zzz")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["score", "--nosuch"],
        ["score", "a", "b"],
        ["score", "a", "--num-images", "x"],
        ["compare", "a"],
    ],
)
def test_usage_errors_exit_with_2(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output


def test_a_real_process_prints_one_line_and_no_traceback():
    found = subprocess.run(
        [sys.executable, "-c", "from liederiv.cli import main; main()", "score", "resnet5O"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith("liederiv: Unknown model 'resnet5O'")
    assert len(found.stderr.splitlines()) == 1
