"""Real people's checkpoints: whatever lies around the weights, they load or a sentence says why."""

import json
import pickle

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from liederiv.errors import ModelError
from liederiv.model_zoo import load, read_checkpoint
from liederiv.model_zoo.checkpoint_parts import parts_of
from liederiv.model_zoo.weights import fit_parts

ARCH = "resnet10t"


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def weights(seed=1):
    return net(seed).state_dict()


def raw(seed=2):
    return net(seed).state_dict()


def put(prefix, state_dict):
    return {prefix + k: v for k, v in state_dict.items()}


def loaded(content):
    model = net()
    found = fit_parts(parts_of(content), model)
    return model, found


CONTAINERS = {
    "metric beside it": lambda w: {"state_dict": w, "best_acc1": torch.tensor(71.0)},
    "metric among them": lambda w: {**w, "best_acc1": torch.tensor(71.0)},
    "ema and model": lambda w: {"model": raw(), "ema": w},
    "params_ema": lambda w: {"params": raw(), "params_ema": w},
    "model_ema inside": lambda w: {"model": {"state_dict": raw()}, "model_ema": {"module": w}},
    "student and teacher": lambda w: {"student": raw(), "teacher": w},
    "in one dictionary": lambda w: {**put("student.", raw()), **put("teacher.backbone.", w)},
    "fsdp": lambda w: {
        k.replace(".", "._fsdp_wrapped_module.", 1) if k.startswith("0") else k: v
        for k, v in put("_fsdp_wrapped_module.", w).items()
    },
    "activation checkpointing": lambda w: {
        k.replace("0.", "0._checkpoint_wrapped_module.", 1): v for k, v in w.items()
    },
    "backbone": lambda w: put("backbone.", w),
    "backbone and head": lambda w: {**put("backbone.", w), "head.weight": torch.zeros(5, 2)},
    "lightning": lambda w: {
        "state_dict": {**put("model.", w), "criterion.weight": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "callbacks": {"best": {"best_model_score": torch.tensor(0.7)}},
    },
    "optimiser with the same shapes": lambda w: {"optimizer": raw(), "weights_of_mine": w},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_exactly_the_weights_are_loaded(name, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(CONTAINERS[name](weights()), path)
    model = net()
    found = fit_parts(read_checkpoint(path).parts, model)
    assert found.count == 0
    assert all(torch.equal(v, weights()[k]) for k, v in model.state_dict().items())


def test_what_was_taken_is_said():
    _, found = loaded(CONTAINERS["ema and model"](weights()))
    assert found.notes == ("part ema (averaged weights)",)
    _, found = loaded(CONTAINERS["in one dictionary"](weights()))
    said = "; ".join(found.notes)
    assert "prefix teacher.backbone. removed (averaged weights)" in said
    assert "tensors without it left out" in said
    _, found = loaded(CONTAINERS["metric among them"](weights()))
    assert found.notes == ("best_acc1 left out",)


def test_a_resampled_position_embedding_is_said(tmp_path):
    donor = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=3)
    torch.save({"model": donor.state_dict()}, tmp_path / "a.pth")
    found = load("vit_tiny_patch16_224", tmp_path / "a.pth", img_size=96)
    assert "pos_embed resampled from [1, 17, 192] to [1, 37, 192]" in found.weights


KEYS = st.sampled_from(["model", "state_dict", "net", "a b", "state", "checkpoint", "ema"])
PREFIXES = st.sampled_from(["", "module.", "model.", "_orig_mod.", "backbone.", "encoder.net."])
METRICS = st.dictionaries(
    st.sampled_from(["epoch", "acc", "best", "lr"]),
    st.one_of(
        st.integers(), st.floats(), st.text(max_size=5),
        st.builds(torch.tensor, st.floats(-9, 9)), st.builds(lambda: [torch.zeros(2)]),
        st.builds(lambda: {"state": {0: {"exp_avg": torch.zeros(4, 3, 3, 3)}}}),
    ),
    max_size=3,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(KEYS, METRICS), max_size=4), st.lists(PREFIXES, max_size=3))
def test_any_nesting_loads_exactly_those_weights(layers, prefixes):
    content = weights()
    for prefix in prefixes:
        content = put(prefix, content)
    for key, metrics in layers:
        content = {**metrics, key: content}
    model, found = loaded(content)
    assert found.count == 0
    assert all(torch.equal(v, weights()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        {"x": torch.zeros(3)},
        {k: v for k, v in raw().items() if not k.startswith("3")},
        {**raw(), "0.weight": torch.zeros(5, 3, 3, 3)},
        {**raw(), "4.weight": torch.zeros(2, 2)},
        {"model": {**raw(), "0.weight": torch.zeros(5, 3, 3, 3)}, "epoch": 3},
    ],
    ids=["one tensor", "a layer less", "another shape", "a layer more", "inside a container"],
)
def test_what_does_not_fit_leaves_the_model_as_it_is(content):
    model, found = loaded(content)
    assert found.count > 0
    assert all(torch.equal(v, net().state_dict()[k]) for k, v in model.state_dict().items())


BAD = {
    "is sparse": lambda w: w.to_sparse(),
    "is quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "has no values": lambda w: w.to("meta"),
    "is complex": lambda w: w.to(torch.complex64),
    "holds int8": lambda w: w.to(torch.int8),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_are_no_plain_numbers_are_refused(what):
    with pytest.raises(ModelError, match=f"tensor '0.weight' {what}"):
        loaded({**weights(), "0.weight": BAD[what](weights()["0.weight"])})


def test_a_file_that_refers_to_itself_and_a_deep_one():
    own = {"state_dict": weights()}
    own["self"] = own
    assert loaded(own)[1].count == 0
    deep = {"x": torch.zeros(1)}
    for _ in range(3000):
        deep = {"below": deep}
    assert parts_of(deep) == []


def test_a_deep_file_is_a_sentence(tmp_path):
    deep = {"x": torch.zeros(1)}
    for _ in range(300):
        deep = {"below": deep}
    torch.save(deep, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"no state dict|nested too deeply"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), "is a plain pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file"),
        (b"\x93NUMPY" + bytes(64), "is a NumPy array"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_a_pipe_is_no_folder(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is a pipe or a device"):
        read_checkpoint(tmp_path / "pipe")


# --- nothing in a file says where weights come from -----------------------------------------------


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


LOADERS = {
    "checkpoint_path": lambda p: p,
    "pretrained": lambda p: True,
    "pretrained_cfg": lambda p: {"file": p},
    "pretrained_cfg_overlay": lambda p: {"file": p, "custom_load": True},
    "cache_dir": lambda p: p,
    "kwargs_filter": lambda p: ["x"],
    "drop_rate": lambda p: p,
    "act_layer": lambda p: {"checkpoint_path": p},
    "block": lambda p: [{"deep": ["x", p]}],
}


@pytest.fixture
def payload(tmp_path):
    ran = tmp_path / "ran"
    file = tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(Payload(str(ran))))
    yield str(file)
    assert not ran.exists()


@pytest.mark.parametrize("key", LOADERS)
def test_a_local_folder_cannot_make_timm_load_a_file(tmp_path, payload, key):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(timm.create_model(ARCH).state_dict(), folder / "pytorch_model.bin")
    config = {"architecture": ARCH, "model_args": {key: LOADERS[key](payload)}}
    (folder / "config.json").write_text(json.dumps(config))
    for pretrained in (True, False):
        with pytest.raises(ModelError, match=rf"the config of .* sets '?{key}"):
            load(f"local-dir:{folder}", pretrained=pretrained)


@pytest.mark.parametrize("key", LOADERS)
def test_nor_can_model_kwargs(payload, key):
    with pytest.raises(ModelError, match=rf"`model_kwargs` sets '?{key}"):
        load(ARCH, pretrained=False, model_kwargs={key: LOADERS[key](payload)})


def test_entries_of_a_config_that_load_are_not_handed_on(tmp_path, payload):
    folder = tmp_path / "model"
    folder.mkdir()
    donor = timm.create_model(ARCH)
    torch.save(donor.state_dict(), folder / "pytorch_model.bin")
    cfg = {"file": payload, "custom_load": True, "url": f"file://{payload}", "state_dict": payload}
    config = {"architecture": ARCH, "pretrained_cfg": cfg, "num_classes": 1000}
    (folder / "config.json").write_text(json.dumps(config))
    found = load(f"local-dir:{folder}")
    assert torch.equal(found.model.state_dict()["fc.weight"], donor.state_dict()["fc.weight"])


def test_ordinary_arguments_pass():
    kwargs = {"drop_rate": 0.1, "act_layer": "gelu", "in_chans": 1, "block_args": None}
    kwargs.pop("block_args")
    assert load(ARCH, pretrained=False, model_kwargs=kwargs).data_config.input_size[0] == 1
    assert np.isfinite(load(ARCH, pretrained=False).num_parameters)
