"""Attribution of one small random model of every timm model family.

It closes, the witness agrees, and the law holds: what a module contributes does not depend on which
other modules are asked for.
"""

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
LAWFUL = (
    *("beit", "byobnet", "convnext", "densenet", "efficientnet", "mlp_mixer", "poolformer"),
    *("pvt_v2", "resnet", "swin_transformer", "vision_transformer", "xcit"),
)


def _families():
    spec = importlib.util.spec_from_file_location("timm_families_of_this_suite", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photographs(family, families):
    """A model of the family, ready to be measured, and a photograph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # slower engines and timm's own are no failure
        loaded = families.build(family)
        x = torch.stack(load_images("samples", loaded.data_config, 4)[:])
        families.calibrate_batch_norms(loaded.model, x)
    return loaded.model, x[:1]


def measured(model, x, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attribute(model, x, "translation_x,rotation", probes=2, **kwargs)


def unclosed(a):
    """What is wrong with the sums; empty if nothing is."""
    wrong = []
    if not a.closure_error < 1e-4:
        wrong.append(f"closure error {a.closure_error:.1e}")
    if not np.allclose(np.nansum(a.shares(), 0), 1, atol=1e-9):
        wrong.append(f"shares add up to {np.nansum(a.shares(), 0)}")
    found = sum(e.status == "measured" for e in a.entries)
    if found < 2:
        wrong.append(f"{found - 1} modules were measured")
    if not (a.witness.checked and a.witness.disagreement < 1e-3):
        wrong.append(f"the witness says: {a.witness}")
    return wrong


def unlawful(model, x, whole, count=3):
    """Modules that contribute something else when they are asked for alone."""
    calls = [i for i, e in enumerate(whole.entries) if i and e.status == "measured"]
    size = np.nan_to_num(whole.inclusive[:, :, 0]).max(1)
    largest = sorted(calls, key=lambda i: -size[i])[:1]
    others = np.random.default_rng(0).permutation([i for i in calls if i not in largest])
    wrong = []
    for path in dict.fromkeys(whole.entries[i].path for i in [*largest, *others[: count - 1]]):
        alone = measured(model, x, modules=[path])
        mine = [whole.inclusive[i] for i in calls if whole.entries[i].path == path]
        theirs = [
            alone.inclusive[i]
            for i, e in enumerate(alone.entries)
            if (e.path, e.status) == (path, "measured")
        ]
        # Contributions far below the whole are rounding; so is their difference.
        least = 1e-9 * whole.lie_norm_squared.max()
        if not np.allclose(mine, theirs, rtol=1e-3, atol=least):
            wrong.append(f"{path} contributes {np.ravel(mine)}, alone {np.ravel(theirs)}")
    return wrong


def check(family, families):
    """Attribute one model; what is wrong with the result, or an empty string."""
    model, x = photographs(family, families)
    whole = measured(model, x)
    return ", ".join([*unclosed(whole), *unlawful(model, x, whole)])


@pytest.mark.parametrize("family", SMALL)
def test_closes(family):
    families = _families()
    if not families.smallest(family).startswith("test_"):
        pytest.skip("no tiny model of this family")
    assert not unclosed(measured(*photographs(family, families)))


@pytest.mark.slow
def test_every_timm_family_closes_and_is_lawful():
    families, failed = _families(), {}
    for family in (m for m in list_modules() if timm.list_models(module=m)):
        try:
            wrong = check(family, families)
        except Exception as error:  # reported below, for all families at once
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            failed[family] = wrong
            print(f"FAILED {family} ({families.smallest(family)}): {wrong}", flush=True)
        gc.collect()
    assert not failed
