"""Images: built-in photographs, folders, labels, data sets, and files that are no images."""

import importlib.util
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from liederiv.errors import ImageError
from liederiv.model_zoo import DataConfig, load_images
from liederiv.model_zoo.inputs.decoding import decode, to_mode
from liederiv.model_zoo.inputs.image_datasets import _list_items
from liederiv.model_zoo.inputs.photographs import CROPS, PHOTOGRAPHS

SMALL = DataConfig((3, 32, 32))
RAW = DataConfig((3, 8, 8), crop_pct=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="nearest")


def write_image(path, colour, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Four images of known colour, a truncated one, a text file and a hidden file."""
    for i in range(4):
        write_image(tmp_path / f"img{i + 8}.png", (10 * i, 0, 0))
    write_image(tmp_path / "sub" / "deep.jpg", (0, 255, 0))
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").write_text("no image")
    return tmp_path


def test_samples_are_deterministic_and_start_with_distinct_photographs():
    first, again = load_images(data_config=SMALL), load_images(data_config=SMALL, seed=1)
    assert len(first) == len(PHOTOGRAPHS) * len(CROPS) == len(set(first.names))
    assert first.fingerprint == again.fingerprint
    assert first.names == again.names
    assert first.skipped == ()
    x = torch.cat([images for images, _ in first.batches(16)])
    y = torch.cat([images for images, _ in again.batches(7)])
    assert torch.equal(x, y)
    assert x.shape == (len(first), 3, 32, 32)
    assert x.dtype == torch.float32
    photographs = first.names[: len(PHOTOGRAPHS)]
    assert len(photographs) >= 8
    assert not any("/" in name for name in photographs)
    distances = torch.cdist(x.flatten(1), x.flatten(1)) + 1e9 * torch.eye(len(x))
    assert distances.min() > 1.0  # no crop equals another


def test_first_samples_are_a_prefix_of_all():
    few, many = load_images(num_images=3, data_config=SMALL), load_images(data_config=SMALL)
    assert few.names == many.names[:3]
    assert torch.equal(few[2], many[2])
    assert few.fingerprint != many.fingerprint
    assert len(load_images(num_images=10_000, data_config=SMALL)) == len(many)


def test_samples_without_scikit_image(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"pip install 'liederiv\[samples\]'"):
        load_images()


def test_folder_skips_and_names_what_is_no_image(folder):
    images = load_images(folder, RAW)
    assert images.names == ("img8.png", "img9.png", "img10.png", "img11.png", "sub/deep.jpg")
    assert images.labels is None
    assert [name for name, _ in images.skipped] == ["cut.jpg", "notes.txt"]
    reasons = dict(images.skipped)
    assert "cannot be decoded" in reasons["cut.jpg"]
    assert reasons["notes.txt"] == "not an image"
    batches = list(images.batches(2))
    assert [len(x) for x, _ in batches] == [2, 2, 1]
    assert [labels for _, labels in batches] == [None] * 3
    red = torch.cat([x for x, _ in batches])[:4, 0, 0, 0] * 255
    torch.testing.assert_close(red, torch.tensor([0.0, 10.0, 20.0, 30.0]))


def test_subsample_follows_the_seed_and_leaves_the_global_state(folder):
    before = torch.get_rng_state()
    chosen = {seed: load_images(folder, RAW, num_images=2, seed=seed).names for seed in range(8)}
    assert torch.equal(torch.get_rng_state(), before)
    assert all(len(names) == 2 for names in chosen.values())
    assert len(set(chosen.values())) > 1
    assert load_images(folder, RAW, num_images=2, seed=3).names == chosen[3]


def test_fingerprint_is_of_the_content_and_not_of_the_names(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / name / f"{name}.png", (1, 2, 3))
    write_image(tmp_path / "c" / "a.png", (1, 2, 4))
    prints = [load_images(tmp_path / name, RAW).fingerprint for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_class_folders_give_labels_in_natural_order(tmp_path):
    for name, colour in (("2", 20), ("10", 100), ("1", 10)):
        write_image(tmp_path / name / "x.png", (colour, 0, 0))
    images = load_images(tmp_path, RAW)
    assert images.class_names == ("1", "2", "10")
    ((x, labels),) = images.batches(3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2]
    torch.testing.assert_close(x[:, 0, 0, 0] * 255, torch.tensor([10.0, 20.0, 100.0]))


def test_imagenet_synsets_have_imagenets_indices(tmp_path):
    for synset in ("n02123045", "n07930864"):  # tabby, cup
        write_image(tmp_path / "val" / synset / "x.png", (0, 0, 0))
    write_image(tmp_path / "train" / "n02123045" / "x.png", (0, 0, 0))
    images = load_images(tmp_path, RAW)
    assert images.labels == (281, 968)
    assert len(images.class_names) == 1000
    train = load_images(tmp_path / "train", RAW)
    assert train.labels is None  # a single class is no classification
    assert load_images(tmp_path, RAW, split="train").names == ("n02123045/x.png",)
    with pytest.raises(ImageError, match="has no subfolder for `split`='test'; leave it out"):
        load_images(tmp_path, RAW, split="test")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "holds no files; give a folder with images"),
        ("texts", r"holds 1 files, none an image \(a\.txt: not an image\)"),
        ("texts/a.txt", "is a file; give the folder that holds it"),
        ("nowhere", "does not exist; give 'samples', a folder, or a timm data set"),
    ],
)
def test_sources_without_images(tmp_path, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    with pytest.raises(ImageError, match=message) as info:
        load_images(tmp_path / source)
    assert "\n" not in str(info.value)


def test_bad_numbers(folder):
    for number in (0, -3):
        with pytest.raises(ImageError, match=rf"`num_images` must be at least 1, got {number}"):
            load_images(folder, num_images=number)
    with pytest.raises(ImageError, match="`batch_size` must be at least 1, got 0"):
        next(load_images(folder).batches(0))
    config = DataConfig((5, 8, 8), mean=(0.0,) * 5, std=(1.0,) * 5)
    with pytest.raises(ImageError, match=r"Photographs have 1 or 3 channels, .* has 5"):
        load_images(folder, config)


def test_an_image_that_vanishes_later_is_an_error(folder):
    images = load_images(folder, RAW)
    (folder / "img9.png").unlink()
    with pytest.raises(ImageError, match=r"Image img9\.png of .* can no longer be read"):
        list(images.batches(4))


def test_sequence_protocol_and_pickling(folder):
    images = load_images(folder, RAW)
    assert len(images[1:3]) == 2
    assert torch.equal(images[-1], list(images)[-1])
    copy = pickle.loads(pickle.dumps(images))
    assert copy.fingerprint == images.fingerprint
    assert torch.equal(copy[0], images[0])


def test_grey_models_get_grey_images(folder):
    config = DataConfig((1, 8, 8), mean=(0.0,), std=(1.0,))
    images = load_images(folder, config)
    assert images[4].shape == (1, 8, 8)
    assert images[4].mean().item() == pytest.approx(150 / 255, abs=0.01)  # luminance of green


def test_data_config_is_applied(tmp_path):
    write_image(tmp_path / "a.png", (255, 128, 0), size=(40, 20))
    config = DataConfig((3, 16, 24), mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    x = load_images(tmp_path, config)[0]
    assert x.shape == (3, 16, 24)
    expected = torch.tensor([1.0, 128 / 255 - 0.25, 0.0])
    torch.testing.assert_close(x.mean((1, 2)), expected, rtol=1e-5, atol=1e-6)


def test_exif_orientation_is_respected(tmp_path):
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8, 0] = 255  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(decode(tmp_path / "a.png"))
    assert upright.shape == (16, 8, 3)
    assert upright[:8, :, 0].min() == 255
    assert upright[8:, :, 0].max() == 0


def modes():
    ramp16 = np.array([[0, 257 * 128, 65535]], dtype=np.uint16)
    transparent = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    palette = Image.new("P", (3, 1), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    see_through = palette.copy()
    see_through.info["transparency"] = 1
    return {
        "16-bit": (Image.fromarray(ramp16), [0, 128, 255]),
        "32-bit holding 8": (
            Image.fromarray(np.array([[0, 128, 255]], dtype=np.int32)),
            [0, 128, 255],
        ),
        "float": (Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)), [0, 128, 255]),
        "grey": (Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8)), [0, 128, 255]),
        "transparent": (transparent, [255] * 3),
        "palette": (palette, [200] * 3),
        "transparent palette": (see_through, [255] * 3),
        "one bit": (Image.new("1", (3, 1), 1), [255] * 3),
        "cmyk": (Image.new("CMYK", (3, 1), (0, 0, 0, 0)), [255] * 3),
    }


@pytest.mark.parametrize("name", modes())
def test_every_mode_becomes_rgb(name):
    image, red = modes()[name]
    converted = to_mode(image, "RGB")
    assert converted.mode == "RGB"
    assert np.asarray(converted)[0, :, 0].tolist() == red


def test_16_bit_file_and_first_frame_of_an_animation(tmp_path):
    ramp = Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.uint16))
    ramp.save(tmp_path / "deep.png")
    assert np.asarray(decode(tmp_path / "deep.png"))[0, :, 1].tolist() == [0, 128, 255]
    frames = [Image.new("RGB", (3, 3), (c, 0, 0)) for c in (255, 0)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(tmp_path / "a.gif"))[0, 0].tolist() == [255, 0, 0]


def test_an_image_too_large_to_trust_is_skipped(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="too large for an image that can be trusted"):
        load_images(folder, RAW)


@pytest.mark.parametrize(
    ("name", "package"),
    [("hfds/x", "datasets"), ("tfds/x", "tensorflow-datasets"), ("wds/x", "webdataset")],
)
def test_data_set_whose_reader_is_missing(monkeypatch, name, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=f"needs the package {package}; pip install {package}"):
        load_images(name)


def test_data_set_that_is_absent(tmp_path):
    with pytest.raises(ImageError, match=r"is read from a folder; give it with `data_dir`"):
        load_images("torch/cifar10")
    with pytest.raises(ImageError, match=r"cannot be opened in .*not found or corrupted") as info:
        load_images("torch/cifar10", data_dir=tmp_path)
    assert "\n" not in str(info.value)
    with pytest.raises(ImageError, match=r"cannot be opened in .*Unknown torchvision dataset"):
        load_images("torch/no_such_set", data_dir=tmp_path)


def test_timm_data_set_with_labels(tmp_path):
    for i, name in enumerate(("ant", "bee", "cow")):
        write_image(tmp_path / name / "x.png", (100 * i, 0, 0))
    images = load_images("torch/image_folder", RAW, data_dir=tmp_path)
    assert images.labels == (0, 1, 2)
    assert images.class_names == ("ant", "bee", "cow")
    assert images.names[1] == "torch/image_folder[1]"
    few = load_images("torch/image_folder", RAW, num_images=2, data_dir=tmp_path)
    assert len(few) == 2


def test_streams_are_cut_and_need_a_number():
    stream = ((Image.new("RGB", (9, 9), (i, 0, 0)), i - 1) for i in range(100))
    items = _list_items("wds/x", stream, 3)
    assert [item.read("RGB")[1] for item in items] == [None, 0, 1]
    assert len({item.identity() for item in items}) == 3
    with pytest.raises(ImageError, match="'wds/x' is a stream; say how many images"):
        _list_items("wds/x", stream, None)
