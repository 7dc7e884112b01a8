"""Where the code is to be extended: one class and one registration each, and it is everywhere."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import register_pytree_node

import liederiv
from liederiv import measure
from liederiv.actions import Action
from liederiv.cli.tables import score_tables
from liederiv.domains import (
    DOMAINS,
    Comparisons,
    Domain,
    declared_domain,
    domain_of,
    register_domain,
)
from liederiv.errors import InputError, LieDerivError
from liederiv.generators import Catalogue, Generator
from liederiv.measurement.comparison import compare
from liederiv.measurement.row_names import row_names
from liederiv.metrics.base import FiniteMetric, LocalMetric, Response
from liederiv.metrics.finite import evaluate
from liederiv.metrics.registry import METRICS, families, register_metric, resolve_metrics
from liederiv.metrics.values import SampledMetric
from liederiv.testing import assert_equivariant
from liederiv.testing.limits import GATED, judge_limits, parse_limits


class Largest(LocalMetric):
    """The largest |L f| of an output."""

    name, family, summary = "largest", "extremes", "largest entry of the Lie derivative"
    heading, shown, gated = "max |L|", "interval", True

    def respond(self, batch):
        return Response(batch.lie.abs().flatten(2).amax(-1))


class Dimming(FiniteMetric):
    """How far f(x/2) is from f(x)/2."""

    name, family, summary = "dimming", "extremes", "squared change when the light is halved"
    gated = True

    def pieces(self, c, x):
        change = (evaluate(c.f, x / 2) - evaluate(c.f, x) / 2).flatten(1).double()
        formula = "mean (f(x/2) − f(x)/2)²"
        return [SampledMetric(self.name, "brightness", change.square().mean(1), "output²", formula)]


@pytest.fixture
def extremes():
    before = (tuple(METRICS), families(), tuple(GATED))
    register_metric(Largest)
    register_metric(Dimming)
    yield
    for kind in (Largest, Dimming):
        METRICS.pop(kind.name)
    assert (tuple(METRICS), families(), tuple(GATED)) == before


W = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(x):
    return torch.einsum("bchw,nchw->bn", x, W.to(x)) + 1


@pytest.mark.usefixtures("extremes")
def test_a_local_metric_of_ones_own():
    found = measure(linear, X, "rotation", "largest,lee", output_type="output")
    row = found.get("largest", "rotation")
    tangent = liederiv.resolve_generators("rotation")
    action = liederiv.actions.ImageAction(tangent, 6, 6)
    want = torch.einsum("bchw,nchw->bn", action.tangents(X)[0], W).abs().amax(1)
    assert row.per_image == pytest.approx(want.tolist(), rel=1e-9)
    assert row.value == pytest.approx(float(want.mean()))
    assert row.unit == "output/rad"
    assert row.ci_low < row.value < row.ci_high
    assert METRICS["largest"].summary == Largest.summary
    table = next(iter(score_tables(found)))
    assert [c.header for c in table.columns][-1] == "max |L|"


@pytest.mark.usefixtures("extremes")
def test_a_finite_metric_of_ones_own():
    found = measure(linear, X, "rotation", "dimming", output_type="output")
    row = found.get("dimming", "brightness")
    assert row.value == pytest.approx(0.25)  # f is affine: of its constant 1, half is left
    assert (row.unit, row.definition) == ("output²", "mean (f(x/2) − f(x)/2)²")
    assert row.ci_low == pytest.approx(row.ci_high)
    (table, *notes) = score_tables(found)
    assert "dimming" in list(table.columns[0].cells)
    assert "dimming: mean (f(x/2) − f(x)/2)²." in notes


@pytest.mark.usefixtures("extremes")
@pytest.mark.parametrize(("limit", "passed"), [("largest/rotation=1e-6", False),
                                               ("largest/rotation=1e6", True),
                                               ("dimming/brightness=0.2", False),
                                               ("dimming/brightness=0.3", True)])  # fmt: skip
def test_metrics_of_ones_own_can_be_limited(limit, passed):
    limits = parse_limits(limit)
    found = measure(linear, X, "rotation", "extremes", output_type="output")
    (verdict,) = judge_limits(found, limits)
    assert verdict.passed is passed, verdict.reason


@pytest.mark.usefixtures("extremes")
def test_metrics_of_ones_own_are_known_by_name_and_family():
    assert [m.name for m in resolve_metrics("extremes")] == ["largest", "dimming"]
    assert {"largest", "dimming"} <= {m.name for m in resolve_metrics("all")}
    with pytest.raises(LieDerivError, match=r"extremes.*largest"):
        resolve_metrics("larges")
    with pytest.raises(LieDerivError, match="'largest' of Largest is taken"):
        register_metric(Largest)
    both = (linear, lambda x: 2 * linear(x))
    a, b = (measure(f, X, "rotation", "largest", output_type="output") for f in both)
    (gap,) = compare(a, b)
    assert gap.b == pytest.approx(2 * gap.a)


def test_metrics_that_are_gone_are_unknown_again():
    with pytest.raises(LieDerivError, match="'largest' is unknown"):
        resolve_metrics("largest")
    with pytest.raises(LieDerivError, match="'largest' cannot be limited"):
        parse_limits("largest/rotation=1")


def test_no_limit_on_what_should_be_large():
    class Score(Dimming):
        name, larger_is_better = "score", True

    with pytest.raises(LieDerivError, match="Score is gated, but larger_is_better=True"):
        register_metric(Score)
    assert "score" not in METRICS
    assert not {name for name in GATED if METRICS[name].larger_is_better}


@dataclass(frozen=True, eq=False)
class Signals:
    """Periodic signals [B, C, T]."""

    values: torch.Tensor

    def __len__(self):
        return len(self.values)

    def __getitem__(self, which):
        return Signals(self.values[which])

    dtype = property(lambda self: self.values.dtype)
    device = property(lambda self: self.values.device)

    def detach(self):
        return Signals(self.values.detach())

    def double(self):
        return Signals(self.values.double())


register_pytree_node(Signals, lambda s: ([s.values], None), lambda v, _: Signals(*v))


class Shift(Action):
    """d/dt of x(s + t), by Fourier's derivative."""

    scheme_name = "fourier"

    def __init__(self, generators):
        self.generators = tuple(generators)

    def tangents(self, x):
        frequency = 2j * torch.pi * torch.fft.rfftfreq(x.values.shape[-1], dtype=torch.float64)
        slope = torch.fft.irfft(torch.fft.rfft(x.values.double()) * frequency, x.values.shape[-1])
        return Signals(slope.to(x.values).expand(len(self), *x.values.shape).contiguous())

    def take(self, which):
        return Shift(self.generators[which])


class SignalError(InputError):
    """Signals cannot be used."""


class SignalDomain(Domain):
    """The whole of what liederiv must know about signals."""

    item = "signal"
    catalogues = (Catalogue("signals", {"delay": Generator("delay", "delay", "sample")}, {}),)

    def accepts(self, x):
        return isinstance(x, Signals)

    def check(self, x, argument="x"):
        if not isinstance(x, Signals) or x.values.ndim != 3:
            raise SignalError(f"{argument} must be Signals [B, C, T].")

    def bind(self, generators, x, scheme):
        return Shift(generators)


@pytest.fixture
def signals():
    before = list(DOMAINS)
    register_domain(SignalDomain())
    yield Signals(torch.randn(3, 2, 9, generator=torch.Generator().manual_seed(0)))
    DOMAINS.pop()
    assert before == DOMAINS


class Filter(nn.Module):
    """A circular convolution and the mean: invariant; with a window, not."""

    output_representation = "invariant"

    def __init__(self, window=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular")
        self.register_buffer("window", torch.linspace(0, 1, 9) if window else torch.ones(9))

    def forward(self, x):
        return (self.conv(x.values) * self.window).mean(-1).tanh()


def test_a_kind_of_input_of_ones_own(signals):
    assert domain_of(signals).item == "signal"
    assert domain_of(X).item == "image"
    found = measure(Filter(True).eval(), signals, "delay", "all", output_type="logits")
    row = found.get("lee", "delay")
    jv = torch.func.jvp(
        lambda v: Filter(True)(Signals(v)),
        (signals.values,),
        (Shift([0]).tangents(signals).values[0],),
    )[1]
    assert row.per_image == pytest.approx(jv.square().mean(1).tolist(), rel=1e-5)
    assert row.unit == "logit²/sample²"
    assert row.ci_low < row.value < row.ci_high
    assert 0 < row.floor < 1e-6 * row.value
    assert 0.01 < found.get("relative_norm", "delay").value < 100
    assert found.provenance.inputs == "signals"
    for metric in ("relative_spectrum", "reference", "eq_t", "sampled_error", "discrete"):
        (other,) = [s for s in found.scores if s.metric == metric]
        assert (other.status, bool(other.reason)) == ("not applicable", True), metric
    list(score_tables(found))


def test_signals_are_measured_by_everything_else(signals):
    net, windowed = Filter().eval(), Filter(True).eval()
    assert (
        measure(net, signals, "delay", "lee", output_type="logits").get("lee", "delay").value
        < 1e-12
    )
    assert liederiv.lie_derivative(net, signals, "delay").abs().max() < 1e-6
    assert_equivariant(net, signals, "delay")
    with pytest.raises(AssertionError, match="not equivariant under delay"):
        assert_equivariant(windowed, signals, "delay")
    loss = liederiv.equivariance_penalty(windowed, signals, "delay", output_type="output")
    assert loss.requires_grad
    assert row_names("delay") == ("delay",)
    (limit,) = parse_limits("delay=1e-12")
    found = measure(windowed, signals, "delay", "lee", output_type="logits")
    assert not judge_limits(found, [limit])[0].passed


def test_signals_in_several_batches(signals):
    net = Filter(True).eval()
    whole = measure(net, signals, "delay", "lee,relative", output_type="logits")
    parts = measure(net, [signals[:2], signals[2:]], "delay", "lee,relative", output_type="logits")
    for a, b in zip(whole.scores, parts.scores, strict=True):
        assert a.per_image == pytest.approx(b.per_image, rel=1e-4)
    with pytest.raises(SignalError, match="batches must be Signals"):
        measure(net, Signals(torch.zeros(3, 4)), "delay")
    with pytest.raises(LieDerivError, match="finite transforms of signals are not known"):
        liederiv.transforms.transform(signals, "delay", 1.0)


def test_a_kind_that_is_gone_is_no_input():
    with pytest.raises(liederiv.ImageError, match="must be a tensor of images"):
        measure(Filter().eval(), Signals(torch.zeros(1, 2, 9)), "delay")
    with pytest.raises(LieDerivError, match="'delay' is unknown"):
        row_names("delay")


class Sequences(SignalDomain):
    """The same signals as plain tensors."""

    item = "sequence"

    def accepts(self, x):
        return isinstance(x, torch.Tensor) and x.ndim == 3

    def check(self, x, argument="x"):
        if not self.accepts(x):
            raise SignalError(f"{argument} must be a tensor [B, C, T].")

    def bind(self, generators, x, scheme):
        return _Unwrapped(generators)


class _Unwrapped(Shift):
    def tangents(self, x):
        return super().tangents(Signals(x)).values

    def take(self, which):
        return _Unwrapped(self.generators[which])


def test_tensors_of_several_kinds_live_side_by_side(signals):
    wrapped = measure(Filter(True).eval(), signals, "delay", "lee", output_type="logits")
    net = Filter(True).eval()
    register_domain(Sequences())
    try:
        plain = lambda v: net(Signals(v))  # noqa: E731
        found = measure(
            plain, signals.values, "delay", "lee", output_type="logits", output="invariant"
        )
        assert found.get("lee", "delay").per_image == wrapped.get("lee", "delay").per_image
        assert domain_of(X).item == "image"
    finally:
        DOMAINS.pop()
    with pytest.raises(liederiv.ImageError, match="add the batch dimension"):
        measure(plain, signals.values, "delay")


class Frames(Sequences):
    """Fields [B, C, T, F], which look like images."""

    item = "frame"

    def accepts(self, x):
        return isinstance(x, torch.Tensor) and x.ndim == 4


def test_what_may_be_two_kinds_must_be_declared():
    frames = Frames()
    register_domain(frames)
    try:
        with pytest.raises(LieDerivError, match=r"several kinds \(image and frame\); say which"):
            measure(linear, X, "rotation", "lee")
        with declared_domain(frames):
            assert domain_of(X) is frames
        with declared_domain(DOMAINS[0]):
            assert measure(linear, X, "rotation", "lee").provenance.inputs == "images"
    finally:
        DOMAINS.pop()
    with declared_domain(frames):  # without registration
        assert domain_of(X) is frames
        assert measure(linear, X, "delay", "lee", output="invariant").provenance.inputs == "frames"
    assert domain_of(X).item == "image"


class _Taken:
    """Tangents that a camera took, [K, B, C, H, W]; the same object is the same pictures."""

    def __init__(self, tangents):
        self.tangents = tangents


@dataclass(frozen=True, eq=False)
class Shots(Signals):
    """Photographs that come with what they do when the camera moves."""

    taken: _Taken = None

    def __getitem__(self, which):
        return Shots(self.values[which], _Taken(self.taken.tangents[:, which]))

    def detach(self):
        return self

    def double(self):
        return Shots(self.values.double(), _Taken(self.taken.tangents.double()))


register_pytree_node(Shots, lambda s: ([s.values], s.taken), lambda v, taken: Shots(*v, taken))


class Camera(Shift):
    """Reads the tangents off the data."""

    scheme_name = "camera"

    def tangents(self, x):
        return replace(x, values=x.taken.tangents.contiguous())


class ShotDomain(SignalDomain):
    item = "shot"

    def accepts(self, x):
        return isinstance(x, Shots)

    def bind(self, generators, x, scheme):
        return Camera(generators)

    def check(self, x, argument="x"):
        if not self.accepts(x):
            raise SignalError(f"{argument} must be Shots.")


def test_a_kind_of_input_may_bring_its_own_tangents():
    tangents = torch.randn(1, *X.shape, generator=torch.Generator().manual_seed(3)).double()
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double().eval()
    f = lambda s: net(s.values)  # noqa: E731
    register_domain(ShotDomain())
    try:
        shots, how = Shots(X, _Taken(tangents)), {"output": "invariant", "batch_size": 3}
        found = measure(f, shots, "delay", "lee,relative_norm", output_type="output", **how)
    finally:
        DOMAINS.pop()
    want = (tangents[0].flatten(1) @ net[1].weight.T).square().mean(1)
    row = found.get("lee", "delay")
    assert row.per_image == pytest.approx(want.tolist(), rel=1e-9)
    assert found.provenance.scheme == "camera"
    assert found.get("relative_norm", "delay").status == "measured"


def test_images_and_clouds_are_known_from_the_start():
    assert [domain.item for domain in DOMAINS] == ["image", "cloud"]
    for other in (3, None, object()):
        assert domain_of(other).item == "image"  # which says what is missing
        with pytest.raises(liederiv.ImageError, match=r"batches=.* must be a tensor of images"):
            measure(linear, other)


def test_batches_by_number():
    class Batches:
        def __getitem__(self, number):
            if number == 2:
                raise IndexError
            return X[2 * number : 2 * number + 2]

    rows = [measure(linear, b, "rotation", "lee").scores[0].per_image for b in (X, Batches())]
    assert rows[0] == pytest.approx(rows[1])


def test_noise_of_a_tangents_norm_is_the_default_comparison(signals):
    domain, action = domain_of(signals), Shift([0])
    tangents = action.tangents(signals)
    got = domain.comparisons(signals, tangents, action, 5, domain.seeds(signals, 0))
    assert isinstance(got, Comparisons)
    assert got.tangents.values.shape == (5, *signals.values.shape)
    norms = got.tangents.values.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    read = got.read(torch.ones(5, 3))
    torch.testing.assert_close(read["noise"], tangents.values.flatten(2).double().square().sum(-1))
