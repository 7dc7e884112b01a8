"""What is taken for class scores, what says so, and what has no softmax."""

import pytest
import timm
import torch
from torch import nn

from liederiv import (
    FeatureMap,
    Invariant,
    LieDerivError,
    LocalEquivarianceError,
    ModelError,
    TokenGrid,
    VectorChannels,
    equivariance_penalty,
    measure,
)
from liederiv.analysis import attribute, measure_aliasing
from liederiv.metrics.local import class_axis
from liederiv.representations import Hints, declared, resolve

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def head(n: int, **attributes) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n)
        )
    for name, value in attributes.items():
        setattr(net, name, value)
    return net.eval()


def kinds(result) -> set[str]:
    return {s.output for s in result.scores}


def test_the_result_says_that_class_scores_were_assumed():
    found = measure(head(5), X, "translation", "lee")
    assert kinds(found) == {"probs", "logits"}
    (note,) = found.provenance.warnings
    assert "[B, 5] was taken for scores of 5 classes" in note
    assert "output_type='output'" in note
    for kind in ("output", "logits", "probs"):  # the user has said it
        assert measure(head(5), X, "rotation", "lee", output_type=kind).provenance.warnings == ()


def test_declared_numbers_of_classes_are_believed():
    found = measure(head(5, num_classes=5), X, "translation", "lee")
    assert (kinds(found), found.provenance.warnings) == ({"probs", "logits"}, ())
    assert found.provenance.representation == "Invariant() (declared)"
    pooled = measure(head(5, num_classes=0), X, "translation", "lee")
    assert (kinds(pooled), pooled.provenance.warnings) == ({"output"}, ())
    other = measure(head(5, num_classes=7), X, "translation", "lee")
    assert len(other.provenance.warnings) == 1


@pytest.mark.parametrize("f", [head(1), lambda z: z.mean((1, 2, 3))], ids=["[B, 1]", "[B]"])
def test_one_logit_has_no_softmax(f):
    assert kinds(measure(f, X, "rotation", "lee")) == {"output"}
    with pytest.raises(ModelError, match=r"needs scores of"):
        measure(f, X, "rotation", "lee", output_type="probs")
    with pytest.raises(ModelError, match=r"needs scores of"):
        measure(f, X, "rotation", "eq_t", output_type="probs")
    with pytest.raises(ModelError, match=r"needs scores of"):
        LocalEquivarianceError("rotation", output_type="probs").update(f, X)
    if isinstance(f, nn.Module):
        for call in (attribute, measure_aliasing):
            with pytest.raises(ModelError, match="the softmax of one logit is 1"):
                call(f, X[:1], "rotation", output_type="probs")
            assert call(f, X[:1], "rotation").output == "output"
        for method in ("lie", "finite"):
            with pytest.raises(ModelError, match="the softmax of one logit is 1"):
                equivariance_penalty(f, X, method=method, output_type="probs")
        assert equivariance_penalty(f, X).isfinite()


@pytest.mark.parametrize(
    ("shape", "rho", "axis"),
    [
        ((2, 5), Invariant(), -1),
        ((2, 7, 5), Invariant(), -1),
        ((2, 5, 4, 4), FeatureMap(), 1),
        ((2, 4, 4, 5), FeatureMap("NHWC"), -1),
        ((2, 17, 5), TokenGrid((4, 4), 1), -1),
        ((2, 5, 17), TokenGrid((4, 4), 1, "NCL"), 1),
        ((2,), Invariant(), None),
        ((), Invariant(), None),
        ((2, 5, 4, 4, 4), Invariant(), None),
        ((2, 4, 4), FeatureMap("NHW"), None),
        ((2, 4, 4, 4), FeatureMap(channels=VectorChannels()), None),
        ((2, 1, 4, 4), FeatureMap(), None),
    ],
)
def test_where_the_classes_stand(shape, rho, axis):
    if axis is not None:
        assert class_axis(torch.zeros(shape), rho) == axis
        return
    with pytest.raises(ModelError, match="needs scores of"):
        class_axis(torch.zeros(shape), rho)


def test_tokens_are_those_of_the_grid_that_the_model_declares():
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, num_classes=0, global_pool=""
    ).eval()
    hints = declared(vit, "auto")
    assert isinstance(hints, Hints)
    assert str(hints) == "auto"
    found = resolve(hints, torch.zeros(1, 17, 192), (64, 64))
    assert found.representation == TokenGrid((4, 4), 1)
    assert found.status == "declared by the model"
    for shape, size in (
        ((1, 16, 192), (64, 64)),  # not so many tokens
        ((1, 17, 64), (64, 64)),  # not its channels
        ((1, 17, 17), (64, 64)),  # a matrix
        ((1, 17, 192), (32, 128)),  # a grid of another shape
    ):
        with pytest.raises(LieDerivError, match="is unknown"):
            resolve(hints, torch.zeros(shape), size)
    found = measure(vit, torch.randn(1, 3, 64, 64), "translation_x", "lee")
    assert "(declared by the model)" in found.provenance.representation
