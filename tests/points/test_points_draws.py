"""Random directions and motions belong to the cloud: order, batches and dtype change nothing."""

import pytest
import torch
from per_image import assert_same, per_image
from point_networks import Pairs, clouds

from liederiv import PointCloud, measure
from liederiv.domains import domain_of

ORDER = [3, 0, 4, 2, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_order_of_clouds_permutes_their_values(batch_size):
    model, x = Pairs("forces").double().eval(), clouds((5, 3, 4, 2, 6))
    metrics = "lee,relative_norm,reference,sampled_error,discrete"
    whole = per_image(measure(model, x, "scale,rotation", metrics, batch_size=5))
    moved = measure(model, x[ORDER], "scale,rotation", metrics, batch_size=batch_size)
    assert_same(whole, per_image(moved), ORDER)


def test_the_order_of_points_changes_nothing():
    """The noise of a point follows the point, also where clouds lie interleaved in the batch."""
    model, x = Pairs("energy").double().eval(), clouds((5, 3, 4))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    mixed = PointCloud(
        x.pos[order],
        x.batch[order],
        **{
            group: {k: v[order] for k, v in getattr(x, group).items()}
            for group in ("scalars", "vectors")
        },
    )
    metrics = "lee,relative_norm,sampled_error"
    one, other = (per_image(measure(model, c, "scale,rotation", metrics)) for c in (x, mixed))
    assert_same(one, other, rtol=1e-8)


def test_seeds_are_the_same_in_float32_and_float64():
    cloud = clouds((5, 3), dtype=torch.float32)
    seeds = domain_of(cloud).seeds(cloud, 3)
    assert seeds == domain_of(cloud).seeds(cloud.double(), 3)
    assert seeds[::-1] == domain_of(cloud).seeds(cloud[[1, 0]], 3)
    assert len(set(seeds)) == 2
