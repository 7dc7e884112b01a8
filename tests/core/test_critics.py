"""Answers to the critics of LEE: what confounds it, and what does not confound the relatives."""

import pytest
import torch
from cases import band_limited
from tolerances import COMPUTED, close
from torch import nn

from liederiv import measure


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
        .double()
        .eval()
    )


def scores(f, x) -> dict[str, float]:
    m = measure(f, x, "translation", "lee,relative", output_type="logits", verify=False)
    return {s.metric: s.value for s in m.scores if s.transform == "translation"}


def gaussian_blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    k = torch.fft.fftfreq(x.shape[-1], dtype=x.dtype) * 2 * torch.pi
    gain = torch.exp(-(sigma**2) * k**2 / 2)
    return torch.fft.ifft2(torch.fft.fft2(x) * gain[:, None] * gain).real


def test_scaling_the_logits_scales_lee_but_not_its_relatives(network):
    x = band_limited((4, 3, 32, 32), band=2.0)
    once, scaled = scores(network, x), scores(lambda z: 10 * network(z), x)
    assert scaled["lee"] == close(100 * once["lee"], COMPUTED)
    for metric in ("relative_norm", "relative_spectrum"):
        assert scaled[metric] == close(once[metric], COMPUTED)


def test_blurring_the_input_lowers_lee_far_more_than_its_relative(network):
    """Blurred images have smaller tangents; noise of the same spectrum shrinks with them."""
    x = band_limited((8, 3, 32, 32), band=2.0)
    sharp, blurred = scores(network, x), scores(network, gaussian_blur(x, 1.5))
    fall = sharp["lee"] / blurred["lee"]
    moved = max(
        sharp["relative_spectrum"] / blurred["relative_spectrum"],
        blurred["relative_spectrum"] / sharp["relative_spectrum"],
    )
    assert fall > 30
    assert moved < 3


def test_a_saturated_softmax_hides_the_error_from_probabilities_not_from_logits(network):
    x = band_limited((4, 3, 32, 32), band=2.0)
    mild = measure(network, x, "translation", "lee", verify=False)
    hot = measure(lambda z: 1000 * network(z), x, "translation", "lee", verify=False)
    assert hot.get("lee", "translation", "logits").value == close(
        1e6 * mild.get("lee", "translation", "logits").value, COMPUTED
    )
    ratio = hot.get("lee", "translation", "probs").value / 1e6
    assert ratio < mild.get("lee", "translation", "probs").value
