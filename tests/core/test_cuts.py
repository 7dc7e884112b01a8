"""Where a model decides about its own derivative is noted, and every image is examined then."""

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jvp, vmap

from liederiv import NotDifferentiableError, equivariance_penalty, lie_derivative_with_output
from liederiv.actions import ImageAction
from liederiv.analysis import attribute
from liederiv.differentiation import Cuts, forward_mode
from liederiv.generators import resolve_generators

pytestmark = pytest.mark.filterwarnings("ignore::liederiv.ForwardModeWarning")


def noted(f, x=None, *, backward=False):
    """Names of the cuts in f(x), in forward mode for several tangents or in reverse."""
    x = torch.randn(2, 3) if x is None else x
    cuts = Cuts()
    g = cuts.watching(f)
    if backward:
        g(x.clone().requires_grad_(True))
    else:
        with forward_mode():
            vmap(lambda v: jvp(g, (x,), (v,)), out_dims=(None, 0))(torch.randn(2, *x.shape))
    return list(cuts.seen)


class Doubled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, v):
        return 3 * v

    @staticmethod
    def backward(ctx, g):
        return 3 * g


@torch.library.custom_op("liederiv_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


twice.register_autograd(lambda ctx, g: 3 * g)
CUTS = {
    "detach": lambda x: (2 * x).detach() + x,
    "data": lambda x: (2 * x).data + x,
    "autograd.Function Doubled": Doubled.apply,
}
IN_REVERSE = {
    **CUTS,
    "numpy": lambda x: torch.from_numpy(np.square((2 * x).detach().numpy())) + x,
    "float": lambda x: x * float(x.detach().sum()) + float((2 * x).sum()),
    "tolist": lambda x: x + torch.tensor((2 * x).tolist()),
    "operator liederiv_tests.twice.default": twice,
}


@pytest.mark.parametrize("name", CUTS)
def test_what_cuts_is_noted_in_forward_mode(name):
    assert name in noted(CUTS[name])


@pytest.mark.parametrize("name", IN_REVERSE)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_what_cuts_is_noted_in_reverse(name):
    found = noted(IN_REVERSE[name], backward=True)
    assert name in found or (name == "numpy" and "detach" in found)


def test_a_result_without_the_derivative_of_its_argument_is_noted():
    def f(x):
        with torch.no_grad():
            y = 2 * x
        return y + x

    assert noted(f, backward=True) == ["mul"]


def test_what_a_script_detaches_is_noted():
    with pytest.warns((FutureWarning, DeprecationWarning)):
        script = torch.jit.script(Detaching())
    cuts = Cuts()
    cuts.note_scripts([nn.Sequential(script)])
    assert list(cuts.seen) == ["aten::detach in TorchScript", "prim::data in TorchScript"]


class Detaching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.detach() + x.data


def test_what_has_no_slope_or_no_part_in_the_result_is_none():
    def f(x):
        mask = (x > 0) & (x.argmax(1, keepdim=True) == 0)
        noise = torch.zeros_like(x) + x.new_ones(3) + x.round() + x.sign()
        return torch.where(mask, x, noise) * nn.Parameter(torch.ones(3)).detach()

    assert noted(f) == []
    assert noted(f, backward=True) == []


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_usual_networks_have_none(name):
    net = timm.create_model(name).eval()
    size = 224 if name.startswith("vit") else 64
    assert noted(net, torch.randn(1, 3, size, size)) == []


class CutsOne(nn.Module):
    """Detaches a part of the image that is bright, which nobody glances at, or only sometimes."""

    def __init__(self, *, in_python=False):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        layers = [nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)]
        self.head = nn.Sequential(*layers)
        self.in_python = in_python

    def forward(self, x):
        h = self.first(x)
        if self.in_python:
            return self.head(h.detach() if x.mean() > 0.2 else h)
        bright = x.mean((1, 2, 3), keepdim=True) > 0.6
        return self.head(torch.where(bright, h.detach(), h))


def photographs(count, bright=()):
    x = F.avg_pool2d(torch.rand(count, 3, 20, 20, generator=torch.Generator().manual_seed(1)), 3, 1)
    x = x - x.mean((1, 2, 3), keepdim=True)
    for n in bright:
        x[n] += 1
    return x


def truth(net, x, step=1e-5):
    """Central differences in float64 of the network along the rotation's tangent."""
    net, x = copy.deepcopy(net).double(), x.double()
    (v,) = ImageAction(resolve_generators("rotation"), *x.shape[-2:]).tangents(x)
    return (net(x + step * v) - net(x - step * v)) / (2 * step)


def gap(found, want):
    return float((found.double() - want).norm() / want.norm())


def test_an_image_that_nobody_glances_at_is_examined():
    net, x = CutsOne().eval(), photographs(9, bright=[5])
    found = lie_derivative_with_output(net, x, "rotation")
    assert gap(found.value[0], truth(net, x)) < 1e-3
    assert found.verification.engine == "finite-differences"


def test_images_of_a_later_call_are_examined():
    net = CutsOne(in_python=True).eval()
    engines = []
    for bright in ([], [0, 1], []):
        x = photographs(2, bright)
        found = lie_derivative_with_output(net, x, "rotation")
        assert gap(found.value[0], truth(net, x)) < 1e-3
        engines.append(found.verification.engine)
    assert engines[:2] == ["vmap", "finite-differences"]


def test_a_harmless_cut_keeps_the_fast_engine_and_is_told():
    class Softmax(CutsOne):
        def forward(self, x):
            y = super().forward(x)
            e = (y - y.amax(1, keepdim=True).detach()).exp()
            return e / e.sum(1, keepdim=True)

    found = lie_derivative_with_output(Softmax().eval(), photographs(3), "rotation").verification
    assert (found.engine, found.items, found.glances) == ("vmap", 3, 0)
    assert "on each of 3 items, since the model decides about its derivative" in str(found)


def test_layers_of_a_later_image_are_refused():
    net = CutsOne(in_python=True).eval()
    attribute(net, photographs(2), "rotation")
    with pytest.raises(NotDifferentiableError, match="only the finite-differences engine has"):
        attribute(net, photographs(2, bright=[1]), "rotation")


def test_layers_use_the_engine_that_has_the_later_images_derivative():
    """A cut that shows with all tangents at once only, and on a bright image only."""

    class Batched(CutsOne):
        def forward(self, x):
            h = self.first(x)
            stack = torch._C._functorch.peek_interpreter_stack()
            cut = stack is not None and stack.level() > 1 and bool(x.mean() > 0.2)
            return self.head(h.detach() if cut else h)

    net = Batched().eval()
    x = photographs(3, bright=[1])  # the first and the last image are those that are verified
    found = attribute(net, x, "rotation", output_type="logits")
    want = truth(net, x).square().sum(1)
    assert found.lie_norm_squared[0] == pytest.approx(want.detach().numpy(), rel=1e-3)


def test_layers_of_a_later_image_are_as_torch_records_them_where_nobody_verifies():
    class Partly(CutsOne):
        def forward(self, x):
            h = self.first(x)
            return self.head(h + (h.square().detach() if x.mean() > 0.2 else h.square()))

    net, x = Partly().eval(), photographs(2, bright=[1])
    (v,) = ImageAction(resolve_generators("rotation"), *x.shape[-2:]).tangents(x)
    found = attribute(net, x, "rotation", output_type="logits", verify=False)
    for b in range(2):
        recorded = jvp(net, (x[b : b + 1],), (v[b : b + 1],))[1].detach()
        assert found.lie_norm_squared[0, b] == pytest.approx(float(recorded.square().sum()))


def test_a_penalty_on_a_later_batch_is_refused():
    net = CutsOne(in_python=True)
    equivariance_penalty(net, photographs(4), "rotation", num_images=None).backward()
    with pytest.raises(NotDifferentiableError, match="would be that of another function"):
        equivariance_penalty(net, photographs(4, bright=range(4)), "rotation", num_images=None)
