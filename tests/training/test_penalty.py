"""The penalty against finite differences of its own gradient, the measured LEE, and by its laws."""

import copy

import pytest
import torch
from torch import nn

import liederiv
from liederiv import PointCloud, equivariance_penalty, multitask_loss
from liederiv.errors import LieDerivError, ModelError, NotDifferentiableError


def network(*, classes=5, norm=False, activation=None):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), activation or nn.Softplus()]
    if norm:
        layers.insert(1, nn.BatchNorm2d(4))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes))


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_all_generators_give_the_measured_error(images):
    net = network().double().eval()
    for kind in ("probs", "logits"):
        penalty = equivariance_penalty(
            net,
            images,
            "translation,rotation",
            num_generators=None,
            num_images=None,
            output_type=kind,
        )
        scores = liederiv.measure(net, images, "translation,rotation", "lee", output_type=kind)
        values = [
            scores.get("lee", g).value for g in ("translation_x", "translation_y", "rotation")
        ]
        assert penalty.item() == pytest.approx(sum(values) / 3, rel=1e-10)


@pytest.mark.parametrize("method", ["lie", "finite"])
def test_gradient_agrees_with_finite_differences(images, method):
    net = network().double()

    def value():
        rng = torch.Generator().manual_seed(3)
        return equivariance_penalty(
            net,
            images,
            method=method,
            num_generators=None,
            num_images=None,
            rng=rng,
            amplitudes=0.7,
        )

    value().backward()
    for p in net.parameters():
        direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(0)).double()
        h = 1e-6
        with torch.no_grad():
            p.add_(h * direction)
        above = value().item()
        with torch.no_grad():
            p.sub_(2 * h * direction)
        below = value().item()
        with torch.no_grad():
            p.add_(h * direction)
        slope = (above - below) / (2 * h)
        assert float((p.grad * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-12)


def test_finite_tends_to_a_third_of_the_lie_penalty(images):
    """E t² = τ²/3 for t uniform in ±τ."""
    net = network().double()
    rng = torch.Generator().manual_seed(0)
    many = images.repeat(200, 1, 1, 1)
    tau = 1e-4
    finite = equivariance_penalty(
        net, many, "rotation", method="finite", amplitudes=tau, num_images=None, rng=rng
    ).item()
    lie = equivariance_penalty(net, images, "rotation", amplitudes=tau, num_images=None).item()
    assert finite / lie == pytest.approx(1 / 3, rel=0.1)  # 600 draws: 3.7 % standard error


def test_amplitudes_are_squared_weights_by_name_or_group(images):
    net = network().double()
    one = equivariance_penalty(net, images[:1], "rotation").item()
    half = equivariance_penalty(net, images[:1], "rotation", amplitudes=0.5).item()
    assert half == pytest.approx(one / 4)
    grouped = {"translation": 2.0, "rotation": 0.0001}
    both = equivariance_penalty(
        net, images, num_generators=None, num_images=None, amplitudes=grouped
    ).item()
    moved = equivariance_penalty(
        net, images, "translation", num_generators=None, num_images=None
    ).item()
    assert both == pytest.approx(moved * 4 * 2 / 3, rel=1e-6)


def test_by_default_half_of_the_images_are_drawn(images):
    net = network().double()
    each = [equivariance_penalty(net, images[i : i + 1], "rotation").item() for i in range(3)]
    pairs = {round((each[i] + each[j]) / 2, 12) for i, j in ((0, 1), (0, 2), (1, 2))}
    rng = torch.Generator().manual_seed(0)
    found = {round(equivariance_penalty(net, images, "rotation", rng=rng).item(), 12)
             for _ in range(30)}  # fmt: skip
    assert found == pairs


def test_subsampling_is_unbiased(images):
    """The average over all draws of generators and images is the whole."""
    net = network().double()
    whole = equivariance_penalty(net, images, num_generators=None, num_images=None).item()
    rng = torch.Generator().manual_seed(0)
    draws = torch.tensor(
        [equivariance_penalty(net, images, num_images=1, rng=rng).item() for _ in range(300)]
    )
    assert draws.unique().numel() == 9  # 3 generators × 3 images
    error = draws.std() / 300**0.5
    assert abs(draws.mean() - whole) < 4 * error


@pytest.mark.parametrize("frozen_norm", [False, True])
def test_the_network_is_left_as_it_was(images, frozen_norm):
    net = network(norm=True).double().train()
    net[1].train(not frozen_norm)
    before = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    tracked = [getattr(m, "track_running_stats", None) for m in net.modules()]
    state = torch.get_rng_state()
    rng = torch.Generator().manual_seed(0)
    penalty = equivariance_penalty(net, images, rng=rng)
    assert [m.training for m in net.modules()] == modes
    assert [getattr(m, "track_running_stats", None) for m in net.modules()] == tracked
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())
    penalty.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_in_training_the_scale_in_front_of_a_batch_norm_does_not_matter(images):
    """What the task's loss cannot see must not lower the penalty."""
    net = network(norm=True).double().train()
    net[1].eps = 1e-20

    def penalties():
        everything = {"num_generators": None, "num_images": None}
        in_training = equivariance_penalty(net.train(), images, **everything).item()
        return in_training, equivariance_penalty(net.eval(), images, **everything).item()

    before, before_as_used = penalties()
    with torch.no_grad():
        net[0].weight.mul_(0.1)
        net[0].bias.mul_(0.1)
    after, after_as_used = penalties()
    assert after == pytest.approx(before, rel=1e-10)
    assert after_as_used < 0.1 * before_as_used


def test_dropout_is_off(images):
    net = nn.Sequential(nn.Dropout(0.5), network()).double().train()
    values = {equivariance_penalty(net, images[:1], "rotation").item() for _ in range(3)}
    assert len(values) == 1


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        raise RuntimeError("boom")


def test_modes_come_back_after_a_failure(images):
    net = nn.Sequential(nn.Dropout(), Fails()).double().train()
    with pytest.raises(RuntimeError, match="boom"):
        equivariance_penalty(net, images)
    assert all(m.training for m in net.modules())


def test_training_with_it_makes_the_network_more_equivariant(images):
    net = network().double()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    rng = torch.Generator().manual_seed(0)
    start = equivariance_penalty(
        net, images, num_generators=None, num_images=None, output_type="logits"
    ).item()
    for _ in range(40):
        optimiser.zero_grad()
        equivariance_penalty(net, images, output_type="logits", rng=rng).backward()
        optimiser.step()
    end = equivariance_penalty(
        net, images, num_generators=None, num_images=None, output_type="logits"
    ).item()
    assert end < 0.5 * start


def test_equivariant_maps(images):
    conv = nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular").double()
    shift = {"scheme": "fourier", "output": "NCHW", "num_generators": None, "num_images": None}
    exact = equivariance_penalty(conv, images[..., :7, :7], "translation", **shift)
    assert exact.item() < 1e-25
    assert equivariance_penalty(conv, images[..., :7, :7], "rotation", **shift).item() > 1e-4


class Distances(nn.Module):
    """Sum over points of a function of the distance from the origin: rotation invariant."""

    output_representation = "invariant"

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, cloud):
        radial = (cloud.pos.square() * self.weight).sum(1, keepdim=True)
        return torch.zeros(len(cloud), 1, dtype=radial.dtype).index_add(0, cloud.batch, radial)


def test_point_clouds():
    pos = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    cloud = PointCloud(pos, batch=torch.tensor([0] * 4 + [1] * 3))
    kept = equivariance_penalty(
        Distances([1.0, 1.0, 1.0]), cloud, "rotation", num_generators=None, num_images=None
    )
    assert kept.item() < 1e-25
    broken = Distances([1.0, 2.0, 1.0])
    penalty = equivariance_penalty(broken, cloud, "rotation", num_generators=None, num_images=None)
    # d/dt of Σ w q² under rotation about z is ±2 (w_y − w_x) Σ x y; about x the same with y z.
    x, y, z = pos.mT
    sums = [torch.stack([(a * b)[:4].sum(), (a * b)[4:].sum()]) for a, b in ((x, y), (y, z))]
    expected = sum((2 * s).square().mean() for s in sums) / 3
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    penalty.backward()
    assert broken.weight.grad.norm() > 0


def test_multitask_loss_is_the_loss_on_moved_images(images):
    net = network().double()
    labels = torch.tensor([0, 1, 2])
    loss = nn.functional.cross_entropy
    rng = torch.Generator().manual_seed(0)
    still = multitask_loss(net, images, labels, loss, amplitudes=1e-9, rng=rng)
    assert still.item() == pytest.approx(loss(net(images), labels).item(), rel=1e-6)
    moved = multitask_loss(net, images, labels, loss, amplitudes={"rotation": 1.0}, rng=rng)
    assert abs(moved.item() - still.item()) > 1e-6
    moved.backward()
    assert net[0].weight.grad.norm() > 0


def test_multitask_targets_move_where_the_output_does(images):
    """A 1 × 1 convolution commutes with everything, so moved targets leave the loss at zero."""
    conv = nn.Conv2d(3, 2, 1).double()
    targets = conv(images).detach()
    loss = multitask_loss(
        conv, images, targets, nn.functional.mse_loss, output="NCHW", amplitudes=0.5
    )
    assert loss.item() < 1e-20


def frozen():
    return network().double().requires_grad_(False)


class Detached(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)).detach()


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


class NoForwardMode(nn.Linear):
    def forward(self, x):
        return super().forward(Fused.apply(x.flatten(1)))


@pytest.mark.parametrize(
    ("model", "arguments", "kind", "message"),
    [
        (nn.Flatten, {}, ModelError, "the model has no parameters"),
        (frozen, {}, ModelError, "the model is frozen"),
        (network, {"method": "nope"}, LieDerivError, "method='nope' is unknown"),
        (network, {"num_generators": 0}, LieDerivError, "num_generators=0"),
        (network, {"num_images": 0}, LieDerivError, "num_images=0"),
        (network, {"num_images": 1.5}, LieDerivError, "num_images="),
        (network, {"amplitudes": {"scale": 1}}, LieDerivError, "'scale', which is none"),
        (network, {"amplitudes": -1.0}, LieDerivError, "must be positive"),
        (network, {"output_type": "x"}, LieDerivError, "output_type='x' is unknown"),
        (lambda: Detached(192, 4), {}, NotDifferentiableError, "differs from a central difference"),
        (
            lambda: Detached(192, 4),
            {"verify": False},
            NotDifferentiableError,
            "no gradient reaches",
        ),
        (lambda: NoForwardMode(192, 4), {}, NotDifferentiableError, "use method='finite'"),
    ],
)
def test_useless_penalties_are_refused(images, model, arguments, kind, message):
    with pytest.raises(kind, match=message):
        equivariance_penalty(model().double(), images, **arguments)


def test_finite_needs_no_forward_mode(images):
    assert equivariance_penalty(NoForwardMode(192, 4).double(), images, method="finite") > 0


def test_where_no_gradient_can_flow(images):
    net = network().double()
    for off in (torch.no_grad, torch.inference_mode):
        with off(), pytest.raises(LieDerivError, match=r"no gradient under torch\.no_grad"):
            equivariance_penalty(net, images)


def test_wrong_images():
    net = network()
    with pytest.raises(LieDerivError, match=r"dtype torch\.uint8"):
        equivariance_penalty(net, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ModelError, match="is on cpu, but the images are on meta"):
        equivariance_penalty(net, torch.zeros(1, 3, 8, 8, device="meta"))


def test_transformers_and_batch_norm_networks_train():
    timm = pytest.importorskip("timm")
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        torch.manual_seed(0)
        size = {"img_size": 32, "depth": 2} if name.startswith("vit") else {}
        net = timm.create_model(name, num_classes=3, **size).train()
        equivariance_penalty(net, torch.randn(2, 3, 32, 32)).backward()
        norms = [p.grad.norm() for p in net.parameters() if p.grad is not None]
        assert all(v.isfinite() for v in norms)
        assert len(norms) > 0.9 * len(list(net.parameters()))
