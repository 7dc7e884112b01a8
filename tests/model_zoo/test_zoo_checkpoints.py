"""Checkpoints: every wrapping round-trips, nothing executes, each failure has its sentence."""

import argparse
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hostile_code import Payload
from safetensors.torch import save_file
from torch import nn

from liederiv.errors import ModelError
from liederiv.model_zoo import load, read_checkpoint, weights_fingerprint
from liederiv.model_zoo.weights.checkpoints import Checkpoint, Entry
from liederiv.model_zoo.weights.fitting import Fitted, find_weights, load_weights
from liederiv.model_zoo.weights.parts import Target

ARCH = "resnet10t"
VIT = "test_vit"


@pytest.fixture(scope="module")
def donor():
    return load(ARCH, pretrained=False, seed=7)


@pytest.fixture(scope="module")
def probe():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def assert_same_outputs(loaded, donor, probe):
    assert loaded.weights_fingerprint == donor.weights_fingerprint
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(probe), donor.model(probe), rtol=0, atol=0)


WRAPPINGS = {
    "bare": lambda sd: sd,
    "state_dict": lambda sd: {"state_dict": sd, "epoch": 3},
    "model": lambda sd: {"model": sd},
    "state_dict_ema": lambda sd: {"state_dict": {"x": torch.ones(1)}, "state_dict_ema": sd},
    "model_ema": lambda sd: {"model_ema": sd, "model": {"x": torch.ones(1)}},
    "ema_is_none": lambda sd: {"model_ema": None, "model": sd},
    "module": lambda sd: {"module": sd},
    "net": lambda sd: {"net": sd},
    "nested": lambda sd: {"model": {"state_dict": sd}},
    "unusual_key": lambda sd: {"my_weights": sd, "epoch": 3, "log": {"loss": [0.1]}},
    "timm_training": lambda sd: {
        "epoch": 3,
        "arch": ARCH,
        "state_dict": sd,
        "args": argparse.Namespace(model=ARCH, lr=0.1, mean=None),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": []},
        "metric": np.float64(71.3),
        "best": np.float32(0.5),
    },
}


WHERE = {
    "state_dict": ("state_dict", False),
    "model": ("model", False),
    "state_dict_ema": ("state_dict_ema", True),
    "model_ema": ("model_ema", True),
    "ema_is_none": ("model", False),
    "module": ("module", False),
    "net": ("net", False),
    "nested": ("model.state_dict", False),
    "unusual_key": ("my_weights", False),
    "timm_training": ("state_dict", False),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_round_trips(tmp_path, donor, probe, wrapping):
    path = tmp_path / "weights.pth.tar"
    torch.save(WRAPPINGS[wrapping](dict(donor.model.state_dict())), path)
    loaded = load(ARCH, path)
    assert_same_outputs(loaded, donor, probe)
    key, averaged = WHERE.get(wrapping, ("", False))
    kind = "averaged" if averaged else "raw"
    where = f" ({kind} weights under '{key}')" if key else ""
    assert loaded.weights == f"checkpoint weights.pth.tar{where}"


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.module.",
        "module.module.",
        "net.model.",
    ],
)
def test_every_prefix_round_trips(tmp_path, donor, probe, prefix):
    path = tmp_path / "weights.pt"
    torch.save({prefix + k: v for k, v in donor.model.state_dict().items()}, path)
    assert_same_outputs(load(ARCH, path), donor, probe)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".pth.tar", ".bin"])
def test_every_suffix_round_trips(tmp_path, donor, probe, suffix):
    path = tmp_path / f"weights{suffix}"
    state_dict = {k: v.clone() for k, v in donor.model.state_dict().items()}
    if suffix == ".safetensors":
        save_file(state_dict, path)
    else:
        torch.save(state_dict, path)
    assert_same_outputs(load(ARCH, path), donor, probe)


def test_legacy_format_and_averaged_model_round_trip(tmp_path, donor, probe):
    averaged = torch.optim.swa_utils.AveragedModel(donor.model)
    path = tmp_path / "weights.pth"
    torch.save(averaged.state_dict(), path, _use_new_zipfile_serialization=False)
    assert_same_outputs(load(ARCH, path), donor, probe)


def test_batch_counters_may_be_absent(tmp_path, donor, probe):
    state_dict = donor.model.state_dict()
    old = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(state_dict)
    torch.save(old, tmp_path / "old.pth")
    assert_same_outputs(load(ARCH, tmp_path / "old.pth"), donor, probe)


def fit(state_dict, model):
    """What find_weights says of a bare mapping; loaded where it fits."""
    entries = tuple(Entry(tuple(k.split(".")), 0, v) for k, v in state_dict.items())
    file = Checkpoint(Path("x.pth"), entries, None)
    found = find_weights(file, model, Target.of(model))
    if isinstance(found, Fitted):
        load_weights(file, found, model)
    return found


def test_a_submodule_called_model_keeps_its_name():
    outer = nn.Module()
    outer.model = nn.Linear(2, 2)
    other = nn.Linear(2, 2)
    found = fit({f"module.model.{k}": v for k, v in other.state_dict().items()}, outer)
    assert found.part.prefix == "module."
    assert torch.equal(outer.model.weight, other.weight)


def test_a_submodule_compiled_on_its_own_round_trips():
    target = nn.Sequential(nn.Linear(2, 2))
    other = nn.Sequential(nn.Linear(2, 2))
    state_dict = {k.replace("0.", "0._orig_mod."): v for k, v in other.state_dict().items()}
    assert isinstance(fit(state_dict, target), Fitted)
    assert torch.equal(target[0].weight, other[0].weight)


def test_one_tensor_under_two_names_is_refused():
    model = nn.Linear(2, 2)
    plain = dict(model.state_dict())
    doubled = {**plain, **{f"module.{k}": v + 1 for k, v in plain.items()}}
    with pytest.raises(
        ModelError, match=r"2 sets of weights that fit, and they differ: .*'module'"
    ):
        fit(doubled, model)
    with pytest.raises(ModelError, match="differ"):
        fit({f"ema.{k}" if i else k: v for i in (0, 1) for k, v in doubled.items()}, model)


def malicious_zip(path, payload):
    torch.save({"state_dict": {"w": torch.ones(1)}, "extra": payload}, path)


def malicious_legacy(path, payload):
    torch.save({"extra": payload}, path, _use_new_zipfile_serialization=False)


def malicious_pickle(path, payload):
    path.write_bytes(pickle.dumps({"extra": payload}, protocol=2))


@pytest.mark.parametrize("write", [malicious_zip, malicious_legacy, malicious_pickle])
@pytest.mark.parametrize("forced", [False, True])
def test_malicious_pickle_does_not_execute(tmp_path, monkeypatch, write, forced):
    if forced:  # the variable with which users switch torch's protection off
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, sign = tmp_path / "bad.pth", tmp_path / "executed"
    write(path, Payload(sign))
    with pytest.raises(ModelError, match=r"refused: it asks to import (posix|nt)\.system") as info:
        load(ARCH, path)
    assert not sign.exists()
    assert "\n" not in str(info.value)


def test_the_payload_would_have_executed(tmp_path):
    path, sign = tmp_path / "bad.pth", tmp_path / "executed"
    malicious_zip(path, Payload(sign))
    torch.load(path, weights_only=False)
    assert sign.exists()


def test_allowed_classes_are_allowed_in_the_context_only(tmp_path):
    path = tmp_path / "args.pth"
    torch.save({"state_dict": {"w": torch.ones(1)}, "args": argparse.Namespace(model="x")}, path)
    before = set(torch.serialization.get_safe_globals())
    assert read_checkpoint(path).arch == "x"
    assert set(torch.serialization.get_safe_globals()) == before


def test_pickled_module_and_torchscript_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ModelError, match=r"refused: it asks to import torch\.nn\.modules\.linear"):
        read_checkpoint(tmp_path / "module.pth")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(ModelError, match="is a TorchScript archive, which cannot be read without"):
        read_checkpoint(tmp_path / "script.pt")


def test_tar_of_old_torch_is_refused(tmp_path):
    path = tmp_path / "old.pth.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps({}, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ModelError, match="is in torch's tar format, which cannot be read without"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [10, 0.5, 0.999])
def test_truncated_file(tmp_path, donor, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    state_dict = {k: v.clone() for k, v in donor.model.state_dict().items()}
    save_file(state_dict, path) if suffix == ".safetensors" else torch.save(state_dict, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])
    with pytest.raises(ModelError, match=r"cut\.\w+ \(\d+ bytes\) is truncated or not a") as info:
        load(ARCH, path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "content", [b"hello world", b"\x80\x02garbage", b"PK\x03\x04", b"\x00" * 99]
)
def test_not_a_checkpoint(tmp_path, content):
    path = tmp_path / "no.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is truncated or not a checkpoint") as info:
        read_checkpoint(path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page"),
    ],
)
def test_files_that_only_look_like_weights(tmp_path, content, message):
    path = tmp_path / "no.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_checkpoint(path)


def archive(*names, compress=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compress) as made:
        for name in names:
            made.writestr(name, b"x" * 99)
    return stream.getvalue()


ONNX = b"\x08\x08\x12\x07pytorch\x1a\x05" + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
        (ONNX, "is an ONNX model"),
        (b"\x08\x01\x12\x05" + bytes(99), "is a TensorFlow SavedModel"),
        (bytes(99) + bytes.fromhex("57fb808b247547db"), "is part of a TensorFlow checkpoint"),
        (b"\x1c\0\0\0TFL3" + bytes(99), "is a TensorFlow Lite model"),
        (b"\x93NUMPY\x01\0" + bytes(99), "is a NumPy array"),
        (b"GGUF" + bytes(99), "is a GGUF file"),
        (b"\x1f\x8b\x08" + bytes(99), "is compressed with gzip; unpack it first"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), r"is a picture \(PNG\)"),
        (b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "is a JSON text"),
        (b"\n\n <!doctype html>", "is a web page"),
        (pickle.dumps({"a": 1}), r"is a raw pickle \(pickle\.dump\)"),
        (pickle.dumps({"a": torch.ones(2)}), "refused|raw pickle"),
        (archive("x/code/a.py", "x/constants.pkl", "x/data.pkl"), "is a TorchScript archive"),
        (archive("a.npy", "b.npy"), r"is an archive of NumPy arrays \(\.npz\)"),
        (archive("config.json", "model.weights.h5"), "is a Keras model"),
        (archive("readme.txt"), r"ZIP archive that torch\.save has not written \(first: readme"),
        (archive("x/data.pkl", compress=zipfile.ZIP_DEFLATED), "is a compressed copy"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.ckpt"])
def test_files_of_other_kinds_are_named(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as info:
        load(ARCH, tmp_path / name)
    assert "\n" not in str(info.value)
    assert "truncated" not in str(info.value)


def test_suffixes_do_not_matter(tmp_path, donor):
    state_dict = {k: v.clone() for k, v in donor.model.state_dict().items()}
    save_file(state_dict, tmp_path / "a.pth")
    torch.save(state_dict, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        assert load(ARCH, tmp_path / name).weights_fingerprint == donor.weights_fingerprint


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_named_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "dangling.pth").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    cases = {
        tmp_path / "pipe.pth": "is a pipe or a device; give a file",
        "/dev/null": "is a pipe or a device; give a file",
        tmp_path / "dangling.pth": "is a link to nothing; check",
        tmp_path / "loop.pth": r"cannot be read \(",
        tmp_path / ("x" * 300): r"cannot be read \(File name too long\)",
        "~nosuchuser/x.pth": "does not exist",
        "a\0b.pth": "cannot be read|is no path",
        tmp_path / "bad\udcff\x1b[31m.pth": r"bad\\xff\\x1b\[31m\.pth does not exist",
    }
    for path, message in cases.items():
        with pytest.raises(ModelError, match=message) as info:
            load(ARCH, path)
        assert "\n" not in str(info.value)


def test_a_file_without_permission_is_a_sentence(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "x.pth")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ModelError, match=r"cannot be read \(Permission denied\); check path and"):
        load(ARCH, tmp_path / "x.pth")


def test_storages_that_claim_too_much_are_a_sentence(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    huge = content.replace(b"K\x03tq", b"\x8a\x06\x00\x00\x00\x00\x00\x40tq", 1)
    path.write_bytes(huge)
    with pytest.raises(ModelError) as info:
        load(ARCH, path)
    assert "\n" not in str(info.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelError, match=r"`checkpoint` .*nowhere\.pth does not exist; check"):
        load(ARCH, tmp_path / "nowhere.pth")
    with pytest.raises(ModelError, match="is a folder; give the file, or 'local-dir:"):
        load(ARCH, tmp_path)


def test_file_without_a_state_dict(tmp_path):
    torch.save({"epoch": 1, "loss": 0.5}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="holds no state dict: it holds 'epoch', 'loss'; save"):
        read_checkpoint(tmp_path / "a.pth")
    torch.save([torch.ones(1)], tmp_path / "c.pth")
    with pytest.raises(ModelError, match="holds a list where a state dict"):
        read_checkpoint(tmp_path / "c.pth")


def test_mismatched_architecture_names_the_first_tensors_and_a_relative(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    pattern = (
        r"does not fit 'resnet34': of \d+ tensors \d+ missing \(layer1\.2\.conv1\.weight, .*, …\)"
        r"; it holds 11,\d+,\d+ values, the model 21,\d+,\d+; its shapes are those of 'resnet18'\."
    )
    with pytest.raises(ModelError, match=pattern):
        load("resnet34", path)


def test_mismatch_reports_shapes_and_the_stated_architecture(tmp_path):
    path = tmp_path / "other.pth"
    state_dict = {
        k: v.new_zeros([2, *v.shape]) for k, v in timm.create_model(ARCH).state_dict().items()
    }
    torch.save({"state_dict": state_dict, "arch": "resnet14t"}, path)
    pattern = (
        r"of another shape \(conv1\.0\.weight \[2, 24, 3, 3, 3\] for \[24, 3, 3, 3\], .*, …\).*"
    )
    with pytest.raises(ModelError, match=pattern + "says that it was trained as 'resnet14t'"):
        load(ARCH, path)


def test_classifier_of_another_size_is_built(tmp_path, probe):
    donor = timm.create_model(ARCH, num_classes=10).eval()
    wrapped = {f"module.{k}": v for k, v in donor.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "ten.pth")
    loaded = load(ARCH, tmp_path / "ten.pth")
    assert loaded.num_classes == 10
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(probe), donor(probe), rtol=0, atol=0)
    assert load(ARCH, tmp_path / "ten.pth", num_classes=10).num_classes == 10
    with pytest.raises(
        ModelError, match=r"`num_classes`=5 conflicts .* 'fc\.weight' has 10 classes"
    ):
        load(ARCH, tmp_path / "ten.pth", num_classes=5)


def test_classifier_can_be_left_out(tmp_path, probe):
    donor = timm.create_model(ARCH, num_classes=10).eval()
    torch.save(donor.state_dict(), tmp_path / "ten.pth")
    loaded = load(ARCH, tmp_path / "ten.pth", num_classes=0)
    assert loaded.layout.is_classifier is False
    with torch.no_grad():
        features = donor.forward_head(donor.forward_features(probe), pre_logits=True)
        torch.testing.assert_close(loaded.model(probe), features, rtol=0, atol=0)
    headless = {k: v for k, v in donor.state_dict().items() if not k.startswith("fc.")}
    torch.save(headless, tmp_path / "headless.pth")
    assert load(ARCH, tmp_path / "headless.pth", num_classes=0).num_classes == 0
    with pytest.raises(ModelError, match="holds no classifier, so load it with `num_classes`=0"):
        load(ARCH, tmp_path / "headless.pth")


def test_checkpoint_serves_a_features_only_model(tmp_path, donor, probe):
    torch.save(donor.model.state_dict(), tmp_path / "w.pth")
    loaded = load(ARCH, tmp_path / "w.pth", model_kwargs={"features_only": True})
    with torch.no_grad():
        last = loaded.model(probe)[-1]
        torch.testing.assert_close(last, donor.model.forward_features(probe), rtol=0, atol=0)
    assert "state_dict" not in loaded.model.pretrained_cfg


def test_timm_translates_foreign_names_and_other_image_sizes(tmp_path):
    donor = timm.create_model(VIT).eval()
    foreign = {f"visual.trunk.{k}": v for k, v in donor.state_dict().items()}
    torch.save(foreign, tmp_path / "foreign.pth")
    assert load(VIT, tmp_path / "foreign.pth").weights_fingerprint == weights_fingerprint(donor)
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    resized = load(VIT, tmp_path / "w.pth", img_size=128)
    assert resized.layout.grid == (8, 8)
    assert torch.equal(resized.model.head.weight, donor.head.weight)


def test_misfit_leaves_the_model_untouched():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    before = weights_fingerprint(model)
    wrong = {**model.state_dict(), "0.weight": torch.ones(2, 2), "1.bias": torch.ones(4)}
    assert fit(wrong, model).shapes == (("1.bias", (4,), (3,)),)
    assert weights_fingerprint(model) == before


def test_fingerprint_is_of_the_content():
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert weights_fingerprint(first) == weights_fingerprint(second)
    assert len(weights_fingerprint(first)) == 16
    second.running_mean[0] = 1e-30
    assert weights_fingerprint(first) != weights_fingerprint(second)
    assert weights_fingerprint(first.bfloat16()) != weights_fingerprint(nn.BatchNorm1d(3))
