"""Networks on point clouds in a scan: chosen by name, identified, measured as any model."""

import pytest
from scan_cases import settings_for

from liederiv.errors import LieDerivError
from liederiv.model_zoo import source_of
from liederiv.model_zoo.scan import select_models
from liederiv.model_zoo.scan.measurements import LoadedTask
from liederiv.model_zoo.scan.tasks import Task

NAME = "rapidash_tn_r3"


def loaded(**changes):
    settings = settings_for(num_images=2, **changes)
    return LoadedTask(Task(0, NAME, NAME, settings, ("score", "layers")))


def test_wildcards_and_names():
    found = [c.name for c in select_models(["rapidash_tn_r3*"]).candidates]
    assert NAME in found
    assert "rapidash_tn_r3s2" in found
    assert [c.name for c in select_models([NAME]).candidates] == [NAME]
    with pytest.raises(LieDerivError, match="rapidash_none"):
        select_models(["rapidash_none"])


def test_weights_are_identified_by_their_content():
    first, second = (source_of(n).identity(True) for n in (NAME, "rapidash_sen_r3"))
    assert len(first["weights"]) == 64
    assert first != second
    assert source_of(NAME).identity(False) == {"weights": None}


def test_scores_and_attribution():
    task = loaded(transforms="rotation_z")
    about = task.describe()
    assert about["input_channels"] is None
    assert about["parameters"] > 1000
    origin, scores = task.measure("score")
    assert origin["num_images"] == 2
    assert origin["scheme"] == "exact"
    lee = scores[(scores["metric"] == "lee") & (scores["transform"] == "rotation_z")]
    assert float(lee["value"].iloc[0]) > 0
    origin, rows = task.measure("layers")
    assert origin["num_images"] == 1
    assert "net.spatial_basis_fn.0" in set(rows["module"])
    with pytest.raises(LieDerivError, match="feature maps of images"):
        task.measure("aliasing")


def test_transforms_of_no_kind_of_input_are_refused():
    with pytest.raises(LieDerivError, match="'rotation_w' is unknown"):
        settings_for(transforms="rotation_w").check()
    settings_for(transforms="rotation_x,scale").check()
