"""The witness: every check has been seen to fail, on faults planted in models and in engines.

Truth is a float64 difference quotient along tangents, written here without liederiv's engines.
"""

import copy
import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from liederiv import (
    ModelError,
    NotDifferentiableError,
    PointCloud,
    equivariance_penalty,
    lie_derivative,
    lie_derivative_with_output,
    measure,
)
from liederiv.actions import ImageAction
from liederiv.differentiation import Pushforward, engines, jobs, verified_pushforward
from liederiv.differentiation import verification as memory
from liederiv.differentiation.models import as_it_was, in_double, watched
from liederiv.generators import resolve_generators
from liederiv.points import PointModel

pytestmark = pytest.mark.filterwarnings("ignore::liederiv.ForwardModeWarning")


def small(seed=0, act=nn.GELU):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3, padding=1), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6, 4)).eval()


def images(count=3, dtype=torch.float32, seed=1):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 12, 12, generator=source, dtype=torch.float64).to(dtype)


def quotient(f, x, names="translation,rotation", h=1e-5):
    """L f of invariant outputs by float64 differences: [K, B, n]."""
    x = x.double()
    tangents = ImageAction(resolve_generators(names), *x.shape[-2:]).tangents(x)
    scale = x.norm() / tangents.flatten(1).norm(dim=1)
    with torch.no_grad():
        rows = [
            (f(x + h * s * v) - f(x - h * s * v)) / (2 * h * s)
            for v, s in zip(tangents, scale, strict=True)
        ]
    return torch.stack(rows).double()


def found(f, x, names="translation,rotation", **named):
    return lie_derivative_with_output(f, x, names, output="invariant", **named)


def error(value, want):
    return float((value.double() - want).norm() / want.norm())


# --- what passes, and what it says ---------------------------------------------------------------


def test_a_sound_model_passes_in_one_go_and_says_how():
    net, x = small(), images()
    got = found(net, x)
    v = got.verification
    assert (v.engine, v.precision, v.rows, v.unchecked) == ("vmap", "float32", 2, ())
    assert v.primal < 1e-5
    assert v.derivative < 1e-3
    assert v.resolution < 1e-3
    assert error(got.value, quotient(copy.deepcopy(net).double(), x)) < 1e-4
    assert "float32" in str(v)
    assert "rows of 2 items" in str(v)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.03])
def test_a_dropped_share_is_found_down_to_a_few_percent(share):
    """The branch that is cut carries a share of the output; the derivative of both is meant."""
    net, other, x = small(), small(3), images()

    def f(z):
        return (1 - share) * net(z) + share * other(z.detach())

    got = found(f, x)
    both = [copy.deepcopy(m).double() for m in (net, other)]
    want = quotient(lambda z: (1 - share) * both[0](z) + share * both[1](z), x)
    assert got.verification.engine == "finite-differences"
    assert error(got.value, want) < 1e-4


def test_what_torch_records_is_refused_where_it_is_insisted_on():
    with pytest.raises(NotDifferentiableError, match=r"\(vmap: .* differs from a central diff"):
        found(lambda z: z.detach().mean((2, 3)) + 0 * z.mean((2, 3)), images(), engine="vmap")


def test_without_verification_the_fault_goes_through():
    """So it is the witness that finds it."""
    got = found(lambda z: z.detach().mean((2, 3)) + 0 * z.mean((2, 3)), images(), verify=False)
    assert got.verification.engine == "vmap"
    assert not got.value.any()
    assert "verify=False" in str(got.verification)


# --- faults planted in an engine -----------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y, jv: (y, jv * 1.02),
        lambda y, jv: (y, jv.roll(1, 0)),
        lambda y, jv: (y, torch.cat([jv[:-1], 0 * jv[-1:]])),
        lambda y, jv: (y * 1.001, jv),
        lambda y, jv: (y.flip(0), jv.flip(1)),
    ],
    ids=["2 % off", "tangents mixed up", "the last tangent lost", "another output", "rows swapped"],
)
def test_a_faulty_engine_is_passed_over(monkeypatch, spoil):
    net, x, original = small(), images(), engines._lean_jvp
    monkeypatch.setattr(engines, "_lean_jvp", lambda f, x, v: spoil(*original(f, x, v)))
    got = found(net, x)
    assert got.verification.engine == "plain"
    assert error(got.value, quotient(copy.deepcopy(net).double(), x)) < 1e-4


def test_a_fault_in_float32_only_is_found(monkeypatch):
    original = engines._vmap_jvp

    def spoilt(f, x, v):
        y, jv = original(f, x, v)
        return y, jv * (1.05 if jv.dtype == torch.float32 else 1.0)

    monkeypatch.setattr(engines, "_vmap_jvp", spoilt)
    assert found(small(), images()).verification.engine == "loop"


def test_faulty_differences_are_found_too(monkeypatch):
    """The last engine is judged along another direction than its own."""
    original = jobs.difference_jvp

    def spoilt(*args, **named):
        got = original(*args, **named)
        jv = torch.cat([got.jv[:1] * 1.5, got.jv[1:]])
        return type(got)(got.y, jv, got.errors)

    monkeypatch.setattr(jobs, "difference_jvp", spoilt)
    message = r"no engine passes its checks \(vmap: .*plain: .*loop: .*finite-differences: "
    with pytest.raises(NotDifferentiableError, match=message):
        found(lambda z: z.detach().square().mean((2, 3)), images())


# --- the other images of the batch ---------------------------------------------------------------


class CutsOne(nn.Module):
    """Detaches the brightest image of a batch, or of those alone that are as bright."""

    def __init__(self, least):
        super().__init__()
        self.net, self.least = small(), least

    def forward(self, x):
        h = self.net[:2](x)
        cut = x.mean((1, 2, 3), keepdim=True) > self.least
        return self.net[2:](torch.where(cut, h.detach(), h))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_image_that_is_cut_is_found_among_others(number):
    x = images(5)
    x[number] += 3
    net = CutsOne(2.0).eval()
    got = found(net, x)
    assert got.verification.engine == "finite-differences"
    assert error(got.value, quotient(copy.deepcopy(net).double(), x)) < 1e-3


def test_other_images_cost_one_pass_each_and_never_more_than_four():
    net, x, seen = small(act=nn.ReLU), images(12), []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    verification = found(net, x).verification
    assert verification.glances == 4
    assert sum(n for n in seen if n == 1) <= 8


def test_images_that_nothing_moves_are_no_objection():
    x = images(4)
    x[1], x[3] = 0.0, 0.7
    assert found(small(act=nn.ReLU), x).verification.glances == 3


# --- kinks, invariance, precision: nothing sound is refused --------------------------------------


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU])
def test_kinks_are_no_fault(act):
    net, x = small(act=act), images()
    got = found(net, x)
    assert got.verification.engine == "vmap"
    assert error(got.value, quotient(copy.deepcopy(net).double(), x)) < 1e-2


def test_an_input_right_on_kinks_has_no_derivative():
    """Of many equal pixels, max picks one; which way the maximum moves is another matter."""
    with pytest.raises(NotDifferentiableError, match="kinks right at this input"):
        found(lambda z: F.max_pool2d(z, 3).mean((2, 3)), images().round())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exactly_invariant_model_passes(dtype):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").to(dtype).eval()
    got = found(
        lambda z: conv(z).mean((2, 3)), images(dtype=dtype), "translation", scheme="fourier"
    )
    assert got.verification.engine == "vmap"
    assert got.value.abs().max() < (1e-6 if dtype == torch.float32 else 1e-14)


def test_a_small_violation_of_an_invariant_model_is_still_seen():
    """A cut branch a thousand times weaker than the response to noise."""
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").double().eval()
    ramp = torch.linspace(0, 1, 12, dtype=torch.float64)

    def f(z):
        return conv(z).mean((2, 3)) + 3e-4 * (conv(z.detach()) * ramp).mean((2, 3))

    x = images(dtype=torch.float64)
    got = found(f, x, "translation_x", scheme="fourier")
    assert got.verification.engine == "finite-differences"
    v = ImageAction(resolve_generators("translation_x"), 12, 12, "fourier").tangents(x)[0]
    with torch.no_grad():
        want = 3e-4 * ((conv(x + v) - conv(x)) * ramp).mean((2, 3))  # linear
    assert error(got.value[0], want) < 1e-3


class SinglePrecisionInside(nn.Module):
    def __init__(self, cut=False):
        super().__init__()
        self.net, self.cut = small(), cut

    def forward(self, x):
        conv, head = self.net[0], self.net[-1]
        h = F.gelu(F.conv2d(x.float(), conv.weight.float(), conv.bias.float(), padding=1))
        out = F.linear(h.mean((2, 3)), head.weight.float(), head.bias.float())
        return (out.detach() if self.cut else out).to(x.dtype)


@pytest.mark.parametrize("cut", [False, True])
def test_float32_inside_is_verified_with_the_noise_of_the_difference(cut):
    x = images()
    got = found(SinglePrecisionInside(cut).eval(), x)
    assert got.verification.engine == ("finite-differences" if cut else "vmap")
    assert error(got.value, quotient(copy.deepcopy(small()).double(), x)) < 2e-2


class Spectral(nn.Module):
    """A Fourier layer with complex weights."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 12, 7, dtype=torch.complex64))

    def forward(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.w, s=x.shape[-2:]).square().mean((2, 3))


class Uncopyable(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.lock = small(), threading.Lock()

    def forward(self, x):
        with self.lock:
            return self.net(x)


@pytest.mark.parametrize("model", [Spectral, Uncopyable, lambda: nn.utils.weight_norm(small()[0])])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_float64_needs_no_copy(model):
    torch.manual_seed(0)
    net = model().eval()
    output = "NCHW" if isinstance(net, nn.Conv2d) else "invariant"
    wide = nn.Sequential(nn.ReLU(), net).eval()  # kinks are looked at in float64
    got = lie_derivative_with_output(wide, images(), "rotation", output=output)
    assert got.verification.precision == "float64"
    assert all(p.dtype in (torch.float32, torch.complex64) for p in net.parameters())


# --- never a false diagnosis ---------------------------------------------------------------------


def test_rounding_inside_is_refused_for_what_it_is():
    with pytest.raises(NotDifferentiableError, match="no slope at this input"):
        found(lambda z: (4 * z).round().mean((2, 3)), images())


def test_an_oscillation_too_fast_for_any_step_is_refused():
    def wild(x):
        return ((x * 1e9).sin().detach() * 1e3).mean((2, 3)) + x.mean((2, 3))

    with pytest.raises(NotDifferentiableError, match="no slope at this input"):
        found(wild, images())


@pytest.mark.parametrize("cells", [4, 64])
def test_a_straight_through_estimate_is_no_derivative(cells):
    """What torch records is the slope that the staircase has on average."""

    def f(z):
        h = z.tanh()
        return (h + ((cells * h).round() / cells - h).detach()).mean((2, 3))

    with pytest.raises(NotDifferentiableError, match="no slope at this input"):
        found(f, images())


def test_a_constant_is_not_taken_for_rounding():
    got = found(lambda z: 0 * z.mean((2, 3)) + 1, images())
    assert not got.value.any()


def test_flat_images_leave_the_derivative_unchecked_and_unremembered():
    net = small()
    flat = found(net, torch.ones(2, 3, 12, 12)).verification
    assert "no generator moves this input" in str(flat)
    assert found(net, images(2)).verification.derivative is not None


def test_a_flat_image_in_front_is_passed_over():
    x = torch.cat([torch.ones(1, 3, 12, 12), images(2)])
    assert found(small(), x).verification.derivative is not None


def test_an_infinite_slope_is_reported_not_explained_away():
    x = torch.zeros(1, 3, 12, 12)
    x[..., 6:] = 1.0
    got = found(lambda z: z.abs().sqrt().mean((2, 3)), x, "translation_x")
    assert not got.value.isfinite().all()
    assert "kink" in str(got.verification)


# --- rows ----------------------------------------------------------------------------------------


def standardised(x):
    return ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-2).sqrt()).square().mean((2, 3))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.mean((2, 3)).T,
        lambda x: torch.cat([x, x.flip(-1)]).mean((2, 3)),
        lambda x: x.mean((2, 3)).sum(),
        lambda x: x.mean((2, 3)).reshape(-1),
    ],
    ids=["transposed", "2 B rows", "one number", "flattened"],
)
def test_other_numbers_of_rows_are_refused_naming_the_shape(f):
    with pytest.raises(ModelError, match=r"the model returns shape \[.*put the batch axis first"):
        found(f, images(4))


@pytest.mark.parametrize(
    "f",
    [
        standardised,
        lambda x: x.mean((2, 3)).cumsum(0),
        lambda x: x.mean((2, 3)).flip(0),
        lambda x: x.mean((2, 3)) @ x.mean((2, 3)).T,
        lambda x: x.mean((2, 3)) + x.mean((2, 3))[-1:],
    ],
    ids=["batch statistics", "cumulative", "flipped", "similarities", "last of all"],
)
def test_rows_that_depend_on_each_other_are_refused(f):
    with pytest.raises(
        ModelError, match=r"returns shape|depend on the other images .*batch_size=1"
    ):
        found(f, images(4))


def test_one_at_a_time_is_measured_if_asked():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.GELU())
    net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = images(3)
    with pytest.raises(ModelError, match="depend on the other images"):
        measure(net, x, "translation", "lee", output_type="output", batch_size=3)
    got = measure(net, x, "translation", "lee", output_type="output", batch_size=1)
    wide = copy.deepcopy(net).double()
    want = [quotient(wide, x[i : i + 1], "translation").square().mean() for i in range(3)]
    value = got.get("lee", "translation", "output").value
    assert value == pytest.approx(float(torch.stack(want).mean()), rel=1e-4)


# --- chance, mode, and the model as it was -------------------------------------------------------


def test_chance_is_named():
    with pytest.raises(ModelError, match="stochastic"):
        found(lambda z: F.dropout(z, 0.1).mean((2, 3)), images())


@pytest.mark.parametrize(
    "hide",
    [
        lambda net: lambda z: {"out": net(z)}["out"],
        lambda net: net.forward,
        lambda net: __import__("functools").partial(net),
        lambda net: type("Holder", (), {"__call__": lambda self, z: net(z)})(),
    ],
    ids=["lambda", "bound method", "partial", "object"],
)
def test_training_mode_is_found_behind_functions(hide):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    before = copy.deepcopy(net.state_dict())
    for call in (
        lambda: measure(hide(net), images(), "rotation", "lee"),
        lambda: lie_derivative(hide(net), images(), "rotation"),
    ):
        with pytest.raises(ModelError, match="training mode"):
            call()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


def test_training_mode_that_changes_nothing_is_no_obstacle():
    net = small().train()
    assert found(lambda z: net(z), images()).verification.engine == "vmap"
    assert net.training


class KeepsEverything(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small()
        self.seen, self.log, self.box = None, [], {}
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        h = self.net[0](x)
        self.seen, self.fresh = h, h.mean()
        self.log.append(h.sum())
        self.box["h"] = h
        self.count += 1
        self.calls += 1
        return self.net[1:](h)


@pytest.mark.parametrize("engine", [None, "double-backward", "finite-differences"])
def test_the_model_is_as_it_was(engine):
    net, x = KeepsEverything().eval(), images()
    net.net[0].weight.grad = grad = torch.ones_like(net.net[0].weight)
    state = torch.get_rng_state()
    found(net, x, engine=engine)
    assert net.seen is None
    assert net.log == []
    assert net.box == {}
    assert net.count == 0
    assert net.net[0].weight.grad is grad
    assert torch.equal(torch.get_rng_state(), state)
    assert type(net.fresh) is torch.Tensor  # as a call of the model leaves it
    assert not net.fresh.requires_grad
    copy.deepcopy(net)
    assert net.calls > 0  # a counter is the user's


def test_what_a_model_keeps_for_later_is_not_left_if_it_would_matter():
    class Caches(nn.Module):
        def forward(self, x):
            if not hasattr(self, "first"):
                self.first = x.mean()
            return x.mean((2, 3)) * self.first

    net = Caches().eval()
    found(net, images(1))
    assert not hasattr(net, "first")


def test_states_come_back_after_a_failure():
    net = KeepsEverything().eval()

    def fails():
        with as_it_was([net]):
            net(images())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert net.seen is None


def test_modules_behind_any_function_are_seen_and_run_in_float64():
    net = small()
    hidden = [net]  # no attribute of anything
    with watched(lambda z: z) as seen:
        hidden[0](images())
    assert seen == [net]
    with in_double(seen):
        assert net(images().double()).dtype == torch.float64
        assert net[0].weight.dtype == torch.float64
    assert net[0].weight.dtype == torch.float32
    assert isinstance(net[0].weight, nn.Parameter)


# --- what is remembered --------------------------------------------------------------------------


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.calls = small(), 0

    def forward(self, x):
        self.calls += 1
        return self.net(x)


def passes(net, x, names="rotation", **named):
    before = net.calls
    found(net, x, names, **named)
    return net.calls - before


def test_a_model_is_verified_once_per_size_dtype_and_generators():
    net, x = Counted().eval(), images()
    first = passes(net, x)
    assert 4 <= first <= 8
    assert passes(net, images(seed=5)) == 1
    assert passes(net, x, "rotation,scale") > 1  # more generators than were verified
    assert passes(net, x, "scale") == 1
    assert passes(net, x[..., :10]) > 1
    assert passes(net, x[..., :10]) == 1
    net.net[1] = nn.ReLU()
    assert passes(net, x) > 1
    net.net[0].register_forward_hook(lambda m, i, o: o.detach())
    assert passes(net, x) > 1


def test_rows_are_checked_when_a_batch_comes_that_has_some():
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    net = nn.Sequential(norm, nn.GELU(), nn.Flatten()).eval()
    assert found(net, images(1)).verification.rows == 1
    with pytest.raises(ModelError, match="depend on the other images"):
        found(net, images(3))


def test_memory_does_not_keep_models_alive():
    net = small()
    found(net, images())
    alive = weakref.ref(net)
    assert net in memory._KNOWN
    del net
    gc.collect()
    assert alive() is None


def test_the_penalty_verifies_once_and_not_again():
    net, x = Counted(), images()
    rng = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(3):
        before = net.calls
        equivariance_penalty(net, x, "translation,rotation", rng=rng).backward()
        counts.append(net.calls - before)
    assert counts[0] > 1
    assert counts[1:] == [1, 1]


# --- models that differentiate inside ------------------------------------------------------------


def forces(pos, create_graph):
    pos = pos.detach().clone().requires_grad_()
    d = (pos[:, None] - pos).square().sum(-1)
    return -torch.autograd.grad(torch.exp(-d).sum(), pos, create_graph=create_graph)[0]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("names", ["translation,rotation", "rotation,translation"])
@pytest.mark.parametrize("lab", [0.0, 0.3])
def test_forces_are_right_in_any_order_of_generators(create_graph, names, lab):
    torch.manual_seed(0)
    cloud = PointCloud(torch.randn(5, 3, dtype=torch.float64))
    field = torch.tensor([lab, 0.0, 0.0], dtype=torch.float64)
    model = PointModel(nn.Module(), lambda _, c: forces(c.pos, create_graph) + field)
    model.eval()
    got = lie_derivative(model, cloud, names, output="vectors")
    rotations = got[3:] if names.startswith("translation") else got[:3]
    # ρ turns the constant field, which the model does not: −A e, of norm √2 lab over so(3).
    assert float(rotations[:, 0].norm()) == pytest.approx(2**0.5 * lab, rel=1e-6, abs=1e-7)


def test_the_outcome_is_a_value():
    got = verified_pushforward(small(), x := images(), _tangents(x), _action(x))
    assert isinstance(got, Pushforward)
    assert got.errors is None
    cut = verified_pushforward(lambda z: z.detach().mean((2, 3)), x, _tangents(x), _action(x))
    assert cut.errors.shape == (1,)
    assert (cut.errors > 0).all()
    assert (cut.errors < 1e-4 * cut.jv.abs().max()).all()


def _action(x):
    return ImageAction(resolve_generators("rotation"), *x.shape[-2:])


def _tangents(x):
    return _action(x).tangents(x)


def test_the_last_digits_of_an_invariant_output_are_no_jump():
    """Relative positions are the same wherever an image is, but for rounding at some places."""
    x = images(1, torch.float64)
    w = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    here = (x * w).sum()

    def f(z):
        far = (z * w).sum((1, 2, 3)) > here + 0.5
        return 3.0 + 0 * z.mean((2, 3)).round() + far[:, None] * 4.5e-16

    assert not found(f, x).value.any()
