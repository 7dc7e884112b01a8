"""One vocabulary: the same arguments have the same names in everything that measures."""

import inspect

import pytest
import torch
from cases import formula_images, formula_network

import liederiv
from liederiv import analysis
from liederiv.cli.options import OPTIONS
from liederiv.testing import assert_equivariant, equivariance_errors

MEASURES = (
    liederiv.measure,
    liederiv.lie_derivative,
    liederiv.lie_derivative_with_output,
    analysis.attribute,
    analysis.what_if,
    analysis.measure_aliasing,
    analysis.measure_finite,
    analysis.orbit,
    liederiv.equivariance_penalty,
    liederiv.multitask_loss,
    assert_equivariant,
    equivariance_errors,
)
METRIC = (liederiv.LocalEquivarianceError.__init__, liederiv.LocalEquivarianceError.update)
FORMER = {"f", "x", "images", "inputs", "generators", "representation", "kind", "net", "fn"}


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("function", MEASURES, ids=lambda f: f.__name__)
def test_arguments_have_the_names_of_measure(function):
    names = parameters(function)
    assert names[:2] == ["model", "batches"]
    assert not FORMER & set(names)
    if "targets" in names:  # of the task
        names.remove("targets"), names.remove("loss")
    if function is not analysis.measure_finite:  # whose metrics are of certain transforms
        assert names[2] == "transforms"
        assert "output" in names
        assert inspect.signature(function).parameters["output"].default == "auto"
    if "output_type" in names:
        default = inspect.signature(function).parameters["output_type"].default
        assert default == ("logits" if function is analysis.what_if else "auto")


def test_the_metric_and_the_command_line_have_them_too():
    made, update = map(parameters, METRIC)
    assert made[0] == "transforms"
    assert {"output", "output_type"} <= set(made)
    assert update == ["model", "batches"]
    assert not FORMER & {*made, *update}
    flags = {}
    for field, option in OPTIONS.items():
        (info,) = option.__metadata__
        given = (info.default, *(info.param_decls or ()))  # typer has the first name in `default`
        long = [d for d in given if isinstance(d, str) and d.startswith("--")]
        flags[field] = long or ["--" + field.replace("_", "-")]
    assert flags["representation"][0] == "--output"
    assert flags["transforms"] == ["--transforms"]
    assert flags["output_type"] == ["--output-type"]


def test_former_names_are_taken_with_a_warning():
    net, x = formula_network(), formula_images()
    now = liederiv.lie_derivative(net, x, "rotation")
    with pytest.warns(DeprecationWarning, match="lie_derivative: the argument f is called model"):
        then = liederiv.lie_derivative(f=net, batches=x, transforms="rotation")
    assert torch.equal(now, then)
    with pytest.raises(TypeError, match="generators is called transforms now; give it once"):
        liederiv.lie_derivative(net, x, generators="rotation", transforms="scale")
    with pytest.warns(DeprecationWarning, match="argument output is called output_type"):
        found = analysis.attribute(net, x[:1], "rotation", output="logits")
    assert found.output == "logits"
    want = analysis.attribute(net, x[:1], "rotation", output_type="logits")
    assert found.totals == want.totals
    with pytest.raises(liederiv.LieDerivError, match="output_type='prob' is unknown; choose from"):
        analysis.attribute(net, x, "rotation", output_type="prob")


def test_several_batches_are_one_input():
    net, x = formula_network(), formula_images()
    labels = torch.zeros(len(x), dtype=torch.long)
    want = liederiv.lie_derivative(net, x, "rotation")
    for batches in ([x[:1], x[1:]], (x, labels), {"pixel_values": x}):
        torch.testing.assert_close(liederiv.lie_derivative(net, batches, "rotation"), want)
    for nothing, message in (([], "delivers nothing"), (3, "batches=3 must be a tensor")):
        with pytest.raises(liederiv.ImageError, match=message):
            liederiv.lie_derivative(net, nothing, "rotation")
    with pytest.raises(liederiv.LieDerivError, match="2 batches that do not make one tensor"):
        liederiv.lie_derivative(net, [x, x[..., :16]], "rotation")
