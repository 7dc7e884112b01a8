"""One face for what is fed: images, clouds, and a kind that is one class and one line."""

import json

import pandas as pd
import pytest
import torch
import zoo_signals
from torch import nn
from typer.testing import CliRunner

from liederiv.cli import app
from liederiv.domains import DOMAINS
from liederiv.errors import LieDerivError, ModelError
from liederiv.model_zoo import load, load_clouds, load_images, register_inputs
from liederiv.model_zoo.inputs.base import INPUTS, Inputs
from liederiv.model_zoo.inputs.kinds import inputs_of_kind
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.measuring import measure_loaded, open_inputs
from liederiv.model_zoo.requests.model_options import ModelOptions
from liederiv.model_zoo.scan.store import Store

CPU = torch.device("cpu")
NAME = "zoo_signals:build"

# Importing it has registered both, which tests of other modules beside must not see.
DOMAINS.remove(zoo_signals.DOMAIN)
INPUTS.pop("signals")


@pytest.fixture(autouse=True)
def signals():
    """The domain and the inputs of `zoo_signals`, registered."""
    DOMAINS.append(zoo_signals.DOMAIN)
    INPUTS["signals"] = zoo_signals.SignalSet
    yield
    DOMAINS.remove(zoo_signals.DOMAIN)
    INPUTS.pop("signals")


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def lee_by_hand(count, seed):
    """⟨x'(s), ramp⟩ of each channel by a central difference of the interpolated signal."""
    x = zoo_signals.SignalSet(count, 9, seed).signals.double()
    ramp = torch.linspace(0, 1, 9, dtype=torch.float64)
    moved = [
        torch.fft.irfft(torch.fft.rfft(x) * torch.exp(2j * torch.pi * torch.fft.rfftfreq(9) * t), 9)
        for t in (1e-4, -1e-4)
    ]
    return ((moved[0] - moved[1]) / 2e-4 @ ramp).square().mean(1)


def test_a_kind_of_input_is_measured_as_any_other():
    loaded = load(NAME)
    assert (loaded.kind, loaded.input_size, loaded.classes) == ("signals", None, None)
    how = MeasureOptions(num_images=3, transforms="delay", metrics="lee", seed=1)
    found, inputs = measure_loaded(loaded, ModelOptions(dtype="float64"), how)
    row = found.get("lee", "delay")
    assert row.per_image == pytest.approx(lee_by_hand(3, 1).tolist(), rel=1e-4)
    p = found.provenance
    assert (p.inputs, p.images, p.num_images) == ("signals", "noise of seed 1", 3)
    assert p.images_fingerprint == inputs.fingerprint != zoo_signals.SignalSet(3, 9, 2).fingerprint


def test_a_kind_of_input_goes_through_the_commands(tmp_path):
    few = ("--transforms", "delay", "--num-images", 2)
    scored = run("score", NAME, *few, "--metrics", "lee", "--json", tmp_path / "s.json")
    assert scored.exit_code == 0, scored.exception
    assert "2 signals (noise of seed 0) of 9 samples each" in " ".join(scored.output.split())
    rows = json.loads((tmp_path / "s.json").read_text())["results"]
    (value,) = (row["value"] for row in rows if row["metric"] == "lee")
    assert value == pytest.approx(lee_by_hand(2, 0).mean().item(), rel=1e-3)
    for line in (
        ("layers", NAME, *few),
        ("check", NAME, "--transforms", "delay"),
        ("gate", NAME, *few, "--max", "delay=1e9"),
        ("compare", NAME, NAME, *few, "--metrics", "lee"),
    ):
        result = run(*line)
        assert result.exit_code == 0, (line, result.output, result.exception)
    refused = run("layers", NAME, *few, "--aliasing").exception
    assert "about feature maps of images, but 'zoo_signals:build' takes signals" in str(refused)
    refused = run("score", NAME, *few, "--img-size", 32).exception
    assert "`img_size` is for models on images, but 'zoo_signals:build' takes signals" in str(
        refused
    )


@pytest.mark.slow
def test_a_kind_of_input_goes_through_a_scan(tmp_path):
    """The factory's module registers it in the worker process, too."""
    few = ("--transforms", "delay", "--num-images", 2, "--metrics", "lee")
    result = run("scan", NAME, *few, "--measure", "score,layers", "--out", tmp_path / "scan")
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "scan" / "score").glob("*.parquet")
    value = pd.read_parquet(file)["value"].iloc[0]
    assert value == pytest.approx(lee_by_hand(2, 0).mean().item(), rel=1e-3)


def test_what_is_fed_has_one_face():
    images, clouds = load_images("samples", num_images=2), load_clouds("nbody", 2)
    for found in (images, clouds, zoo_signals.SignalSet(2, 9, 0)):
        assert isinstance(found, Inputs)
        assert len(found) == len(found.names) == len(found.batch(CPU, torch.float64)) == 2
        assert found.batch(CPU, torch.float64).dtype == torch.float64
        assert len(found.first(CPU, torch.float32)) == 1
        assert len(found.fingerprint) == 16
    assert images.clusters == ["chelsea", "coffee"]
    assert clouds.clusters is None
    assert images.size_in_words == "224 × 224 pixels"
    assert torch.equal(images.first(CPU, torch.float32)[0], images[0])


def test_a_network_on_clouds_of_a_factory(tmp_path, monkeypatch):
    """A kind of ours can be declared, too; samples are then those of the N-body system."""
    text = (
        "from liederiv.model_zoo import load\n"
        "def build():\n"
        "    net = load('rapidash_tn_r3').model\n"
        "    net.input_kind = 'clouds'\n"
        "    return net\n"
    )
    (tmp_path / "cloud_factory.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    how = MeasureOptions(num_images=2, transforms="rotation_x", metrics="lee")
    values = [
        measure_loaded(load(name), ModelOptions(), how)[0].get("lee", "rotation_x").value
        for name in ("cloud_factory:build", "rapidash_tn_r3")
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("declared", ["waves", 3, nn.Linear(1, 1)])
def test_kinds_that_nobody_knows_are_refused(declared, monkeypatch):
    monkeypatch.setattr(zoo_signals.Ramp, "input_kind", declared)
    with pytest.raises(ModelError, match=r"`input_kind`=.* of the model is unknown; choose one of"):
        load(NAME)


def test_names_that_guides_have_shown_are_found_where_they_were():
    from liederiv import model_zoo

    for line, now in {
        "from liederiv.model_zoo.store import Store as found": Store,
        "from liederiv.model_zoo.clouds import load_clouds as found": load_clouds,
        "from liederiv.model_zoo.point_models import load_point_model as found": load,
        "import liederiv.model_zoo.store as s; found = s.Store": Store,
    }.items():
        scope = {}
        with pytest.warns(DeprecationWarning, match=r"is now liederiv\.model_zoo\."):
            exec(line, scope)  # noqa: S102
        assert scope["found"] is now
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = model_zoo.store.Nothing


def test_a_kind_is_registered_once():
    class Other(Inputs):
        kind = "images"

    assert register_inputs(zoo_signals.SignalSet) is zoo_signals.SignalSet
    with pytest.raises(LieDerivError, match="kind='images' of Other is the name of ImageSet"):
        register_inputs(Other)
    assert inputs_of_kind("signals") is zoo_signals.SignalSet


def test_features_of_what_has_none_are_refused():
    how = MeasureOptions(num_images=1, transforms="rotation_x", output_type="features")
    loaded = load("rapidash_tn_r3")
    assert len(open_inputs(how, loaded)) == 1
    with pytest.raises(LieDerivError, match="does not declare how its features are laid out"):
        measure_loaded(loaded, ModelOptions(), how)
