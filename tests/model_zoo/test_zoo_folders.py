"""Folders as people have them: links, splits, deep values, pipes, strips, names of any bytes."""

import os

import numpy as np
import pytest
from PIL import Image

from liederiv.errors import ImageError
from liederiv.model_zoo import load_images
from liederiv.model_zoo.decoding import to_mode


def picture(path, colour=(90, 10, 200), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_links_to_class_folders_are_followed(tmp_path):
    picture(tmp_path / "elsewhere" / "0.png")
    picture(tmp_path / "data" / "bee" / "0.png")
    (tmp_path / "data" / "ant").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")  # the same one, twice
    found = load_images(tmp_path / "data")
    assert found.class_names == ("ant", "bee", "cat")
    assert found.labels == (0, 1, 2)


def test_links_that_go_round_end(tmp_path):
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    found = load_images(tmp_path)
    assert found.names == ("a/0.png",)
    assert [name for name, _ in found.skipped] == ["self"]


@pytest.mark.parametrize(
    ("folders", "chosen"),
    [
        (("train", "test"), "test"),
        (("train",), "train"),
        (("training", "Test"), "Test"),
        (("train", "val", "test"), "val"),
        (("Train", "Validation"), "Validation"),
    ],
)
def test_splits_are_no_classes_and_the_one_read_is_said(tmp_path, folders, chosen):
    for folder in folders:
        for name in ("ant", "bee"):
            picture(tmp_path / folder / name / "0.png")
    found = load_images(tmp_path)
    assert found.class_names == ("ant", "bee")
    assert found.labels == (0, 1)
    assert found.source == f"{tmp_path} (its folder {chosen!r})"


def test_a_class_beside_train_makes_them_classes(tmp_path):
    for name in ("train", "bus"):
        picture(tmp_path / name / "0.png")
    assert load_images(tmp_path).class_names == ("bus", "train")


def test_what_is_no_image_is_skipped_with_its_reason(tmp_path):
    picture(tmp_path / "good.png")
    picture(tmp_path / "strip.png", size=(100_000, 2))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "empty.png").touch()
    found = load_images(tmp_path)
    assert found.names == ("good.png",)
    why = dict(found.skipped)
    assert why["pipe.png"] == "is a pipe or a device"
    assert "No such file" in why["gone.png"]
    assert "no photograph" in why["strip.png"]
    assert why["empty.png"]


def test_a_name_of_any_bytes(tmp_path):
    picture(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/bad\xff.png")
    found = load_images(tmp_path)
    assert found.names == ("bad\\xff.png",)
    assert found[0].shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("values", "dtype", "level"),
    [
        (200, np.int32, 200),
        (40_000, np.int32, 156),
        (2**30, np.int32, 128),
        (0.5, np.float32, 128),
        (128.0, np.float32, 128),
        (32_768.0, np.float32, 128),
    ],
)
def test_deep_values_are_scaled_by_a_full_scale(tmp_path, values, dtype, level):
    Image.fromarray(np.full((9, 9), values, dtype)).save(tmp_path / "a.tiff")
    with Image.open(tmp_path / "a.tiff") as image:
        assert np.asarray(to_mode(image, "RGB")).max() == pytest.approx(level, abs=1)


@pytest.mark.parametrize(
    ("values", "dtype"), [(-5, np.int32), (-0.5, np.float32), (1e9, np.float32)]
)
def test_values_without_a_scale_are_refused(tmp_path, values, dtype):
    Image.fromarray(np.full((9, 9), values, dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match=r"negative values|whose full scale nobody states"):
        load_images(tmp_path)
