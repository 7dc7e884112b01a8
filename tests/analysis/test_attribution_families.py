"""Attribution closes on one small random model of every timm model family."""

import gc
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models import list_modules

from liederiv.analysis import attribute
from liederiv.model_zoo import load_images

_FILE = Path(__file__).parents[1] / "families" / "test_timm_families.py"
SMALL = ("byobnet", "convnext", "efficientnet", "resnet", "vision_transformer")


def _families():
    spec = importlib.util.spec_from_file_location("timm_families_of_this_suite", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def close(family, families):
    """Attribute one model; what is wrong with the result, or an empty string."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # slower engines and timm's own are no failure
        loaded = families.build(family)
        x = torch.stack(load_images("samples", loaded.data_config, 4)[:])
        families.calibrate_batch_norms(loaded.model, x)
        a = attribute(loaded.model, x[:1], "translation_x,rotation", probes=2)
    wrong = []
    if not a.closure_error < 1e-4:
        wrong.append(f"closure error {a.closure_error:.1e}")
    if not np.allclose(np.nansum(a.shares(), 0), 1, atol=1e-9):
        wrong.append(f"shares add up to {np.nansum(a.shares(), 0)}")
    measured = sum(e.status == "measured" for e in a.entries)
    if measured < 2:
        wrong.append(f"{measured - 1} modules were measured")
    return ", ".join(wrong)


@pytest.mark.parametrize("family", SMALL)
def test_closes(family):
    families = _families()
    if not families.smallest(family).startswith("test_"):
        pytest.skip("no tiny model of this family")
    assert close(family, families) == ""


@pytest.mark.slow
def test_every_timm_family_closes():
    families, failed = _families(), {}
    for family in (m for m in list_modules() if timm.list_models(module=m)):
        try:
            wrong = close(family, families)
        except Exception as error:  # reported below, for all families at once
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            failed[family] = wrong
            print(f"FAILED {family} ({families.smallest(family)}): {wrong}", flush=True)
        gc.collect()
    assert not failed
