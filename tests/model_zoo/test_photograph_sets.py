"""Images of a folder as photographs: what the camera is given, and what it is not."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import liederiv
from liederiv import LieDerivError
from liederiv.model_zoo import DataConfig, load_images
from liederiv.model_zoo.inputs.images import PhotographSet

CONFIG = DataConfig(input_size=(3, 24, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def picture(path, size, seed):
    noise = np.random.default_rng(seed).integers(60, 190, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    picture(tmp_path / "cat" / "a.png", (120, 97), 0)
    picture(tmp_path / "dog" / "b.png", (80, 140), 1)
    return tmp_path


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 2)).eval()


def test_photographs_of_a_folder(folder):
    images = load_images(folder, CONFIG)
    photographs = images.photographs
    assert (photographs.names, photographs.labels) == (("cat/a.png", "dog/b.png"), (0, 1))
    gap = (photographs.images - torch.stack(images[:])).abs() * torch.tensor(CONFIG.std)[
        :, None, None
    ]
    assert gap.max() * 255 < 1.3, "what 8 bits round"
    assert photographs.images.unique().numel() > torch.stack(images[:]).unique().numel()
    some = liederiv.lie_derivative(net(), photographs[1:], "rotation", scheme="camera")
    every = liederiv.lie_derivative(net(), photographs, "rotation", scheme="camera")
    assert torch.allclose(some[:, 0], every[:, 1], rtol=1e-4, atol=1e-7)
    found = liederiv.measure(net(), photographs, "translation", "lee,accuracy", scheme="camera")
    assert found.image_names == photographs.names
    assert found.get("accuracy", "none").value is not None


def test_a_set_moves_with_its_own_camera(folder):
    images = load_images(folder, CONFIG)
    moving = images.photographed()
    assert isinstance(moving, PhotographSet)
    assert torch.equal(torch.stack(moving[:]), images.photographs.images)
    assert moving.scheme("camera") is moving.camera
    assert images.scheme("bspline") == "bspline"


def test_what_the_camera_cannot_move(folder):
    picture(folder / "cat" / "tiny.png", (50, 60), 2)
    with pytest.raises(LieDerivError, match=r"1 of 3 photographs are too small .*cat/tiny.png"):
        load_images(folder, CONFIG).photographed()
    config = CONFIG.override(interpolation="nearest")
    with pytest.raises(LieDerivError, match="'nearest' is no weighted mean"):
        _ = load_images(folder, config).photographs


def test_a_pipeline_that_does_something_else_is_seen(folder, monkeypatch):
    images = load_images(folder, CONFIG)
    monkeypatch.setattr("liederiv.grids.pipeline._offset", lambda resized, size: 0)
    with pytest.raises(LieDerivError, match="makes something else of cat/a"):
        images.photographed()
