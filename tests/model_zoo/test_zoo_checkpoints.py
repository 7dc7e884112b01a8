"""Checkpoints: every wrapping round-trips, nothing executes, each failure has its sentence."""

import argparse
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from liederiv.errors import ModelError
from liederiv.model_zoo import load, read_checkpoint, weights_fingerprint
from liederiv.model_zoo.weights import compare, fit, strip_wrappers

ARCH = "resnet10t"
VIT = "test_vit"


class Payload:
    """Unpickling this without protection creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


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


SAID = {  # of the part that was taken
    "bare": "",
    "state_dict": " (part state_dict)",
    "model": " (part model)",
    "state_dict_ema": " (part state_dict_ema (averaged weights))",
    "model_ema": " (part model_ema (averaged weights))",
    "ema_is_none": " (part model)",
    "module": " (part module)",
    "net": " (part net)",
    "nested": " (part model.state_dict)",
    "unusual_key": " (part my_weights)",
    "timm_training": " (part state_dict)",
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_round_trips(tmp_path, donor, probe, wrapping):
    path = tmp_path / "weights.pth.tar"
    torch.save(WRAPPINGS[wrapping](dict(donor.model.state_dict())), path)
    loaded = load(ARCH, path)
    assert_same_outputs(loaded, donor, probe)
    assert loaded.weights == f"checkpoint weights.pth.tar{SAID[wrapping]}"


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


def test_a_submodule_called_model_keeps_its_name():
    outer = nn.Module()
    outer.model = nn.Linear(2, 2)
    state_dict = {f"module.{k}": v for k, v in outer.state_dict().items()}
    assert list(strip_wrappers(state_dict, outer.state_dict())) == ["model.weight", "model.bias"]
    assert fit(state_dict, outer).count == 0


def test_a_submodule_compiled_on_its_own_round_trips():
    target = nn.Sequential(nn.Linear(2, 2))
    other = nn.Sequential(nn.Linear(2, 2))
    state_dict = {k.replace("0.", "0._orig_mod."): v for k, v in other.state_dict().items()}
    assert fit(state_dict, target).count == 0
    assert torch.equal(target[0].weight, other[0].weight)


def test_one_tensor_under_two_names_is_refused():
    state_dict = {"weight": torch.ones(1), "module.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"holds 'weight' twice, with and without"):
        strip_wrappers(state_dict)


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


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelError, match=r"`checkpoint` .*nowhere\.pth does not exist; check"):
        load(ARCH, tmp_path / "nowhere.pth")
    with pytest.raises(ModelError, match="is a folder; give the file, or 'local-dir:"):
        load(ARCH, tmp_path)


def test_file_without_a_state_dict(tmp_path):
    torch.save({"epoch": 1, "loss": 0.5}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="no state dict: it holds 'epoch', 'loss'; save"):
        read_checkpoint(tmp_path / "a.pth")
    w = {"w": torch.ones(1)}
    torch.save({"student": dict(w), "teacher": w}, tmp_path / "b.pth")
    keys = [part.key for part in read_checkpoint(tmp_path / "b.pth").parts]
    assert keys == ["teacher", "student"]
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
    assert fit(wrong, model) == compare(wrong, model)
    assert compare(wrong, model).shapes == (("1.bias", (4,), (3,)),)
    assert weights_fingerprint(model) == before


def test_fingerprint_is_of_the_content():
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert weights_fingerprint(first) == weights_fingerprint(second)
    assert len(weights_fingerprint(first)) == 16
    second.running_mean[0] = 1e-30
    assert weights_fingerprint(first) != weights_fingerprint(second)
    assert weights_fingerprint(first.bfloat16()) != weights_fingerprint(nn.BatchNorm1d(3))
