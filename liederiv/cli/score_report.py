"""What `liederiv score` prints."""

from __future__ import annotations

from liederiv.cli.tables import console, count, described_inputs, headline, score_tables
from liederiv.measurement.results import Measurement
from liederiv.model_zoo import ImageSet, LoadedModel
from liederiv.model_zoo.cloud_measuring import describe_clouds
from liederiv.model_zoo.clouds import CloudSet
from liederiv.model_zoo.point_models import LoadedPointModel

__all__ = ["print_scores"]


def print_scores(
    measurement: Measurement,
    loaded: LoadedModel | LoadedPointModel,
    found: ImageSet | CloudSet,
) -> None:
    """What was measured, how, and the tables."""
    out, p = console(), measurement.provenance
    if isinstance(found, CloudSet):
        size = describe_clouds(found)
    else:
        size = " × ".join(str(n) for n in found.data_config.input_size[1:]) + " pixels"
    about = f"{p.weights} · {count(loaded.num_parameters)} parameters"
    out.print(headline(p.model, about))
    out.print(
        f"{described_inputs(p)} of {size} · scheme {p.scheme} · "
        f"{p.dtype} on {p.device} · engine {p.engine} · output {p.representation}"
    )
    if p.verification:
        out.print(f"verified: {p.verification}")
    out.print()
    for item in score_tables(measurement):
        out.print(item)
