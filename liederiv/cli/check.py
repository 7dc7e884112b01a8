"""`liederiv check`: can this model be measured, and is the derivative right?"""

from __future__ import annotations

from liederiv.cli import options as o
from liederiv.cli.command import Leave
from liederiv.cli.groups import grouped
from liederiv.errors import ModelError
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.model_options import ModelOptions

__all__ = ["check"]

_TOLERANCE = 5e-3  # 0.5 %, as the witness has it
_FIXED = (
    "num_images", "split", "data_dir", "crop_pct", "mean", "std", "interpolation", "metrics",
    "unit", "dynamic_range", "margin", "steps", "dtype", "batch_size", "representation",
)  # fmt: skip


@grouped(omit=_FIXED)
def check(
    model: o.ModelName = None,
    model_flag: o.ModelFlag = None,
    checkpoint: o.CheckpointOption = None,
    chosen: ModelOptions = ModelOptions(),
    how: MeasureOptions = MeasureOptions(num_images=1),
) -> None:
    """Verify on this very model that its derivatives can be trusted.

    Runs one image through the model twice (is it deterministic?), and compares the forward-mode
    derivative along each transform with a central finite difference. Exit code 1 if they disagree
    by more than 0.5 %.
    """
    from liederiv.checks import check_derivative, preflight
    from liederiv.cli.tables import console, new_table, number
    from liederiv.domains import domain_of
    from liederiv.model_zoo.requests.measuring import as_batch, open_inputs, try_model

    loaded = chosen.open(model, model_flag, checkpoint)
    found = open_inputs(how, loaded)
    x = as_batch(found, chosen)
    module = loaded.target(how.output_type).model
    _check_finite(try_model(module, x))
    preflight(module, x)
    action = domain_of(x).action(how.transforms, x, found.scheme(how.scheme))
    result = check_derivative(module, x, action)
    table = new_table(f"{loaded.name}: derivative against finite difference")
    table.add_column("transform", min_width=40)
    table.add_column(f"relative error ({result.precision or 'unknown'})", justify="right")
    for name, error in result.errors.items():
        table.add_row(name, number(error))
    out = console()
    out.print(table)
    out.print("Deterministic: yes. Mode: eval. Output: finite, " + f"engine {result.engine}.")
    if "differs from a central" in result.passed_over:
        out.print(
            f"What torch records is not the model's derivative: {result.passed_over}. Part "
            "of the model may be detached from its input, or leaves torch; scores are measured by "
            f"the {result.engine} engine."
        )
        raise Leave(1)
    if not result.worst < _TOLERANCE:
        out.print(
            f"The derivative disagrees by up to {number(result.worst)}: part of the model may be "
            "detached from its input, or it computes in lower precision inside."
        )
        raise Leave(1)
    out.print(f"The derivative is right to {number(result.worst, 1)}.")


def _check_finite(y: object) -> None:
    """A finite difference of NaN would agree with anything."""
    from torch import Tensor

    if isinstance(y, Tensor) and not y.isfinite().all():
        raise ModelError(
            "the model's output is not finite (NaN or infinite) on the first image; check its "
            "weights and the normalisation of the images."
        )
