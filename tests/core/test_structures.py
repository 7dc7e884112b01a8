"""Several outputs: declarations by key and position, nested; errors that list what there is."""

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from cases import band_limited
from torch import nn

from liederiv import (
    Invariant,
    NotDifferentiableError,
    UnknownLayoutError,
    lie_derivative,
    lie_derivative_with_output,
)
from liederiv.analysis.layers.readout import OutputReader
from liederiv.points import PointCloud
from liederiv.structures import match_outputs

Pair = namedtuple("Pair", ["map", "mean"])


@dataclass
class Output:
    mean: torch.Tensor
    map: torch.Tensor
    loss: torch.Tensor | None = None


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


MAP, MEAN = ones(1, 3, 8, 8), ones(1, 3)
SPECS = {"map": "NCHW", "mean": "invariant"}


@pytest.mark.parametrize(
    "y",
    [
        {"mean": MEAN, "map": MAP},
        OrderedDict(mean=MEAN, map=MAP),
        defaultdict(list, mean=MEAN, map=MAP),
        MappingProxyType({"mean": MEAN, "map": MAP}),
        Output(MEAN, MAP),
        Pair(MAP, MEAN),
    ],
    ids=lambda y: type(y).__name__,
)
def test_keys_decide_and_not_the_order(y):
    found = match_outputs(SPECS, y)
    specs = dict(zip(found.paths, found.specs, strict=True))
    assert specs == {"output['map']": "NCHW", "output['mean']": "invariant"}
    by_name = {p: v.shape for p, v in zip(found.paths, found.tensors, strict=True)}
    assert by_name == {"output['map']": MAP.shape, "output['mean']": MEAN.shape}
    rebuilt = found.rebuild(["first", "second"])
    assert rebuilt["map"] == ["first", "second"][found.paths.index("output['map']")]


def test_one_declaration_serves_a_whole_part():
    y = {"maps": [MAP, (MAP, MAP)], "mean": MEAN}
    found = match_outputs({"mean": "invariant", "maps": "NCHW"}, y)
    assert found.specs == ["NCHW"] * 3 + ["invariant"]
    assert found.paths[1] == "output['maps'][1][0]"
    assert found.rebuild(list("abcd")) == {"maps": ["a", ("b", "c")], "mean": "d"}
    assert match_outputs(Invariant(), (MAP, [MEAN])).specs == [Invariant(), Invariant()]


def test_none_leaves_out_whatever_it_is():
    y = {"boxes": torch.zeros(3, dtype=torch.long), "name": "x", "mean": MEAN, "maps": [MAP, MAP]}
    spec = {"boxes": None, "name": None, "mean": "invariant", "maps": [None, "NCHW"]}
    found = match_outputs(spec, y)
    assert found.specs == ["invariant", "NCHW"]
    want = {"boxes": None, "name": None, "mean": 0, "maps": [None, 1]}
    assert found.rebuild([0, 1]) == want
    assert match_outputs(SPECS, Output(MEAN, MAP, None)).paths == [
        "output['mean']", "output['map']",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "y", "message"),
    [
        ({"map": "NCHW", "men": "invariant"}, {"map": MAP, "mean": MEAN},
         r"key 'men', which the model does not return in output; it returns 'map', 'mean'"),
        ({"map": "NCHW"}, {"map": MAP, "mean": MEAN},
         r"does not say how output\['mean'\] transforms \(the model returns 'map', 'mean'\)"),
        ({"a": {"b": "NCHW"}}, {"a": {"c": MAP}},
         r"key 'b', which the model does not return in output\['a'\]; it returns 'c'"),
        (["NCHW", "invariant"], {"map": MAP, "mean": MEAN}, r"declare it by key: \{'map': …"),
        (["NCHW", "invariant"], Output(MEAN, MAP), "declare it by key: {'mean': …"),
        ({"map": "NCHW"}, [MAP], "a list of 1; declare it by position"),
        (["NCHW"], (MAP, MEAN), "lists 1 representations, but the model returns 2 parts"),
        (["NCHW", "NCHW"], MAP, "lists 2 representations, but the model returns 1 tensor"),
        ({"map": "NCHW"}, MAP, "lists 1 representations, but the model returns 1 tensor"),
        ({"map": None}, {"map": MAP}, "leaves nothing of the model's dict to be measured"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_refused(spec, y, message):
    with pytest.raises(UnknownLayoutError, match=message):
        match_outputs(spec, y)


def test_what_has_no_derivative_is_refused_unless_left_out():
    y = {"mean": MEAN, "count": torch.tensor([3])}
    with pytest.raises(NotDifferentiableError, match=r"output\['count'\] has type torch.int64"):
        match_outputs({"mean": "invariant", "count": "invariant"}, y)
    with pytest.raises(NotDifferentiableError, match=r"output\['count'\] is a str"):
        match_outputs("invariant", {"mean": MEAN, "count": "three"})


class Moved(nn.Module):
    """Keys in another order than their declaration; swapped they are not equivariant."""

    def forward(self, cloud: PointCloud) -> dict[str, torch.Tensor]:
        v = cloud.vectors["v"][:, 0]
        return {"v": 2 * v, "count": torch.tensor([3]), "x": cloud.pos + v}


def test_equivariant_outputs_score_zero_in_any_order():
    rng = torch.Generator().manual_seed(0)
    cloud = PointCloud(
        torch.randn(5, 3, generator=rng), vectors={"v": torch.randn(5, 3, generator=rng)}
    )
    spec = {"x": "positions", "count": None, "v": "vectors"}
    for name in ("translation_x", "rotation_x"):
        found = lie_derivative_with_output(Moved().eval(), cloud, name, output=spec)
        assert list(found.value) == ["v", "count", "x"]
        assert found.value["count"] is None
        assert found.value["v"].norm() < 1e-6
        assert found.value["x"].norm() < 1e-6
        assert found.output["x"].shape == (5, 3)
        assert len(found.representation) == 2
    swapped = {"v": "positions", "x": "vectors", "count": None}
    L = lie_derivative(Moved().eval(), cloud, "translation_x", output=swapped)
    assert L["v"].norm() > 2
    assert L["x"].norm() > 2


class Several(nn.Module):
    def forward(self, x: torch.Tensor) -> Output:
        return Output(x.mean((2, 3)), x * 2, None)


def test_dataclasses_of_images_are_measured_by_field():
    x = band_limited((2, 3, 8, 8))
    L = lie_derivative(Several().eval(), x, "translation", scheme="fourier", output=SPECS)
    assert L["map"].shape == (2, 2, 3, 8, 8)
    assert L["map"].norm() < 1e-12
    assert L["mean"].norm() < 1e-12
    assert L["loss"] is None


def test_attribution_reads_by_the_same_keys():
    x = band_limited((1, 3, 8, 8))
    model = Several().eval()
    reader = OutputReader(model, model(x), "output", {"map": "NCHW", "mean": None}, x)
    assert reader(model(x)).shape == (3 * 64,)
    with pytest.raises(UnknownLayoutError, match="it returns 'mean', 'map', 'loss'"):
        OutputReader(model, model(x), "output", {"map": "NCHW", "men": None}, x)
