"""Random directions and transforms belong to the image: order, batches and dtype change nothing."""

import numpy as np
import pytest
import torch
from cases import formula_network
from per_image import assert_same, per_image
from tolerances import COMPUTED, close
from torch import nn

from liederiv import measure
from liederiv.analysis import attribute, measure_finite
from liederiv.domains import domain_of
from liederiv.draws import canonical_bytes, item_seeds, seeded_coordinates, seeded_normal
from liederiv.testing import equivariance_errors

ORDER = [3, 0, 4, 2, 1]
RANDOM = "lee,relative,reference,sampled,decisions,discrete"


def five_images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, 3, 16, 16, dtype=torch.float32, generator=generator).to(dtype)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_order_of_images_permutes_their_values(batch_size):
    f, x = formula_network().double(), five_images()
    whole = per_image(measure(f, x, "translation,rotation", RANDOM, batch_size=5))
    assert len({metric for metric, *_ in whole}) >= 10
    moved = measure(f, x[ORDER], "translation,rotation", RANDOM, batch_size=batch_size)
    assert_same(whole, per_image(moved), ORDER)


def test_the_same_image_in_float32_and_float64_gets_the_same_noise():
    f, x = formula_network(), five_images(torch.float32)
    single = per_image(measure(f, x, "rotation", "relative,sampled_error", output_type="logits"))
    wide = measure(f.double(), x.double(), "rotation", "relative,sampled_error",
                   output_type="logits")  # fmt: skip
    for key, values in per_image(wide).items():
        np.testing.assert_allclose(single[key], values, rtol=2e-3, err_msg=str(key))


def test_layers_and_assertions_do_not_depend_on_the_order_either():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(4, 6)).double().eval()  # fmt: skip
    x = five_images()
    one, other = (measure_finite(net, v, num_samples=2) for v in (x, x[ORDER]))
    for a, b in zip(one.rows, other.rows, strict=True):
        np.testing.assert_allclose(b.error, a.error[ORDER], rtol=1e-9)
    options = {"output_type": "logits", "probes": 2}
    one, other = (attribute(net, v, "rotation", **options) for v in (x, x[ORDER]))
    np.testing.assert_allclose(other.inclusive, one.inclusive[..., ORDER], rtol=1e-6, atol=1e-15)
    assert np.nanmax(one.inclusive_error) > 0, "random probes were drawn"
    first, second = (
        equivariance_errors(net, v, "rotation", output="invariant")[0].error for v in (x, x[ORDER])
    )
    assert first == close(second, COMPUTED)


def test_seeds_depend_on_content_seed_and_purpose():
    x = five_images()
    domain = domain_of(x)
    seeds = domain.seeds(x, 0)
    assert len(set(seeds)) == 5
    assert domain.seeds(x[[1, 1]], 0) == [seeds[1]] * 2  # equal images share their draws
    assert not set(seeds) & set(domain.seeds(x, 1))
    assert not set(seeds) & set(domain.seeds(x, 0, "rotation"))
    assert canonical_bytes(torch.tensor([-0.0])) == canonical_bytes(torch.tensor([0.0]))
    noise = seeded_normal(seeds, (2000,))
    correlation = torch.corrcoef(noise)
    assert (correlation - torch.eye(5)).abs().max() < 5 / 2000**0.5, "images are independent"
    (t,) = seeded_coordinates(item_seeds([bytes([i]) for i in range(250)], 0), [2.0], num_samples=1)
    assert float(t.square().mean()) == pytest.approx(4 / 3, rel=0.25)
