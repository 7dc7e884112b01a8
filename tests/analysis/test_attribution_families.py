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

from liederiv import lie_derivative
from liederiv.analysis import attribute
from liederiv.model_zoo import load_images
from liederiv.representations import TokenGrid

_FILE = Path(__file__).parents[1] / "families" / "test_timm_families.py"
SMALL = ("byobnet", "convnext", "efficientnet", "resnet", "vision_transformer")
# Networks of a dozen families, small enough for every test run: name, size, arguments.
LAWFUL = [
    ("mixer_s16_224", 64, {"img_size": 64}),
    ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}),
    (
        "swin_tiny_patch4_window7_224",
        56,
        {"img_size": 56, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "embed_dim": 24},
    ),
    ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    ("convnext_atto", 64, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    ("beit_base_patch16_224", 64, {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    ("test_resnet", 64, {}),
    ("test_byobnet", 64, {}),
    ("test_efficientnet", 64, {}),
    ("xcit_nano_12_p16_224", 64, {"img_size": 64, "depth": 2}),
    ("poolformer_s12", 64, {}),
    ("pit_ti_224", 64, {"img_size": 64, "depth": (1, 1, 1)}),
    ("cait_xxs24_224", 64, {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    ("densenet121", 64, {"block_config": (2, 2), "growth_rate": 8}),
]


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


@pytest.mark.parametrize(("name", "size", "kwargs"), LAWFUL, ids=[name for name, _, _ in LAWFUL])
def test_a_contribution_does_not_depend_on_what_else_is_asked_for(name, size, kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **kwargs).eval().requires_grad_(False)
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    _families().calibrate_batch_norms(model, x)
    _families().randomise_zero_classifier(model)
    whole = measured(model, x[:1])
    assert not unclosed(whole)
    assert not unlawful(model, x[:1], whole)


EMBEDDINGS = [
    ("mixer_s16_224", 64, {"img_size": 64}, "stem", TokenGrid((4, 4))),
    ("mixer_s16_224", 64, {"img_size": 64}, "stem.proj", "NCHW"),
    ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}, "patch_embed", "NHWC"),
    ("swin_tiny_patch4_window7_224", 56, {"img_size": 56}, "patch_embed", "NHWC"),
    ("vit_tiny_patch16_224", 64, {"img_size": 64}, "patch_embed", TokenGrid((4, 4))),
    ("vit_tiny_patch16_224", 64, {"img_size": 64}, "blocks.0", TokenGrid((4, 4), 1)),
    ("convnext_atto", 64, {}, "stem", "NCHW"),
    ("convnext_atto", 64, {"conv_mlp": False}, "stages.1.blocks.0.mlp", "NHWC"),
]


@pytest.mark.parametrize(("name", "size", "kwargs", "path", "layout"), EMBEDDINGS)
def test_the_profile_is_the_lie_derivative_of_the_truncated_network(
    name, size, kwargs, path, layout
):
    """‖ℓ‖ inside against `lie_derivative` of the network up to there: no attribution in it."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **kwargs).double().eval()
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).double()

    def truncated(x):
        kept = []
        handle = model.get_submodule(path).register_forward_hook(
            lambda m, args, out: kept.append(out.clone())
        )
        model(x)
        handle.remove()
        return kept[0]

    direct = lie_derivative(truncated, x, "translation_x,rotation", output=layout)
    a = measured(model, x)
    (row,) = (r for r in a.profile if (a.entries[r.entry].path, r.role) == (path, "output"))
    np.testing.assert_allclose(row.lie_norm[:, 0], direct.flatten(1).norm(dim=1), rtol=1e-8)


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
