"""The truth itself against values by hand, and verdicts that have been seen to fail."""

import math

import pytest
import torch

from .awkward import Awkward, Small
from .entry_points import run_gauntlet
from .fields import move_map, spectral
from .kinds.forces import points
from .truth import truth_of
from .verdicts import CHANGED, NEEDLESS, REFUSED, RIGHT, WRONG


def wave(n, k):
    return torch.sin(2 * math.pi * k * (torch.arange(n, dtype=torch.float64) + 0.5) / n)


@pytest.mark.parametrize("n", [9, 10])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_spectral_derivative_of_a_wave(n, k):
    phase = 2 * math.pi * k * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    want = 2 * math.pi * k / n * phase.cos()
    assert torch.allclose(spectral(n) @ wave(n, k), want, atol=1e-12)


def test_rotation_of_a_plane_wave():
    x = wave(8, 1).expand(8, 8)  # varies along x: ξ_x = −y
    y = torch.arange(8, dtype=torch.float64)[:, None] - 3.5
    slope = 2 * math.pi / 8 * torch.cos(2 * math.pi * (torch.arange(8) + 0.5) / 8)
    assert torch.allclose(move_map("rotation", x, (8, 8)), -y * slope, atol=1e-12)


def test_a_coarser_map_moves_in_pixels_of_the_image():
    slope = 2 * math.pi / 4 * torch.cos(2 * math.pi * (torch.arange(4) + 0.5) / 4) / 3
    found = move_map("translation_x", wave(4, 1).expand(4, 4), (12, 12))
    assert torch.allclose(found, slope.double().expand(4, 4), atol=1e-12)


class SquareOfOnePixel(Awkward):
    """L f = 2 x (X x) at that pixel."""

    def forward(self, x):
        return x[:, :, 2, 3] ** 2


def test_truth_of_a_square_by_hand():
    x = SquareOfOnePixel.images().double()
    for name, row in zip(*_rows(SquareOfOnePixel), strict=True):
        want = 2 * x[:, :, 2, 3] * move_map(name, x, (10, 10))[:, :, 2, 3]
        assert torch.allclose(row, want, rtol=1e-6, atol=1e-9)


def _rows(cls):
    truth = truth_of(cls)
    return truth.names, torch.cat(truth.lie[""], 1)


class PositionsCubed(Awkward):
    """Rotation about z of p³: J A p − A p³."""

    output = "vectors"
    images = staticmethod(points)

    def forward(self, c):
        return c.pos**3


def test_truth_of_cubes_by_hand():
    p = points().pos.double()
    names, rows = _rows(PositionsCubed)
    x, y, z = p.T
    want = torch.stack([-3 * x**2 * y + y**3, 3 * y**2 * x - x**3, 0 * z], 1)
    assert torch.allclose(rows[names.index("rotation_z")], want, rtol=1e-6, atol=1e-8)
    assert torch.allclose(rows[names.index("translation_y")][:, 1], 3 * y**2, rtol=1e-6)


class Honest(Small):
    """A network that any entry point measures rightly."""

    def forward(self, x):
        return self.head(self.c(x).tanh())


class MisjudgedByTheTruth(Honest):
    """The truth is of something three per cent larger."""

    def smooth(self, x):
        return 1.03 * self.head(self.c(x).tanh())


class ExpectedToBeRefused(Honest):
    right = "refusal"


class RefusedButNeeded(Honest):
    needed = frozenset({"lie_derivative"})

    def forward(self, x):
        return super().forward(x).argmax(1).to(torch.int64)


def _verdicts(cls, *entries):
    return {v.entry: v.verdict for v in run_gauntlet(cls, entries or None)}


def test_an_honest_network_passes_everywhere():
    assert set(_verdicts(Honest).values()) == {RIGHT}


def test_three_per_cent_are_wrong():
    found = _verdicts(MisjudgedByTheTruth)
    assert {v for k, v in found.items() if k != "assert_equivariant"} <= {WRONG, RIGHT}
    assert found["lie_derivative"] == found["measure"] == found["metric"] == WRONG
    assert found["attribute"] == WRONG


def test_a_number_where_none_is_right_is_wrong():
    found = _verdicts(ExpectedToBeRefused)
    assert found.pop("step_penalty") == RIGHT, "a step needs no slope: it is judged always"
    assert set(found.values()) == {WRONG}


def test_a_refusal_where_a_number_is_needed_is_a_failure():
    assert _verdicts(RefusedButNeeded, "lie_derivative", "measure") == {
        "lie_derivative": NEEDLESS,
        "measure": REFUSED,
    }


def test_a_changed_network_is_seen(monkeypatch):
    from . import entry_points

    def call(net, f, x):
        net.fc.weight.data.add_(1)

    monkeypatch.setitem(entry_points.ENTRY_POINTS, "measure", call)
    assert _verdicts(Honest, "measure") == {"measure": CHANGED}


def test_a_raw_error_is_wrong(monkeypatch):
    from . import entry_points

    def call(net, f, x):
        raise RuntimeError("no formula")

    monkeypatch.setitem(entry_points.ENTRY_POINTS, "measure", call)
    assert _verdicts(Honest, "measure") == {"measure": WRONG}
