"""Probe directions: orthonormality, coverage, unbiasedness."""

import pytest
import torch

from liederiv.analysis.layers.probes import choose_probes


def softmax_jacobian(p):
    return torch.diag(p) - torch.outer(p, p)


def case(D=50, sharpness=6.0, K=3):
    random = torch.Generator().manual_seed(1)
    p = (sharpness * torch.randn(D, dtype=torch.float64, generator=random)).softmax(0)
    w = torch.randn(D, K, dtype=torch.float64, generator=random)
    return p, (softmax_jacobian(p) @ w).mT


def choose(p, lie, probes="auto", seed=0, tolerance=1e-2):
    return choose_probes(lie, probabilities=p, probes=probes, tolerance=tolerance, seed=seed)


@pytest.mark.parametrize("probes", ["auto", "exact", 7])
@pytest.mark.parametrize("sharpness", [6.0, 0.01])
def test_directions_are_orthonormal_and_contain_the_lie_derivatives(probes, sharpness):
    p, lie = case(sharpness=sharpness)
    q = choose(p, lie, probes)
    U = q.directions
    torch.testing.assert_close(U.mT @ U, torch.eye(U.shape[1], dtype=U.dtype), atol=1e-10, rtol=0)
    inside = (lie @ q.head) @ q.head.mT
    torch.testing.assert_close(inside, lie, rtol=1e-9, atol=1e-12 * float(lie.abs().max()))


def test_captured_share_of_the_softmax_jacobian():
    p, lie = case()
    q = choose(p, lie)
    S = softmax_jacobian(p)
    share = (S @ q.head).square().sum() / S.square().sum()
    assert q.captured == pytest.approx(float(share), rel=1e-9)
    assert q.captured >= 0.99
    assert q.frame.shape[1] == 0


def test_flat_probabilities_get_random_probes():
    p, lie = case(D=400, sharpness=0.01)
    q = choose(p, lie)
    assert q.captured < 0.5
    assert q.frame.shape[1] == 16
    assert q.complement == 399 - q.head.shape[1]


def test_exact_probes_give_the_norm():
    p, lie = case(sharpness=0.5)
    q = choose(p, lie, "exact")
    c = softmax_jacobian(p) @ torch.randn(50, dtype=torch.float64)
    value, error = q.squared_norm(c @ q.directions)
    assert float(value) == pytest.approx(float(c.square().sum()), rel=1e-12)
    assert float(error) == 0
    assert q.directions.shape == (50, 49)


def test_random_probes_are_unbiased_with_the_stated_error():
    p, lie = case(D=60, sharpness=0.05)
    random = torch.Generator().manual_seed(0)
    c = softmax_jacobian(p) @ torch.randn(60, dtype=torch.float64, generator=random)
    draws = [choose(p, lie, 5, seed=s) for s in range(400)]
    values, errors = zip(*[q.squared_norm(c @ q.directions) for q in draws], strict=True)
    values, errors = torch.stack(values), torch.stack(errors)
    assert abs(values.mean() - c.square().sum()) < 4 * values.std() / 20
    assert float(values.std() / errors.mean()) == pytest.approx(1, abs=0.15)
