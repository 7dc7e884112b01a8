"""Values per image of a measurement, to compare one with another."""

import numpy as np


def per_image(measurement) -> dict[tuple[str, ...], np.ndarray]:
    """Values and denominators by metric, transform and output, side by side: [images, 1 or 2]."""
    return {
        (s.metric, s.transform, s.output): np.stack(
            [v for v in (s.per_image, s.per_image_denominator) if v], 1
        )
        for s in measurement.scores
        if s.per_image
    }


def assert_same(one: dict, other: dict, order=slice(None), rtol: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for key, values in one.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(
            other[key], values[order], rtol=rtol, atol=1e-13 * scale + 1e-26, err_msg=str(key)
        )
