"""The authors' checkpoints: names, settings, refusals; nothing in a file is executed."""

import argparse
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from rapidash_cases import random_cloud

from liederiv.errors import ModelError
from liederiv.model_zoo.rapidash.checkpoints import load_checkpoint, variant_from_settings
from liederiv.model_zoo.rapidash.presets import PAPER

# Settings as the three training scripts write them, widths made small.
SMALL = {
    "hidden_dim": 6,
    "basis_dim": 5,
    "basis_hidden_dim": 4,
    "degree": 2,
    "widening": 2,
    "layer_scale": None,
    "equivariance": "SEn",
    "skip_connections": False,
    "train_augm": True,
    "lr": 5e-4,
}
CMU = SMALL | {
    "layers": 2,
    "orientations": 4,
    "edge_types": ["fc"],
    "ratios": [],
    "scalar_features": ["pose"],
    "vector_features": ["velocity", "pose"],
    "all_joint_normals": False,
    "z_augm": False,
}
QM9 = SMALL | {
    "layers": 2,
    "orientations": 0,
    "edge_types": ["fc"],
    "ratios": [],
    "equivariance": "Tn",
    "scalar_features": ["coords"],
    "vector_features": [],
    "target": "homo",
}
SHAPENET = SMALL | {
    "hidden_dim": [6, 6],
    "layers": [0, 1],
    "orientations": 4,
    "edge_types": ["knn-3", "fc"],
    "ratios": [0.25],
    "scalar_features": [None],
    "vector_features": ["normals", "pose"],
    "use_category": True,
}
# Names of tensors and their shapes for the CMU settings, written out from the paper's code.
CMU_SHAPES = {
    "sphere_grid": (4, 3),
    "spatial_basis_fn.1.weight": (4, 2 + 4 + 8),
    "spatial_basis_fn.1.bias": (4,),
    "spatial_basis_fn.3.weight": (5, 4),
    "spatial_basis_fn.3.bias": (5,),
    "spherical_basis_fn.1.weight": (4, 3),
    "spherical_basis_fn.1.bias": (4,),
    "spherical_basis_fn.3.weight": (5, 4),
    "spherical_basis_fn.3.bias": (5,),
    "x_embedder.weight": (6, 9 + 1 + 3),
    "readout.weight": (1, 6),
    "readout.bias": (1,),
}
for n in (0, 1):
    CMU_SHAPES |= {
        f"layers.{n}.conv.bias": (6,),
        f"layers.{n}.conv.kernel.weight": (6, 5),
        f"layers.{n}.conv.fiber_kernel.weight": (6, 5),
        f"layers.{n}.conv.pre_linear.weight": (6, 6),
        f"layers.{n}.conv.callibrated": (),
        f"layers.{n}.linear_1.weight": (12, 6),
        f"layers.{n}.linear_1.bias": (12,),
        f"layers.{n}.linear_2.weight": (6, 12),
        f"layers.{n}.linear_2.bias": (6,),
        f"layers.{n}.norm.weight": (6,),
        f"layers.{n}.norm.bias": (6,),
    }


def random_state(shapes: dict[str, tuple[int, ...]], prefix: str = "net.") -> OrderedDict:
    g = torch.Generator().manual_seed(0)
    state = OrderedDict()
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=g)
        state[prefix + name] = torch.tensor(True) if name.endswith("callibrated") else value
    return state


def save_lightning(path, settings, state):
    torch.save(
        {
            "epoch": 3,
            "global_step": 30,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": state,
            "hparams_name": "args",
            "hyper_parameters": settings,
            "callbacks": {"ModelCheckpoint{'monitor': 'val_mse'}": {"best_model_score": None}},
        },
        path,
    )
    return path


@pytest.mark.parametrize("wrap", [dict, lambda s: argparse.Namespace(**s)])
def test_a_lightning_checkpoint_loads_with_its_own_settings(tmp_path, wrap):
    state = random_state(CMU_SHAPES)
    path = save_lightning(tmp_path / "last.ckpt.pt", wrap(CMU), state)
    model, variant = load_checkpoint(path)
    assert variant.name == "rapidash_cmu"
    assert variant.config.num_layers == 2
    assert variant.inputs.scalars == ("pose",)
    for name, tensor in model.net.state_dict().items():
        assert torch.equal(tensor, state["net." + name])
    assert not model.training
    cloud = random_cloud((4, 3))
    pose = torch.eye(3).expand(7, 3, 3)
    vectors = {"velocity": cloud["vec"].float(), "pose": pose}
    assert model.run(cloud["pos"].float(), cloud["batch"], {}, vectors).shape == (7, 3)


@pytest.mark.parametrize("settings", [CMU, QM9, SHAPENET])
def test_what_a_variant_saves_it_loads_again(tmp_path, settings):
    variant = variant_from_settings(settings)
    net = variant.build().net
    state = {"net." + k: v for k, v in net.state_dict().items()}
    path = save_lightning(tmp_path / "a.pt", settings, state)
    again, found = load_checkpoint(path)
    assert found == variant
    for name, tensor in again.net.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])


def test_settings_of_the_scripts_give_the_papers_inputs():
    shapenet = variant_from_settings(SHAPENET)
    assert shapenet.config.input_dim == 16 + 1 + 3
    assert shapenet.config.output_dim == 50
    assert shapenet.config.upsamples
    conventions = (shapenet.config.knn_flow, shapenet.config.window)
    assert conventions == ("send", "invariants")
    qm9 = variant_from_settings(QM9)
    assert qm9.config.input_dim == 11 + 3
    assert (qm9.config.task_level, qm9.config.output_dim) == ("graph", 1)
    assert variant_from_settings(SHAPENET | {"use_category": False}).config.input_dim == 4
    nothing = SHAPENET | {"use_category": False, "vector_features": []}
    assert variant_from_settings(nothing).config.input_dim == 1


def test_a_bare_state_dict_needs_the_configuration(tmp_path):
    variant = variant_from_settings(CMU)
    path = tmp_path / "weights.pt"
    torch.save(random_state(CMU_SHAPES, prefix=""), path)
    model, _ = load_checkpoint(path, variant)
    assert model.net.readout.weight.shape == (1, 6)
    with pytest.raises(ModelError, match="holds no settings"):
        load_checkpoint(path)


def test_a_grid_that_was_not_saved_is_not_made_up(tmp_path):
    shapes = {k: v for k, v in CMU_SHAPES.items() if k != "sphere_grid"}
    path = save_lightning(tmp_path / "a.pt", CMU, random_state(shapes))
    with pytest.raises(ModelError, match="no `sphere_grid`"):
        load_checkpoint(path)
    model, _ = load_checkpoint(path, regular_grid=True)
    assert torch.allclose(model.net.sphere_grid.norm(dim=-1), torch.ones(4))


def test_settings_and_weights_that_do_not_belong_together(tmp_path):
    path = save_lightning(tmp_path / "a.pt", CMU | {"layers": 3}, random_state(CMU_SHAPES))
    with pytest.raises(ModelError, match=r"11 missing \(layers\.2"):
        load_checkpoint(path)
    with pytest.raises(ModelError, match="belong to none of the tasks"):
        variant_from_settings(SMALL)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code in a checkpoint was run",))


def test_settings_are_data(tmp_path):
    path = save_lightning(tmp_path / "a.pt", CMU | {"config": Trap()}, random_state(CMU_SHAPES))
    with pytest.raises(ModelError, match="refused"):
        load_checkpoint(path)


def test_paper_configurations():
    parameters = {}
    for name, variant in PAPER.items():
        parameters[name] = variant.config.input_dim
        assert variant.symmetry.name == "SE(3)"
        assert replace(variant.config) == variant.config
    assert parameters == {"rapidash_shapenet": 20, "rapidash_qm9": 11, "rapidash_cmu": 4}
    assert len(PAPER["rapidash_shapenet"].config.stages) == 16
