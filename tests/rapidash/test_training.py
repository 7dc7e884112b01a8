"""Training: seeded, resumable, honest about its baselines; the command that reproduces weights."""

import json
from dataclasses import replace

import pytest
import torch
import train_rapidash
import typer
from rapidash_study.training import (
    TrainingSettings,
    mean_squared_error,
    predict,
    target_of,
    train,
)
from typer.testing import CliRunner

from liederiv.errors import ModelError
from liederiv.files import write_atomically
from liederiv.model_zoo.inputs.nbody_data import NBodyData, nbody_data
from liederiv.model_zoo.rapidash.variants import variant

VARIANT = variant("rapidash_sen_r3_aug")
SETTINGS = TrainingSettings(epochs=20, batch_size=8, seed=1)


@pytest.fixture(scope="module")
def data() -> dict[str, NBodyData]:
    return {k: nbody_data(k, n).to(torch.float32) for k, n in (("train", 20), ("val", 6))}


def test_training_lowers_the_error_and_depends_on_the_seed_alone(data):
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    model, history = train(VARIANT, data, SETTINGS, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert history["epoch"] == [10, 20]
    untrained, _ = train(VARIANT, data, replace(SETTINGS, epochs=1), progress=False)
    before = mean_squared_error(VARIANT, untrained, data["train"])
    assert mean_squared_error(VARIANT, model, data["train"]) < 0.7 * before
    torch.manual_seed(1)
    again, _ = train(VARIANT, data, SETTINGS, progress=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    other, _ = train(VARIANT, data, replace(SETTINGS, seed=2), progress=False)
    assert not torch.equal(other.net.readout.weight, model.net.readout.weight)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(data, tmp_path, monkeypatch):
    whole, history = train(VARIANT, data, SETTINGS, progress=False)
    path, calls = tmp_path / "a.pt", []

    def stop_after_first(target, write):
        calls.append(write_atomically(target, write))
        raise KeyboardInterrupt

    module = "rapidash_study.training.write_atomically"
    monkeypatch.setattr(module, stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        train(VARIANT, data, SETTINGS, path, progress=False)
    monkeypatch.setattr(module, write_atomically)
    assert torch.load(path, weights_only=True)["epoch"] == 10
    resumed, again = train(VARIANT, data, SETTINGS, path, progress=False)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])
    assert again["val"] == history["val"]
    with pytest.raises(ModelError, match="other settings; remove it"):
        train(VARIANT, data, replace(SETTINGS, learning_rate=1e-3), path, progress=False)


def test_predictions_and_errors_are_per_component(data):
    model = VARIANT.build().eval()
    part = data["val"]
    with torch.no_grad():
        error = (predict(model, part) - part.target).square().mean()
    assert mean_squared_error(VARIANT, model, part, chunk=4) == pytest.approx(float(error))
    distance = variant("rapidash_sen_r3_distance")
    assert torch.equal(target_of(distance, part)[..., 0], part.target.norm(dim=-1))


def test_baselines_know_what_they_say(data):
    found = train_rapidash.baselines(VARIANT, data["train"])
    assert found["still"] == pytest.approx(float(data["train"].target.square().mean()), rel=1e-6)
    assert found["fitted linear"] < min(found["still"], found["linear"])


def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(train_rapidash.main)
    return application


def test_the_command_trains_goes_on_and_collects(tmp_path):
    out, ship = tmp_path / "out", tmp_path / "ship"
    call = ["rapidash_tn_r3", "--output", str(out), "--epochs", "2", "--systems", "5"]
    first = CliRunner().invoke(app(), [*call, "--collect", str(ship)])
    assert first.exit_code == 0, first.output
    assert "rapidash_tn_r3: test error" in first.output
    record = json.loads((out / "rapidash_tn_r3.json").read_text())
    assert record["data"]["systems"] == {"train": 5, "val": 5, "test": 5}
    assert set(record["test"]) == {"aligned", "rotated"}
    assert record["command"].endswith("train_rapidash.py rapidash_tn_r3 --epochs 2 --seed 0")
    assert sorted(p.name for p in ship.iterdir()) == ["rapidash_tn_r3.safetensors", "record.json"]
    assert json.loads((ship / "record.json").read_text()) == [record]
    assert not list(out.glob("*.checkpoint.pt"))
    assert "is finished" in CliRunner().invoke(app(), call).output
    unknown = CliRunner().invoke(app(), ["resnet18", "--output", str(out)])
    assert unknown.exit_code == 2
    assert "fits none of rapidash_tn_r3" in unknown.output
