"""Folders as people have them: links, splits, odd files, odd names, odd pixels."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from liederiv.errors import ImageError
from liederiv.model_zoo import DataConfig, load_images
from liederiv.model_zoo.inputs import image_folders
from liederiv.model_zoo.inputs.decoding import decode, to_mode
from liederiv.model_zoo.inputs.image_datasets import _as_label, _list_items

RAW = DataConfig((3, 8, 8), crop_pct=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="nearest")


def write(path, colour=(9, 99, 9), size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def tree(root, *names):
    for i, name in enumerate(names):
        write(root / name, (i, 2 * i, 3 * i))
    return root


def test_links_to_class_folders_are_classes(tmp_path):
    store, mixed, links = tmp_path / "store", tmp_path / "mixed", tmp_path / "links"
    tree(store, "a/1.png", "b/2.png", "b/deep/3.png")
    tree(mixed, "bee/4.png")
    links.mkdir()
    (mixed / "ant").symlink_to(store / "a")
    (links / "x").symlink_to(store / "a")
    (links / "y").symlink_to(store / "b")
    found = load_images(mixed, RAW)
    assert found.class_names == ("ant", "bee")
    assert found.labels == (0, 1)
    found = load_images(links, RAW)
    assert found.names == ("x/1.png", "y/2.png", "y/deep/3.png")
    assert found.labels == (0, 1, 1)
    assert found.skipped == ()
    (tmp_path / "whole").symlink_to(links)
    assert load_images(tmp_path / "whole", RAW).fingerprint == found.fingerprint


def test_two_links_to_one_folder_are_two_classes(tmp_path):
    tree(tmp_path / "store", "1.png")
    (tmp_path / "d").mkdir()
    for name in ("a", "b"):
        (tmp_path / "d" / name).symlink_to(tmp_path / "store")
    assert load_images(tmp_path / "d", RAW).labels == (0, 1)


def test_links_that_lead_back_end_and_are_named(tmp_path):
    tree(tmp_path / "d", "a/1.png", "b/2.png")
    (tmp_path / "d" / "a" / "up").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "b" / "self").symlink_to(tmp_path / "d" / "b")
    (tmp_path / "d" / "a" / "other").symlink_to(tmp_path / "d" / "b")
    (tmp_path / "d" / "b" / "other").symlink_to(tmp_path / "d" / "a")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d" / "loop")
    found = load_images(tmp_path / "d", RAW)
    assert found.class_names == ("a", "b")
    assert found.names == ("a/1.png", "a/other/2.png", "b/2.png", "b/other/1.png")
    reasons = dict(found.skipped)
    assert reasons["a/up"] == reasons["b/self"] == "a link back to a folder around it"
    assert reasons["loop"].startswith("cannot be read (")


def test_folders_that_link_at_each_other_without_end_are_refused(tmp_path, monkeypatch):
    names = [chr(97 + i) for i in range(8)]
    for one in names:
        write(tmp_path / one / "1.png")
        for other in names:
            (tmp_path / one / f"to_{other}").symlink_to(tmp_path / other)
    monkeypatch.setattr(image_folders, "MAX_FILES", 10_000)
    with pytest.raises(ImageError, match=r"leads to more than 10,000 files, as links that point"):
        load_images(tmp_path, RAW)


SPLITS = {
    "validation": (["train/a", "train/b", "val/a", "val/b", "test/a"], "val", ("a", "b")),
    "test before train": (["train/a", "train/b", "test/a", "test/b"], "test", ("a", "b")),
    "train alone": (["train/a", "train/b"], "train", ("a", "b")),
    "capitals": (["Train/a", "Train/b", "Test/a", "Test/b"], "Test", ("a", "b")),
    "without classes": (["train", "test"], "test", ()),
    "beside a folder of other pictures": (["train/a", "train/b", "test/a", "misc"], "test", ()),
    "further down": (["x/y/train/a", "x/y/train/b", "x/y/testing/a"], "testing", ()),
    "a class called train": (["bus", "car", "train"], None, ("bus", "car", "train")),
    "a class called test": (["test", "case"], None, ("case", "test")),
    "splits within classes": (["cat/train", "cat/test", "dog/train"], None, ("cat", "dog")),
}


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_no_classes_and_the_choice_is_said(tmp_path, name):
    folders, chosen, classes = SPLITS[name]
    tree(tmp_path, *(f"{folder}/{i}.png" for i, folder in enumerate(folders)))
    found = load_images(tmp_path, RAW)
    assert found.class_names == classes
    if chosen is None:
        assert (found.notes, found.source) == ((), str(tmp_path))
        assert len(found) == len(folders)
    else:
        inner = f"x/y/{chosen}" if name == "further down" else chosen
        assert found.source == f"{tmp_path} (its folder {inner!r})"
        assert len(found) == sum(f"/{chosen}/" in f"/{folder}/" for folder in folders)
        assert len(found.notes) == ("misc" in folders)
        assert all("misc was left out" in note for note in found.notes)


def test_a_split_can_be_named(tmp_path):
    tree(tmp_path, "train/a/0.png", "train/b/1.png", "test/a/2.png", "data/hold_out/3.png")
    for split, names in {
        "train": ("a/0.png", "b/1.png"),
        "test": ("a/2.png",),
        "testing": ("a/2.png",),
        "data/hold_out": ("3.png",),
    }.items():
        found = load_images(tmp_path, RAW, split=split)
        assert found.names == names
        assert found.notes == ()
    assert load_images(tmp_path / "train", RAW).labels == (0, 1)
    for split in ("val", "x" * 300, "a\0b", "no\x1b[31m"):
        with pytest.raises(ImageError, match="has no subfolder for `split`=") as info:
            load_images(tmp_path, RAW, split=split)
        assert "\x1b" not in str(info.value)


def test_a_split_may_be_a_link(tmp_path):
    tree(tmp_path, "store/a/0.png", "store/b/1.png", "d/train/a/2.png", "d/train/b/3.png")
    (tmp_path / "d" / "val").symlink_to(tmp_path / "store")
    found = load_images(tmp_path / "d", RAW)
    assert found.names == ("a/0.png", "b/1.png")
    assert found.source.endswith("(its folder 'val')")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_picture_is_skipped_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    tree(tmp_path, "good.png")
    os.mkfifo("pipe.png")
    Path("dangling.png").symlink_to("nothing.png")
    Path("empty.png").touch()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
    Path("device.png").symlink_to("/dev/null")
    write(Path("one.png"), size=(1, 1))
    write(Path("thin.png"), size=(1, 5000))
    write(Path("long.png"), size=(4, 4000))
    found = load_images(tmp_path, RAW)
    assert found.names == ("good.png",)
    reasons = dict(found.skipped)
    assert reasons == {
        "pipe.png": "is a pipe or a device",
        "dangling.png": "a link to nothing",
        "empty.png": "empty (0 bytes)",
        "socket.png": "is a pipe or a device",
        "device.png": "is a pipe or a device",
        "one.png": "1 × 1 pixels are no photograph",
        "thin.png": "1 × 5000 pixels are no photograph",
        "long.png": "4 × 4000 pixels are no photograph",
    }
    (x,) = (images for images, _ in found.batches(4))
    assert x.shape == (1, 3, 8, 8)


def test_an_image_that_claims_to_be_huge_is_skipped(tmp_path):
    tree(tmp_path, "good.png")
    header = bytearray((tmp_path / "good.png").read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(header)
    found = load_images(tmp_path, RAW)
    assert dict(found.skipped) == {"bomb.png": "too large for an image that can be trusted"}


def test_files_and_folders_without_permission(tmp_path, monkeypatch):
    tree(tmp_path, "a/good.png", "b/locked.png", "c/1.png")
    before, listing = Image.open, os.listdir

    def guarded(path, *args, **kwargs):
        if str(path).endswith("locked.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, *args, **kwargs)

    def guarded_listing(path="."):
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(Image, "open", guarded)
    monkeypatch.setattr(os, "listdir", guarded_listing)
    found = load_images(tmp_path, RAW)
    assert found.names == ("a/good.png",)
    assert dict(found.skipped) == {
        "b/locked.png": "cannot be read (Permission denied)",
        "c": "folder cannot be opened (Permission denied)",
    }
    with pytest.raises(ImageError, match=r"cannot be opened \(Permission denied\); check its perm"):
        load_images(tmp_path / "c", RAW)


def test_names_of_any_bytes(tmp_path):
    write(tmp_path / "a" / "x.png")
    folder, name = os.fsencode(tmp_path) + b"/b\xfe", b"/bad\xff\x1b[31m.png"
    os.mkdir(folder)
    os.rename(os.fsencode(tmp_path / "a" / "x.png"), folder + name)
    write(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "no\n\x1b[1m.txt").write_text("text")
    found = load_images(tmp_path, RAW)
    assert found.class_names == ("a", "b\\xfe")
    assert found.names == ("a/x.png", "b\\xfe/bad\\xff\\x1b[31m.png")
    assert all("\x1b" not in n and "\n" not in n for n, _ in found.skipped)
    assert len(list(found)) == 2
    str(found).encode()


@pytest.mark.parametrize("source", ["~nosuchuser/x", "x" * 5000, "a\0b", "/dev/null", ""])
def test_paths_that_are_none(source):
    with pytest.raises(ImageError, match=r"is no path|does not exist|is neither a folder") as info:
        load_images(source, RAW)
    assert "\n" not in str(info.value)


def saved(tmp_path, array, name="x.tif", **options):
    Image.fromarray(array, **options).save(tmp_path / name)
    return decode(tmp_path / name)


def red(image):
    return np.asarray(image)[0, :, 0].tolist()


def test_deep_pixels_are_scaled_by_the_rule(tmp_path):
    deep = saved(tmp_path, np.array([[0, 300, 65535]], dtype=np.int32))
    assert red(deep) == [0, 1, 255]
    assert deep.info["liederiv_scale"] == "32-bit pixels were scaled by a full scale of 65535"
    assert red(saved(tmp_path, np.array([[0, 128, 255]], dtype=np.int32))) == [0, 128, 255]
    assert red(saved(tmp_path, np.array([[0, 0.5, 1]], dtype=np.float32))) == [0, 128, 255]
    assert red(saved(tmp_path, np.array([[0, 100, 255]], dtype=np.float32))) == [0, 100, 255]
    largest = saved(tmp_path, np.array([[0, 2**30, 2**31 - 1]], dtype=np.int32))
    assert red(largest) == [0, 128, 255]
    assert largest.info["liederiv_scale"].endswith("by a full scale of 2147483647")
    for name in ("x.tif", "x.png"):
        sixteen = saved(tmp_path, np.array([[0, 200, 65535]], dtype=np.uint16), name)
        assert red(sixteen) == [0, 1, 255]
        assert "liederiv_scale" not in sixteen.info


@pytest.mark.parametrize(
    "array",
    [
        np.array([[-1, 0, 255]], dtype=np.int32),
        np.array([[-0.5, 0, 1]], dtype=np.float32),
        np.array([[0, 1, 1e9]], dtype=np.float32),
        np.array([[0, 1, np.nan]], dtype=np.float32),
        np.array([[0, 1, np.inf]], dtype=np.float32),
    ],
)
def test_deep_pixels_without_a_known_range_are_refused(tmp_path, array):
    with pytest.raises(ImageError, match=r"nobody knows the full scale|NaN or infinite"):
        saved(tmp_path, array)


def test_unsigned_32_bits_do_not_wrap(tmp_path):
    signed = np.array([[0, 1, 2]], dtype=np.int32)
    Image.fromarray(signed).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    at = content.index(signed.tobytes())
    content[at : at + 12] = np.array([0, 1, 2**32 - 1], dtype="<u4").tobytes()
    form = content.index(bytes([0x53, 0x01, 3, 0, 1, 0, 0, 0, 2, 0]))
    content[form + 8] = 1  # SampleFormat: unsigned
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(ImageError, match=r"32-bit pixels from 0 to 4\.29497e"):
        decode(tmp_path / "x.tif")


def test_a_set_says_by_what_rule_it_was_scaled(tmp_path):
    for i, peak in enumerate((200, 60_000, 100)):
        image = Image.fromarray(np.full((9, 9), peak, dtype=np.int32))
        image.save(tmp_path / f"{i}.tif")
    assert load_images(tmp_path, RAW).notes == (
        "2 images with 32-bit pixels were scaled by a full scale of 255",
        "1 images with 32-bit pixels were scaled by a full scale of 65535",
        "full scale differs between these images; save them as 8 or 16 bits",
    )


def test_transparency_and_orientation_of_every_mode(tmp_path):
    for mode, colour in {"LA": (0, 0), "RGBA": (0, 0, 0, 0), "PA": None}.items():
        image = Image.new("RGBA", (3, 3), (0, 0, 0, 0)) if colour is None else None
        image = Image.new(mode, (3, 3), colour) if image is None else image.convert("PA")
        assert red(to_mode(image, "RGB")) == [255] * 3
    palette = Image.new("P", (3, 3), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=bytes([255, 0]))
    assert red(decode(tmp_path / "p.png")) == [10, 255, 10]
    grey = Image.new("L", (3, 3), 7)
    grey.putpixel((2, 0), 9)
    grey.save(tmp_path / "g.png", transparency=9)
    assert red(decode(tmp_path / "g.png")) == [7, 7, 255]
    cmyk = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    cmyk.save(tmp_path / "c.jpg", quality=100)
    assert np.asarray(decode(tmp_path / "c.jpg"))[0, 0].tolist() == [0, 255, 255]
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, kind in (("o.png", np.uint8), ("o.tif", np.float32)):
        wide = Image.fromarray(np.array([[0, 1, 1, 1], [0, 1, 1, 1]], dtype=kind))
        wide.save(tmp_path / name, exif=exif)
        assert decode(tmp_path / name).size == (2, 4)


def test_samples_of_data_sets_are_read_alike():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("RGB", (4, 2))
    turned.getexif()[0x0112] = 6
    broken = Image.new("LAB", (3, 3))

    class Set:
        rows = ((turned, 0.7), (broken, 1), {"image": 1}, (None, 2), (torch.rand(3, 4, 4), 2))

        def __len__(self):
            return len(self.rows) + 1

        def __getitem__(self, i):
            return self.rows[i]

    items = _list_items("torch/x", Set(), None)
    image, label = items[0].read("RGB")
    assert image.size == (2, 4)
    assert label is None
    for item in items[2:]:
        with pytest.raises(ImageError):
            item.read("RGB")


def test_labels_are_whole_numbers():
    whole = (3, np.int64(3), torch.tensor(3), True)
    assert [_as_label(x) for x in whole] == [3, 3, 3, 1]
    others = (0.7, 3.0, -1, "3", None, [3], torch.tensor(3.0), torch.tensor([1, 2]), {"a": 1})
    assert [_as_label(x) for x in others] == [None] * len(others)
