"""What loaders deliver: the right number, or one sentence."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import liederiv
from liederiv.batches import deliver, unpack
from liederiv.errors import ImageError, LieDerivError
from liederiv.training.metric import LocalEquivarianceError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, 5))  # fmt: skip
    return net.eval()


X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3])


def scored(model, batches, metrics="lee", **options):
    return liederiv.measure(model, batches, "rotation", metrics, resamples=10, **options)


def row(measurement, metric="accuracy"):
    return next((s for s in measurement.scores if s.metric == metric), None)


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def detection(batch):
    return tuple(zip(*batch, strict=True))


SAME = {
    "tensor": X,
    "list of tensors": [X[:2], X[2:]],
    "generator": lambda: (x for x in (X[:2], X[2:])),
    "pair": (X, Y),
    "pair in a list": [X, Y],
    "pair with a list": [X, [0, 1, 2, 3]],
    "pair with an array": (X, Y.numpy()),
    "pair and more": (X, Y, ["a", "b", "c", "d"]),
    "tuple of tensors": (X[:2], X[2:]),
    "tuple of pairs": ((X[:2], Y[:2]), (X[2:], Y[2:])),
    "one hot truths": [(X, nn.functional.one_hot(Y, 5).bool())],
    "pairs": [(X[:2], Y[:2]), (X[2:], Y[2:])],
    "list labels": [[X, [0, 1, 2, 3]]],
    "array labels": [(X, Y.numpy())],
    "tuple labels of tensors": [(X, tuple(Y))],
    "column of labels": [(X, Y[:, None])],
    "one hot": [(X, nn.functional.one_hot(Y, 5))],
    "one hot floats": [(X, nn.functional.one_hot(Y, 5).float())],
    "small integers": [(X, Y.to(torch.uint8))],
    "three things": [(X, Y, ["a", "b", "c", "d"])],
    "pixel_values": [{"pixel_values": X, "labels": Y}],
    "one dictionary": {"pixel_values": X, "labels": Y},
    "image and label": [{"image": X, "label": [0, 1, 2, 3]}],
    "pixel_values without labels": [{"pixel_values": X}],
    "list of images": [([*X], Y)],
    "pixel_values in a list": [{"pixel_values": [*X], "labels": Y}],
    "data loader": DataLoader(Rows([(x, int(y)) for x, y in zip(X, Y, strict=True)]), 2),
    "loader of dictionaries": DataLoader(
        Rows([{"pixel_values": x, "labels": y} for x, y in zip(X, Y, strict=True)]), 2
    ),
    "list of single images": DataLoader(Rows([*X]), 2, collate_fn=list),
}


UNLABELLED = ("tensor", "list of tensors", "tuple of tensors", "generator",
              "pixel_values without labels", "list of single images")  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_images_are_found_wherever_they_are(name):
    found = list(deliver(SAME[name]() if callable(SAME[name]) else SAME[name]))
    assert torch.equal(torch.cat([batch.x for batch in found]), X)
    labels = [batch.labels for batch in found]
    if name in UNLABELLED:
        assert labels == [None] * len(found)
    else:
        assert torch.equal(torch.cat(labels), Y)
    assert not any(batch.note for batch in found)


@pytest.mark.parametrize("name", ["tensor", "pair", "one hot floats", "loader of dictionaries"])
def test_their_measurement_is_that_of_the_images_and_labels(model, name):
    found = scored(model, SAME[name])
    values = [m.get("lee", "rotation", "logits").value for m in (found, scored(model, X))]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert found.provenance.num_images == 4
    if name not in UNLABELLED:
        assert row(found).value == (model(X).argmax(1) == Y).double().mean().item()


NO_CLASSES = {
    "regression": (Y / 3, "torch.float32 numbers"),
    "regression in a list": ([0.1, 0.2, 0.3, 0.4], "torch.float64 numbers"),
    "truth values": (Y > 1, "truth values"),
    "ignored ones": (Y - 1, "negative in part"),
    "soft labels": (torch.full((4, 5), 0.2), "soft labels"),
    "several classes": (torch.ones(4, 5, dtype=torch.long), r"of shape \[4, 5\]"),
    "masks": (torch.zeros(4, 16, 16, dtype=torch.long), r"of shape \[4, 16, 16\]"),
    "captions": (["a", "b", "c", "d"], "of type str"),
    "boxes": (tuple({"boxes": torch.rand(i, 4)} for i in range(4)), "of type dict"),
    "a dictionary": ({"boxes": torch.rand(4, 4)}, "of type dict"),
    "ragged": ([[1], [1, 2], [], [3]], "of type list"),
    "ragged tensors": ([torch.ones(1), torch.ones(2), torch.ones(1), Y], "of type Tensor"),
}


@pytest.mark.parametrize("name", NO_CLASSES)
def test_labels_that_are_no_classes_are_left_out_and_said(name):
    labels, message = NO_CLASSES[name]
    found = unpack((X, labels))
    assert torch.equal(found.x, X)
    assert found.labels is None
    assert found.note.startswith("no accuracy: labels ")
    assert re.search(message, found.note)


def test_they_give_no_accuracy(model):
    found = scored(model, [(X, Y / 3)])
    assert row(found) is None
    assert "no accuracy: labels are torch.float32" in " ".join(found.provenance.warnings)
    assert row(scored(model, [(X, Y / 3)], "lee,accuracy")).status == "not applicable"


def raising(error):
    yield X
    raise error


def pictures(*sizes):
    return [Image.new("RGB", size) for size in sizes]


REFUSED = {
    "several sizes": (
        lambda: [X, X[..., :12]],
        "of several sizes: 3 × 16 × 12 after 4 of 3 × 16",
    ),
    "several channels": (lambda: [X, X[:, :1]], "several sizes: 1 × 16 × 16"),
    "several dtypes": (
        lambda: [X, X.double()],
        "several dtypes: torch.float64 after 4 of torch.f",
    ),
    "sizes in one batch": (
        lambda: [([X[0], X[0, :, :9]], [1, 2])],
        "images of several sizes together",
    ),
    "detection": (
        lambda: DataLoader(
            Rows([(torch.rand(3, 9 + i, 9), {"boxes": 1}) for i in range(2)]),
            2,
            collate_fn=detection,
        ),
        "images of several sizes together",
    ),
    "sizes in a loader": (
        lambda: DataLoader(Rows([torch.rand(3, 9 + i, 9) for i in range(2)]), 2),
        "failed at batch 0: .*; resize and crop all images to one size",
    ),
    "pictures in a loader": (lambda: DataLoader(Rows(pictures((9, 9))), 1), "ToTensor"),
    "pictures": (lambda: [(pictures((9, 9)), [1])], "PIL.Image and must .*ToTensor"),
    "a loader that fails": (lambda: (1 / 0 for _ in range(1)), "failed at batch 0: ZeroDivision"),
    "a loader without memory": (lambda: raising(MemoryError()), "batch 1: MemoryError; see"),
    "sparse": (lambda: [X.to_sparse()], "batches is sparse or nested; make it dense"),
    "uint8": (lambda: [(X * 255).to(torch.uint8)], "has dtype torch.uint8; .*x.float"),
    "half": (lambda: [X.half()], "has dtype torch.float16"),
    "channels last": (lambda: [X.permute(0, 2, 3, 1)], r"channels last as it seems; pass x\.perm"),
    "array": (lambda: X.numpy(), r"numpy.ndarray and must .* torch.as_tensor\(x\)\.float"),
    "array, channels last": (
        lambda: [(np.zeros((4, 16, 16, 3), np.uint8), Y)],
        r"torch.as_tensor\(x\)\.movedim\(-1, -3\)",
    ),
    "single images": (lambda: list(zip(X, Y, strict=True)), r"add the batch dimension with x\[No"),
    "rows of a data set": (lambda: [{"pixel_values": X[0], "label": 1}], "labels for 3|batch dim"),
    "labels of another number": (lambda: [(X, Y[:3])], "3 labels for 4 images; give one for each"),
    "no images in it": (lambda: [{"text": 1}], "dictionaries with 'text'; put the images under"),
    "an empty list": (lambda: [[]], "delivers an empty list"),
    "an empty dictionary": (lambda: [{}], "dictionaries with nothing"),
    "nothing": (lambda: [], "holds no images"),
    "none": (lambda: None, "batches=None must be a tensor of images"),
    "a path": (lambda: "pictures/", "batches=.pictures/. must be .*load_images"),
    "pair with too few": (lambda: (X, Y[:3]), "3 labels for 4 images"),
    "paths": (lambda: ["a.png"], "delivers builtins.str and must be a tensor of images"),
    "a number": (lambda: 3, "batches=3 must be a tensor of images"),
    "numbers": (lambda: [1, 2], "delivers builtins.int and must be a tensor of images"),
    "five axes": (lambda: [X[None]], "must be a non-empty tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_one_sentence(model, name):
    make, message = REFUSED[name]
    with pytest.raises(LieDerivError, match=message) as info:
        scored(model, make())
    assert "\n" not in str(info.value)
    assert str(info.value).endswith(".")


def test_errors_of_a_loader_keep_their_cause_and_interrupts_pass(model):
    with pytest.raises(LieDerivError, match=r"failed at batch 1: KeyError: .*gone\\x1b") as info:
        scored(model, raising(KeyError("gone\x1b[31m")))
    assert isinstance(info.value.__cause__, KeyError)


def test_the_metric_of_training_takes_what_loaders_deliver(model):
    values = []
    for batch in (X, (X, Y), [X, Y, "extra"], {"pixel_values": X, "labels": Y}, [*X]):
        metric = LocalEquivarianceError("rotation")
        metric.update(model, batch)
        values.append(metric.compute()["rotation"].item())
    assert values == [values[0]] * 5
    for batch, message in (
        (X.permute(0, 2, 3, 1), "channels last"),
        (X.numpy(), "numpy.ndarray"),
        ({"text": 1}, "put the images under"),
        ([X[0], X[0, :, :9]], "several sizes"),
    ):
        with pytest.raises(ImageError, match=message):
            LocalEquivarianceError("rotation").update(model, batch)


def test_a_narrow_map_of_many_channels_is_not_taken_for_channels_last():
    from liederiv.batches import check_layout

    check_layout(torch.rand(2, 3, 64, 3))
    check_layout(torch.rand(2, 16, 4, 4))
    assert unpack(torch.rand(2, 3, 8, 8)).labels is None
