"""Measurements with made-up numbers, and hypothesis strategies for awkward ones."""

import math
from dataclasses import replace

from hypothesis import strategies as st

from liederiv.measurement.results import Measurement, Provenance, Score

NAMES = ("a", "b", "c", "d")
PROVENANCE = Provenance(
    model="net",
    weights="w",
    images="samples",
    images_fingerprint="f" * 16,
    num_images=4,
    scheme="bspline",
    representation="Invariant() (declared)",
    dtype="float32",
    device="cpu",
    seed=0,
    input_size=(3, 32, 32),
    output_size=(10,),
    transforms={"rotation": ("rotation about the centre",), "scale": ("scale",)},
    settings={"unit": "pixel", "dynamic_range": None, "margin": 0.0},
    preprocessing={"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.2,) * 3},
)


def score(value=1.0, transform="rotation", metric="lee", output="probs", **more):
    values = () if value is None else tuple(value * f for f in (0.5, 1.5, 0.5, 1.5))
    made = {
        "ci_low": value,
        "ci_high": value,
        "unit": "prob²/rad²",
        "per_image": values,
    } | more
    return Score(metric, transform, output, value, **made)


def measurement(*scores, **provenance):
    return Measurement(scores or (score(),), replace(PROVENANCE, **provenance), NAMES)


NUMBERS = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, 5e-324, 1e308, 1.0, 1.05]),
    st.floats(),
)
STATUS = st.sampled_from(["measured", "measured", "measured", "failed", "not applicable"])


@st.composite
def scores(draw, per_image=NUMBERS):
    """A row with numbers, statuses and values per image that need not fit together."""
    values = draw(st.lists(per_image.map(lambda v: math.nan if v is None else v), max_size=4))
    row = score(
        draw(NUMBERS),
        draw(st.sampled_from(["rotation", "scale"])),
        output=draw(st.sampled_from(["probs", "probs", "logits"])),
        ci_low=draw(NUMBERS),
        ci_high=draw(NUMBERS),
        unit=draw(st.sampled_from(["prob²/rad²", "prob²/rad²", "1"])),
        status=draw(STATUS),
        per_image=tuple(values),
    )
    return row


DIFFERENT = {
    "inputs": "clouds",
    "num_images": 5,
    "images_fingerprint": "0" * 16,
    "scheme": "fourier",
    "seed": 1,
    "dtype": "float64",
    "representation": "FeatureMap() (declared)",
    "input_size": (3, 64, 64),
    "output_size": (100,),
    "transforms": {"rotation": ("rotation about the corner",)},
    "settings": {"unit": "grid", "dynamic_range": None, "margin": 0.0},
    "preprocessing": {"input_size": (3, 32, 32), "mean": (0.4,) * 3, "std": (0.2,) * 3},
}
"""Of each field that decides what a number means, another value."""

HARMLESS = {
    "model": "other",
    "weights": "v",
    "weights_fingerprint": "9",
    "device": "cuda",
    "engine": "differences",
    "versions": {"torch": "0"},
}
"""Of each field that is compared or does not matter, another value."""
