"""Repairs: what they leave alone, what they change, and how they refuse."""

import copy

import pytest
import timm
import torch
from cases import band_limited
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn

from liederiv import LieDerivError, ModelError, UnknownLayoutError, lie_derivative
from liederiv.analysis.aliasing.alias_free import AliasFreeActivation, AliasFreeMaxPool, Filtered
from liederiv.analysis.aliasing.interventions import intervene, repairable
from liederiv.analysis.aliasing.padding import ContinuedLayer
from liederiv.analysis.aliasing.repairs import REPAIRS, AliasFree, LowPass, Padding
from liederiv.differentiation import pushforward

F64 = torch.float64


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), BatchNormAct2d(4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()


def images(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def snapshot(net):
    return copy.deepcopy(net.state_dict()), repr(net)


def unchanged(net, before):
    state, text = before
    same = all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    return same and repr(net) == text


def test_a_repair_replaces_the_chosen_modules_of_a_copy():
    net, x = network(), images(2, 3, 16, 16)
    before, want = snapshot(net), net(x)
    repaired = intervene(net, ["0", "1", "2", "3.1"], "auto")
    kinds = [Filtered, AliasFreeActivation, AliasFreeMaxPool]
    assert [type(repaired[i]) for i in range(3)] == kinds
    assert isinstance(repaired[3][1], AliasFreeActivation)
    assert unchanged(net, before)
    assert torch.equal(net(x), want)
    assert not repaired.training
    assert not any(m.training for m in repaired.modules())
    y = repaired(x)
    assert y.shape == want.shape
    assert not torch.allclose(y, want, rtol=1e-3)


def test_the_copy_has_its_own_equal_weights():
    net = network()
    repaired = intervene(net, "0", "low_pass")
    assert torch.equal(repaired[0].weight, net[0].weight)
    assert repaired[0].weight.data_ptr() != net[0].weight.data_ptr()
    assert sum(p.numel() for p in repaired.parameters()) == sum(p.numel() for p in net.parameters())
    assert all(p.requires_grad for p in repaired.parameters())


def test_the_mode_is_kept():
    assert intervene(network().train(), "1", "alias_free").training
    mixed = network()
    mixed[3].train()
    repaired = intervene(mixed, ["1", "3.1"], "alias_free")
    assert [m.training for m in (repaired[1], repaired[3][1])] == [False, True]
    # Finding out what a module is must not move its running statistics.
    assert torch.equal(repaired[3][1].running_mean, mixed[3][1].running_mean)
    assert repaired[3][1].num_batches_tracked == 0


def test_factor_one_changes_nothing():
    net, x = network(), images(2, 3, 16, 16)
    assert torch.equal(intervene(net, ["1", "3.1"], AliasFree(factor=1))(x), net(x))


def test_a_band_limited_input_is_not_changed_by_a_low_pass():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular", dtype=F64)
    net = nn.Sequential(conv, nn.Conv2d(4, 2, 1, dtype=F64)).eval()
    x = band_limited((2, 3, 16, 16), band=0.5)
    repaired = intervene(net, "0", LowPass("periodic"))
    assert torch.allclose(repaired(x), net(x), atol=1e-12)
    y = images(2, 3, 16, 16, dtype=F64)
    assert not torch.allclose(repaired(y), net(y), atol=1e-2)


def test_a_shared_module_is_repaired_where_it_was_asked_for():
    torch.manual_seed(0)
    act, conv = nn.GELU(), nn.Conv2d(3, 3, 3, padding=1)
    net = nn.Sequential(conv, act, conv, act).eval()
    repaired = intervene(net, ["1", "2"], ("alias_free", "circular_padding"))
    assert isinstance(repaired[1], AliasFreeActivation)
    assert repaired[3] is repaired[1].module
    assert isinstance(repaired[2], ContinuedLayer)
    assert repaired[0].padding == (1, 1)
    assert repaired[2].weight is repaired[0].weight


@pytest.mark.parametrize("n", [11, 12])
@pytest.mark.parametrize("stride", [1, 2])
def test_circular_padding_is_torchs(n, stride):
    torch.manual_seed(0)
    want = nn.Conv2d(3, 4, 5, stride, padding=2, padding_mode="circular", dtype=F64).eval()
    plain = nn.Conv2d(3, 4, 5, stride, padding=2, dtype=F64).eval()
    plain.load_state_dict(want.state_dict())
    x = images(2, 3, n, n + 1, dtype=F64)
    assert torch.allclose(intervene(plain, "", "circular_padding")(x), want(x), atol=1e-12)


@pytest.mark.parametrize("n", [11, 12])
def test_padding_that_depends_on_the_size_is_replaced_too(n):
    torch.manual_seed(0)
    conv = Conv2dSame(3, 4, 3, stride=2).eval()
    x = images(1, 3, n, n)
    inner = slice(1, -1)
    y, want = intervene(conv, "", "mirror_padding")(x), conv(x)
    assert y.shape == want.shape
    assert torch.allclose(y[..., inner, inner], want[..., inner, inner], atol=1e-6)
    assert not torch.allclose(y, want, atol=1e-3)


def test_circular_padding_makes_a_convolution_equivariant():
    conv = nn.Conv2d(3, 4, 3, padding=1, dtype=F64).eval()
    x = images(1, 3, 15, 15, dtype=F64)
    repaired = intervene(conv, "", Padding())
    for net, small in ((conv, False), (repaired, True)):
        L = lie_derivative(net, x, "translation", scheme="fourier", output="NCHW")
        assert (L.abs().max() < 1e-11) == small


@pytest.mark.parametrize("class_token", [True, False])
def test_the_mean_positional_embedding_keeps_mean_and_prefix(class_token):
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=1, num_classes=5,
        class_token=class_token, global_pool="token" if class_token else "avg",
    ).eval()  # fmt: skip
    before = snapshot(vit)
    repaired = intervene(vit, "", "mean_position")
    assert unchanged(vit, before)
    p, q, prefix = vit.pos_embed[0], repaired.pos_embed[0], int(class_token)
    assert torch.equal(q[:prefix], p[:prefix])
    assert torch.allclose(q[prefix:], p[prefix:].mean(0).expand(16, -1))
    # Without positions, patches can be permuted.
    x = images(1, 3, 64, 64)
    moved = torch.cat([x[..., 16:, :], x[..., :16, :]], 2)
    assert torch.allclose(repaired(moved), repaired(x), atol=1e-5)
    assert not torch.allclose(vit(moved), vit(x), atol=1e-5)


def test_tokens_need_an_example():
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=5).eval()
    x = images(1, 3, 64, 64)
    path = "blocks.0.mlp.act"
    with pytest.raises(UnknownLayoutError, match="pass example=images"):
        intervene(vit, path, "alias_free")(x)
    repaired = intervene(vit, path, "alias_free", example=x)
    assert repaired.get_submodule(path).layout.prefix == 1
    assert repaired(x).shape == (1, 5)
    plain = intervene(vit, path, AliasFree(factor=1), example=x)
    assert torch.equal(plain(x), vit(x))


def test_channels_last_maps_are_recognised_with_an_example():
    torch.manual_seed(0)
    net = timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1)).eval()
    x = images(1, 3, 64, 64)
    net = intervene(net, "stages.0.blocks.0.mlp.act", "alias_free", example=x)
    assert net(x).shape == (1, 5)


def test_repaired_networks_support_forward_mode_under_vmap():
    net = network().double()
    names = ["0", "1", "2", "3.0", "3.1"]
    repaired = intervene(net, names, ("alias_free", "low_pass", "circular_padding"))
    x, v = images(2, 3, 16, 16, dtype=F64), images(3, 2, 3, 16, 16, seed=1, dtype=F64)
    _, jv, engine = pushforward(repaired, x, v)
    _, want, _ = pushforward(repaired, x, v, engine="double-backward")
    assert engine == "vmap"
    assert torch.allclose(jv, want, atol=1e-11)


def test_repairable_modules_are_the_outermost():
    net, x = network(), images(1, 3, 16, 16)
    paths = [path for path, _ in net.named_modules() if path]
    assert list(repairable(net, paths, "auto", x)) == ["0", "1", "2", "3.1"]
    assert list(repairable(net, paths, "circular_padding", x)) == ["0", "2", "3.0"]


def test_unknown_modules_and_repairs_are_refused():
    net = network()
    with pytest.raises(LieDerivError, match=r"'3.2' is not in the model; did you mean .*'3.1'"):
        intervene(net, "3.2", "auto")
    with pytest.raises(LieDerivError, match="repair='sharpen' is unknown; choose from alias_free"):
        intervene(net, "0", "sharpen")
    with pytest.raises(LieDerivError, match="repair is empty"):
        intervene(net, "0", [])
    with pytest.raises(ModelError, match="training mode"):
        intervene(network().train(), "0", "auto", example=images(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("path", "repair", "what"),
    [
        ("6", "alias_free", "'6' is a Linear, to which repair alias_free .* does not apply"),
        ("3.0", "low_pass", "'3.0' is a Conv2d, to which repair low_pass"),
        ("1", "blur", "'1' is a ReLU, to which repair blur"),
        ("4", "circular_padding", "'4' is a AdaptiveAvgPool2d, to which repair padding"),
        ("", "mean_position", r"'' \(the whole model\) is a Sequential, to which repair mean_pos"),
    ],
)
@pytest.mark.parametrize("with_example", [True, False])
def test_repairs_that_do_not_apply_are_refused(path, repair, what, with_example):
    net, x = network(), images(1, 3, 16, 16)
    before = snapshot(net)
    with pytest.raises(LieDerivError, match=what):
        intervene(net, path, repair, example=x if with_example else None)
    assert unchanged(net, before)


def test_every_repair_says_what_it_applies_to():
    assert all(r.applies_to and r.name for repairs in REPAIRS.values() for r in repairs)
