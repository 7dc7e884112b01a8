"""Batches as data loaders of the field deliver them: right, or one sentence."""

import pytest
import torch
from torch import nn

from liederiv import LieDerivError, measure
from liederiv.loaders import batch_of

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([1, 0])


def model():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    return nn.Sequential(*layers).eval()


def score(batches):
    found = measure(model(), batches, "translation", "lee", output_type="probs")
    accuracy = [s for s in found.scores if s.metric == "accuracy"]
    return found.get("lee", "translation").value, accuracy


RIGHT = {
    "a tensor": (X, False),
    "labels": ([(X, CLASSES)], True),
    "labels as a list": ([(X, [1, 0])], True),
    "one thing more": ([(X, CLASSES, ["a", "b"])], True),
    "transformers": ([{"pixel_values": X, "labels": CLASSES}], True),
    "one dictionary": ({"image": X}, False),
    "regression": ([(X, torch.tensor([0.5, 1.5]))], False),
    "detection": ([([X[0], X[1]], [{"boxes": 1}, {"boxes": 2}])], False),
    "segmentation": ([(X, torch.zeros(2, 12, 12, dtype=torch.int64))], False),
    "several labels": ([(X, torch.zeros(2, 5, dtype=torch.int64))], False),
    "a list of images": ([[X[0], X[1]]], False),
    "yes and no": ([(X, torch.tensor([True, False]))], False),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right(name):
    batches, labelled = RIGHT[name]
    value, accuracy = score(batches)
    assert value == pytest.approx(score(X)[0], rel=1e-6)
    assert bool(accuracy) == labelled


WRONG = {
    "several sizes": ([X, torch.randn(2, 3, 16, 16)], "images of several sizes"),
    "several sizes in a batch": ([[X[0], torch.randn(3, 9, 9)]], "images of several sizes"),
    "no images": ([{"input_ids": X}], "with the keys input_ids has none of pixel_values"),
    "bytes": ([(X.byte(), CLASSES)], "dtype torch.uint8"),
    "paths": (["a.png"], "must be a tensor of images"),
    "nothing": (None, "must be a tensor of images"),
    "a number": (3, "must be a tensor of images"),
    "empty": ([], "holds no images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_sentence(name):
    batches, message = WRONG[name]
    with pytest.raises(LieDerivError, match=message):
        score(batches)


def test_labels_that_are_not_of_these_images_are_none():
    assert batch_of((X, torch.tensor([1, 0, 1])))[1] is None
