"""`LocalEquivarianceError`: the same numbers as `measure`, states that add up, no traces."""

import copy
import math
import pickle
import subprocess
import sys
import warnings

import matplotlib
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import band_limited, formula_images, formula_network
from points.point_networks import LinearForms, Pairs, clouds
from torch import nn

import liederiv
from liederiv import ImageError, LieDerivError, ModelError, PointCloudError, measure
from liederiv.differentiation.models import plain_model

Lee = liederiv.LocalEquivarianceError


def images(n=5, dtype=torch.float32):
    x = formula_images(dtype)
    return torch.cat([x, x.flip(-1) * 0.7, x.flip(-2)])[:n]


def exact(n=5):
    """In float64, so that sums over other batches agree to far better than float32's rounding."""
    return formula_network().double(), images(n, torch.float64)


def batch_norm_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.LazyLinear(3),
    )  # fmt: skip


@pytest.mark.parametrize(("output_type", "row"), [("auto", "probs"), ("logits", "logits")])
def test_it_agrees_with_measure(output_type, row):
    f, x = formula_network(), images()
    metric = Lee("translation,rotation,scale", output_type=output_type)
    metric.update(f, x[:3])
    metric.update(f, x[3:])
    found, errors = metric.compute(), metric.standard_error()
    want = measure(f, x, "translation,rotation,scale", "lee", output_type=row)
    names = ["translation_x", "translation_y", "translation", "rotation", "scale"]
    assert list(found) == names == list(errors)
    for name in names:
        score = want.get("lee", name, row)
        per_image = torch.tensor(score.per_image, dtype=torch.float64)
        assert math.isclose(found[name], score.value, rel_tol=1e-6)
        assert math.isclose(errors[name], per_image.std() / math.sqrt(5), rel_tol=1e-6)


def test_units_schemes_and_parts_of_batches_are_passed_on():
    f, x = formula_network(), images()
    metric = Lee("translation", "fourier", unit="grid", images_per_update=2, batch_size=1)
    metric.update(f, x)
    want = measure(f, x[:2], "translation", "lee", scheme="fourier", unit="grid")
    value = want.get("lee", "translation", "probs").value
    assert math.isclose(metric.compute()["translation"], value, rel_tol=1e-6)
    assert metric.count_translation == 2


@pytest.mark.parametrize("kind", ["energy", "forces"])
def test_point_clouds(kind):
    f, c = Pairs(kind).double().eval(), clouds((5, 3))
    metric = Lee("rotation,scale")
    metric.update(f, c)
    want = measure(f, c, "rotation,scale", "lee")
    for name, value in metric.compute().items():
        score = want.get("lee", name)
        assert math.isclose(value, score.value, rel_tol=1e-9, abs_tol=1e-20)
    assert set(metric.compute()) == {"rotation_x", "rotation_y", "rotation_z", "rotation", "scale"}


def test_known_value_on_points():
    """y = Σ_p w·p under translation along x: L = N w_x, for N points in the cloud."""
    w = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    metric = Lee("translation_x,translation_y")
    metric.update(LinearForms(w), clouds((5, 3)))
    found = metric.compute()
    assert math.isclose(found["translation_x"], (10**2 + 6**2) / 2, rel_tol=1e-12)
    assert found["translation_y"] == 0
    # Two values 100 and 36: standard deviation 64/√2, divided by √2.
    assert math.isclose(metric.standard_error()["translation_x"], 32, rel_tol=1e-12)


def test_forward_gives_the_batch_and_accumulates():
    f, x = exact()
    metric = Lee("rotation")
    first, second = metric(f, x[:2])["rotation"], metric(f, x[2:])["rotation"]
    whole = Lee("rotation")
    whole.update(f, x)
    assert math.isclose(metric.compute()["rotation"], (2 * first + 3 * second) / 5, rel_tol=1e-9)
    assert math.isclose(metric.compute()["rotation"], whole.compute()["rotation"], rel_tol=1e-9)


def test_reset_clone_pickle_and_state_dict():
    f, x = formula_network(), images(3)
    metric = Lee("rotation")
    metric.update(f, x)
    value = metric.compute()["rotation"]
    for other in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        other.update(f, x)
        assert other.count_rotation == 6
        assert math.isclose(other.compute()["rotation"], value, rel_tol=1e-12)
    assert metric.count_rotation == 3
    assert not metric.state_dict()
    metric.persistent(True)
    again = Lee("rotation")
    again.persistent(True)
    again.load_state_dict(metric.state_dict())
    assert again.sum_rotation / again.count_rotation == value
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute()["rotation"].isnan()
    metric.update(f, x)
    assert metric.compute()["rotation"] == value


def test_merged_states_are_one():
    f, x = exact()
    parts = [Lee("rotation"), Lee("rotation")]
    parts[0].update(f, x[:2])
    parts[1].update(f, x[2:])
    parts[0].merge_state(parts[1])
    whole = Lee("rotation")
    whole.update(f, x)
    assert math.isclose(parts[0].sum_rotation, whole.sum_rotation, rel_tol=1e-12)


def test_one_image_has_no_standard_error_and_nan_stays_visible():
    metric = Lee("rotation")
    metric.update(formula_network(), images(1))
    assert metric.standard_error()["rotation"].isnan()
    metric.update(nn.Sequential(formula_network(), NotANumber()).eval(), images(1))
    assert metric.compute()["rotation"].isnan()


class NotANumber(nn.Module):
    def forward(self, y):
        return y * float("nan")


# --- no traces -----------------------------------------------------------------------------------


class Counting(nn.Module):
    """Writes to a buffer, replaces another and draws random numbers, in whatever mode it is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = torch.ones(())
        return x + 0 * torch.rand(())


def snapshot(model):
    return (
        {name: m.training for name, m in model.named_modules()},
        {k: (v, v.clone()) for k, v in [*model.named_buffers(), *model.named_parameters()]},
        {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()},
        torch.get_rng_state(),
    )


def assert_same(model, before):
    modes, tensors, grads, rng = before
    assert {name: m.training for name, m in model.named_modules()} == modes
    for k, v in [*model.named_buffers(), *model.named_parameters()]:
        assert v is tensors[k][0]
        assert torch.equal(v, tensors[k][1])
    for k, p in model.named_parameters():
        assert (p.grad is None) == (grads[k] is None)
        assert p.grad is None or torch.equal(p.grad, grads[k])
    assert torch.equal(torch.get_rng_state(), rng)


def half_trained():
    """Mixed modes, gradients from a step, running statistics that are not the defaults."""
    model = nn.Sequential(batch_norm_network(), Counting(), nn.Linear(3, 3))
    model(images()).square().sum().backward()
    model[0][1].eval()
    model[2].requires_grad_(False)
    return model


@pytest.mark.filterwarnings("ignore::liederiv.ForwardModeWarning")
def test_the_model_comes_back_as_it_was():
    model = half_trained()
    before = snapshot(model)
    metric = Lee("rotation")
    metric.update(model, images())
    metric(model, images())
    assert_same(model, before)
    # It was measured as in eval mode: without dropout and with running statistics.
    other = Lee("rotation")
    other.update(copy.deepcopy(model[0]).eval(), images())
    twin = Lee("rotation")
    twin.update(model[0], images())
    assert other.compute() == twin.compute()


@pytest.mark.filterwarnings("ignore::liederiv.ForwardModeWarning")
def test_the_model_comes_back_after_a_failure():
    model = half_trained()
    model.append(Boom())
    before = snapshot(model)
    metric = Lee("rotation")
    with pytest.raises(ValueError, match="boom"):
        metric.update(model, images())
    assert_same(model, before)
    assert metric.count_rotation == 0


class Boom(nn.Module):
    def forward(self, x):
        if x.shape[0] > 1:  # not yet when the kind of output is looked at
            raise ValueError("boom")
        return x


def test_a_failing_batch_adds_nothing():
    """The second part of the batch fails; the first one must not have been counted."""
    metric = Lee("rotation", batch_size=1, output_type="output", verify=False)
    with pytest.raises(ValueError, match="boom"):
        metric.update(nn.Sequential(formula_network(), FailsOnThree()).eval(), images(5))
    assert metric.count_rotation == 0
    assert metric.sum_rotation == 0


class FailsOnThree(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 3:
            raise ValueError("boom")
        return x


def test_a_pending_backward_pass_still_works():
    model = batch_norm_network()
    loss = model(images()).square().sum()
    Lee("rotation").update(model, images())
    loss.backward()
    assert model[0].weight.grad.norm() > 0


def test_inference_mode():
    """As in a Lightning validation loop; nothing that is kept may be an inference tensor."""
    from liederiv.derivatives import _bspline_coefficients, _cast_derivative

    _cast_derivative.cache_clear()
    _bspline_coefficients.cache_clear()
    f, x = formula_network(), images(2)
    metric, usual = Lee("rotation"), Lee("rotation")
    with torch.inference_mode():
        metric.update(f, x * 1)
        liederiv.lie_derivative(f, x * 1, "translation")
    usual.update(f, x)
    assert metric.compute() == usual.compute()
    z = x.clone().requires_grad_(True)
    D = liederiv.get_scheme("bspline").derivative(32, torch.float32)
    (z @ D.T).sum().backward()  # an inference tensor cannot be saved for this
    assert z.grad is not None


def test_gradients_do_not_flow_and_nothing_is_kept_of_the_model():
    model = batch_norm_network()
    metric = Lee("rotation")
    value = metric(model, images())["rotation"]
    assert not value.requires_grad
    assert not list(metric.parameters())
    assert not list(metric.children())


def test_wrappers_are_taken_off():
    net = formula_network()
    assert plain_model(nn.DataParallel(net)) is net
    assert plain_model(torch.compile(nn.DataParallel(net))) is net
    metric, plain = Lee("rotation"), Lee("rotation")
    metric.update(torch.compile(net), images(2))
    plain.update(net, images(2))
    assert metric.compute() == plain.compute()


# --- distributed ---------------------------------------------------------------------------------


def _share(rank, folder):
    """One of two processes: their batches differ in size, and only one has images for ``late``."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        f, x = exact()
        metric, late = Lee("translation,rotation"), Lee("rotation")
        metric.update(f, x[:2] if rank == 0 else x[2:])
        if rank == 0:
            late.update(f, x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchMetrics', on computing without an update
            found = (metric.compute(), metric.standard_error(), late.compute())
        torch.save((*found, metric.count_rotation), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_are_exactly_one(tmp_path):
    other = mp.get_context("spawn").Process(target=_share, args=(1, str(tmp_path)))
    other.start()
    _share(0, str(tmp_path))
    other.join()
    f, x = exact()
    whole = Lee("translation,rotation")
    whole.update(f, x)
    for rank, own in ((0, 2), (1, 3)):
        value, error, late, count = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, want in whole.compute().items():
            assert math.isclose(value[name], want, rel_tol=1e-12)
            assert math.isclose(error[name], whole.standard_error()[name], rel_tol=1e-9)
        assert math.isclose(late["rotation"], whole.compute()["rotation"], rel_tol=1e-12)
        assert count == own  # unsynchronised again, ready to go on


# --- bad input -----------------------------------------------------------------------------------


def test_models_without_or_with_frozen_parameters_are_fine():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    metric = Lee("translation", "fourier")
    metric.update(pool, band_limited((2, 3, 8, 8)))
    assert metric.compute()["translation"] < 1e-25
    frozen, free = Lee("rotation"), Lee("rotation")
    frozen.update(formula_network().requires_grad_(False), images(2))
    free.update(formula_network(), images(2))
    assert frozen.compute() == free.compute()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: (formula_network(), (images() * 50).int()), ImageError, r"int32; .* x\.float\(\)"),
        (lambda: (formula_network(), images()[0]), ImageError, r"x\[None\]"),
        (
            lambda: (formula_network().to("meta"), images()),
            ModelError,
            "on meta.*images are on cpu",
        ),
        (lambda: (formula_network().double(), images()), ModelError, "float64.*images have .*32"),
        (lambda: (formula_network()[:2], images()[..., :-1]), None, ""),
    ],
)
def test_bad_input_is_named(make, error, message):
    model, x = make()
    metric = Lee("rotation")
    if error is None:
        metric.update(model, x)
        return
    with pytest.raises(error, match=message) as caught:
        metric.update(model, x)
    assert "\n" not in str(caught.value)


def test_clouds_where_images_are_meant():
    with pytest.raises(LieDerivError, match=r"'shear' is unknown for point clouds"):
        Lee("shear").update(Pairs().double(), clouds())
    with pytest.raises(PointCloudError):
        Lee("rotation").update(Pairs(), clouds().with_fields(pos=torch.ones(9, 3).int()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transforms": "tilt"}, "'tilt' is unknown; choose from translation_x"),
        ({"scheme": "cubic"}, "scheme='cubic' is unknown"),
        ({"output_type": "softmax"}, "output_type='softmax' is unknown"),
        ({"images_per_update": 0}, "images_per_update=0 must be at least 1"),
        ({"batch_size": -1}, "batch_size=-1 must be at least 1"),
    ],
)
def test_bad_arguments_are_named_at_once(arguments, message):
    with pytest.raises(LieDerivError, match=message):
        Lee(**arguments)


def test_torchmetrics_is_imported_late_and_its_absence_is_one_sentence():
    code = (
        "import liederiv, sys; assert 'torchmetrics' not in sys.modules\n"
        "sys.modules['torchmetrics'] = None\n"
        "try: liederiv.LocalEquivarianceError\n"
        "except ImportError as e: print(type(e).__name__, e, isinstance(e, liederiv.LieDerivError))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("MissingExtraError liederiv.LocalEquivarianceError"), done.stderr
    assert done.stdout.endswith("pip install 'liederiv[train]'. True\n")
    with pytest.raises(AttributeError, match="no attribute 'Lee'"):
        _ = liederiv.Lee


# --- plots and trainers --------------------------------------------------------------------------


def test_plot_of_one_value_and_of_many():
    matplotlib.use("Agg")
    f, x = formula_network(), images(2)
    metric = Lee("translation,rotation")
    steps = [metric(f, x * s) for s in (1.0, 0.5, 0.2)]
    figure, axes = metric.plot()
    assert {t.get_text() for t in axes.get_legend().get_texts()} == set(metric.compute())
    _, axes = metric.plot(steps, ax=axes)
    lines = {
        line.get_label(): line.get_ydata()
        for line in axes.get_lines()
        if len(line.get_ydata()) == 3
    }
    assert lines["rotation"].tolist() == [float(s["rotation"]) for s in steps]
    matplotlib.pyplot.close(figure)
