"""Trained variants by name, their record, and the data sets they are measured on."""

import builtins
import json

import numpy as np
import pytest
import torch
from rapidash_study.training import mean_squared_error, predict
from typer.testing import CliRunner

from liederiv.cli import app
from liederiv.errors import ModelError, PointCloudError
from liederiv.model_zoo import LoadedPointModel, list_models, load, load_clouds
from liederiv.model_zoo.inputs.clouds import nbody_cloud
from liederiv.model_zoo.inputs.nbody_data import nbody_data, random_rotations
from liederiv.model_zoo.rapidash import RapidashConfig
from liederiv.model_zoo.rapidash.inputs import RapidashInputs, RapidashOnClouds
from liederiv.model_zoo.rapidash.variants import VARIANTS, variant
from liederiv.model_zoo.sources.rapidash_models import training_records
from liederiv.points import Scalars, Vectors


def test_every_variant_ships_with_weights_and_record():
    names = [e.name for e in list_models("rapidash_*", pretrained=True)]
    assert names == list(VARIANTS)
    assert len(names) >= 8
    for name in names:
        loaded = load(name)
        assert isinstance(loaded, LoadedPointModel)
        assert not loaded.model.training
        assert not any(p.requires_grad for p in loaded.model.parameters())
        record = training_records()[name]
        assert RapidashConfig(**record["config"]) == loaded.variant.config
        assert RapidashInputs(**record["inputs"]) == loaded.variant.inputs
        assert record["test"]["aligned"] < 0.5 * record["baselines"]["fitted linear"]
    # On aligned data both frames are the axes, so these two are one network fed in two ways.
    same = {"rapidash_sen_r3s2_pose", "rapidash_sen_r3s2_fixedpose"}
    assert len({load(n).weights_fingerprint for n in same}) == 1
    assert len({load(n).weights_fingerprint for n in names}) == len(names) - 1


@pytest.mark.parametrize("name", ["rapidash_sen_r3s2", "rapidash_tn_r3_aug"])
def test_the_records_error_is_the_error_of_the_shipped_weights(name):
    """On the first 200 of 2000 test systems, within what that sample can say."""
    loaded, record = load(name), training_records()[name]
    data = nbody_data("test", 200).to(torch.float32)
    error = mean_squared_error(loaded.variant, loaded.model, data)
    assert error == pytest.approx(record["test"]["aligned"], rel=0.5)


def test_model_on_clouds_is_the_model_on_tensors():
    loaded = load("rapidash_sen_r3s2_pose")
    data = nbody_data("test", 3).to(torch.float32)
    cloud = nbody_cloud(data)
    assert torch.allclose(loaded.model(cloud), predict(loaded.model, data).reshape(-1, 3))
    assert loaded.model.output_representation == Vectors("node")
    assert load("rapidash_sen_r3_distance").model.output_representation == Scalars("node")


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = load("rapidash_tn_r3", pretrained=False, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert load("rapidash_tn_r3", pretrained=False, seed=3).weights_fingerprint == (
        one.weights_fingerprint
    )
    assert load("rapidash_tn_r3", pretrained=False).weights_fingerprint != one.weights_fingerprint


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load("rapidash_se_r3s2"), "did you mean rapidash_sen_r3s2"),
        (lambda: load("rapidash_qm9"), "no weights of 'rapidash_qm9' ship"),
        (lambda: load("rapidash_tn_r3", img_size=64), "`img_size` is for models on images"),
        (lambda: variant("rapidash_x"), "no trained Rapidash variant"),
        (lambda: RapidashInputs(scalars=("colour",)), "`scalars` has 'colour'"),
    ],
)
def test_refusals_of_models(call, message):
    with pytest.raises(ModelError, match=message):
        call()


def test_refusals_of_inputs():
    config = RapidashConfig(2, 4, 3, 1, num_ori=0)
    with pytest.raises(ModelError, match="`input_dim`=2, but the inputs have 1"):
        RapidashOnClouds(config, RapidashInputs((("charge", 1),)))
    with pytest.raises(ModelError, match="need orientations"):
        RapidashOnClouds(config, RapidashInputs((("charge", 1),), (), ("velocity",)))
    with pytest.raises(ModelError, match="'vector' needs output_dim=0"):
        RapidashOnClouds(
            RapidashConfig(1, 4, 3, 1), RapidashInputs((("charge", 1),)), output="vector"
        )
    inputs = RapidashInputs((("mass", 1),))
    with pytest.raises(ModelError, match=r"no field 'mass' among its scalars \(it has 'charge'\)"):
        inputs.assemble(torch.zeros(2, 3), {"charge": torch.zeros(2, 1)}, {})
    with pytest.raises(ModelError, match="has 2 channels, but the network takes 1"):
        inputs.assemble(torch.zeros(2, 3), {"mass": torch.zeros(2, 2)}, {})


def test_clouds_by_name():
    found = load_clouds("nbody", 3)
    assert len(found) == len(found.names) == 3
    assert found.clouds.sizes.tolist() == [5, 5, 5]
    turned = load_clouds("nbody-rotated", 3, seed=2).clouds
    R = random_rotations(3, 2).float()[found.clouds.batch]
    want = torch.einsum("nij,nj->ni", R, found.clouds.pos)
    assert torch.allclose(turned.pos, want, atol=1e-5)
    pose = torch.einsum("nij,nkj->nki", R, found.clouds.vectors["pose"])
    assert torch.allclose(turned.vectors["pose"], pose, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("moons", {}, "`source`='moons' is unknown"),
        ("nbody", {"split": "all"}, "`split`='all' is unknown"),
        ("nbody", {"num_clouds": 0}, "`num_clouds`=0"),
        ("qm9", {}, "'qm9' is read from a folder"),
    ],
)
def test_refusals_of_clouds(source, options, message):
    with pytest.raises(PointCloudError, match=message):
        load_clouds(source, **options)


@pytest.mark.parametrize("source", ["shapenet", "qm9"])
def test_a_folder_without_the_data_is_told_apart_before_any_download(tmp_path, source):
    pytest.importorskip("torch_geometric", exc_type=ImportError)
    with pytest.raises(PointCloudError, match="download it once with torch_geometric"):
        load_clouds(source, data_dir=tmp_path)


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("torch_geometric"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    import importlib

    monkeypatch.setattr(importlib, "import_module", lambda name: refuse(name))
    with pytest.raises(PointCloudError, match=r"pip install 'liederiv\[pointclouds\]'"):
        load_clouds("qm9", data_dir=tmp_path)


def write_shapenet(root, objects: int = 2) -> None:
    """A folder as PyTorch Geometric keeps it, with a few small objects."""
    from torch_geometric.datasets import ShapeNet

    rng, lists = np.random.default_rng(0), {"train": [], "val": [], "test": []}
    raw = root / "raw"
    for category in ShapeNet.category_ids.values():
        (raw / category).mkdir(parents=True)
    for split, names in lists.items():
        for i in range(objects):
            category = ShapeNet.category_ids["Chair" if i else "Airplane"]
            rows = rng.normal(size=(40 + i, 7))
            rows[:, 6] = 1
            np.savetxt(raw / category / f"{split}{i}.txt", rows)
            names.append(f"shape_data/{category}/{split}{i}")
    (raw / "train_test_split").mkdir()
    for split, names in lists.items():
        path = raw / "train_test_split" / f"shuffled_{split}_file_list.json"
        path.write_text(json.dumps(names))


@pytest.mark.filterwarnings("ignore")
def test_shapenet_objects_go_through_the_papers_network(tmp_path, capfd):
    pytest.importorskip("torch_geometric", exc_type=ImportError)
    write_shapenet(tmp_path)
    found = load_clouds("shapenet", 2, data_dir=tmp_path).clouds
    assert found.sizes.tolist() == [40, 41]
    assert float(found.pos.abs().max()) == pytest.approx(1, abs=1e-4)
    assert found.scalars["category"][[0, 40]].argmax(1).tolist() == [0, 4]
    model = load("rapidash_shapenet", pretrained=False).model
    with torch.no_grad():
        assert model(found).shape == (81, 50)


@pytest.mark.filterwarnings("ignore")
def test_qm9_molecules_go_through_the_papers_network(tmp_path, capfd):
    pytest.importorskip("torch_geometric", exc_type=ImportError)
    (tmp_path / "raw").mkdir()
    rows = [
        {"x": torch.rand(3, 11), "pos": torch.rand(3, 3), "y": torch.rand(1, 19), "z": i}
        for i in range(2000)
    ]
    torch.save(rows, tmp_path / "raw" / "qm9_v3.pt")
    found = load_clouds("qm9", 2, data_dir=tmp_path, split="train").clouds
    order = np.random.RandomState(42).permutation(130831)[:110000]
    first = next(int(i) for i in order if i < 2000)
    assert torch.equal(found.pos[:3], rows[first]["pos"])
    model = load("rapidash_qm9", pretrained=False).model
    with torch.no_grad():
        assert model(found).shape == (2, 1)


def test_cmu_poses_go_through_the_papers_network(tmp_path):
    rng = np.random.default_rng(0)
    pos = rng.normal(size=(4, 31, 3))
    with pytest.raises(PointCloudError, match="does not exist; save the arrays test_pos"):
        load_clouds("cmu", data_dir=tmp_path)
    np.savez(tmp_path / "cmu_motion.npz", test_pos=pos)
    with pytest.raises(PointCloudError, match="no array 'test_velocity'"):
        load_clouds("cmu", data_dir=tmp_path)
    np.savez(tmp_path / "cmu_motion.npz", test_pos=pos, test_velocity=pos)
    found = load_clouds("cmu", 2, data_dir=tmp_path).clouds
    model = load("rapidash_cmu", pretrained=False).model
    with torch.no_grad():
        assert model(found).shape == (62, 3)


def test_the_command_line_lists_every_variant_once():
    found = CliRunner().invoke(app, ["models", "rapidash_*", "--names-only"])
    assert found.exit_code == 0
    assert found.output.split() == [*VARIANTS, "rapidash_shapenet", "rapidash_qm9", "rapidash_cmu"]
