"""Which models, in which order, and which shard of them."""

import pytest
import timm
import torch

from liederiv.errors import LieDerivError
from liederiv.model_zoo.scan import Candidate, parse_count, select_models, shard
from liederiv.model_zoo.scan.presets import preset
from liederiv.model_zoo.sources.parameters import count_on_meta, parameter_count
from liederiv.model_zoo.sources.random_weights import calibrate

MODELS = [Candidate(str(i), str(i)) for i in range(10)]


def names(*patterns, **how):
    return [c.name for c in select_models(patterns, **how).candidates]


def test_wildcards_without_a_dot_match_architectures_and_take_the_default_tag():
    found = names("resnet1*", exclude=["*101*", "*152*"])
    assert found == [
        "resnet18d.ra2_in1k",
        "resnet18.a1_in1k",
        "resnet14t.c3_in1k",
        "resnet10t.c3_in1k",
    ]
    assert names("test_resne[t]") == ["test_resnet.r160_in1k"]


def test_wildcards_with_a_dot_match_every_tag():
    found = names("resnet18.*")
    assert set(found) == {n for n in timm.list_pretrained() if n.startswith("resnet18.")}
    assert len(found) > 3


def test_models_come_once_and_the_largest_first():
    found = select_models(["resnet18", "resnet50", "resnet18.a1_in1k", "mine:build", "resnet1[8]"])
    assert [c.name for c in found.candidates] == [
        "resnet50.a1_in1k",
        "resnet18.a1_in1k",
        "mine:build",
    ]
    assert [c.parameters for c in found.candidates] == [25557032, 11689512, None]
    assert found.candidates[1].requested == "resnet18"


def test_exclusion_and_size():
    selection = select_models(["resnet1*", "resnet50"], exclude=["*14t"], max_params=12e6)
    assert [c.name for c in selection.candidates] == [
        n for n in names("resnet1*") if "14t" not in n and parameter_count(n) <= 12e6
    ]
    assert any("1 models left out by --exclude" in note for note in selection.notes)
    assert any("larger than 12 M parameters" in note for note in selection.notes)


def test_unpublished_models_need_random_weights():
    with pytest.raises(LieDerivError, match="No model with published weights matches 'dla46x_d"):
        names("dla46x_d*")
    bare = next(n for n in timm.list_models() if n not in _published())
    assert names(bare + "*", pretrained=False)


def _published():
    return {n.partition(".")[0] for n in timm.list_pretrained()}


def test_a_file_of_names_may_hold_unknown_ones(tmp_path):
    file = tmp_path / "models.txt"
    file.write_text("# mine\nresnet18  # small\n\nno_such_model\ntest_resne*\n")
    assert names(models_file=file) == [
        "resnet18.a1_in1k",
        "test_resnet.r160_in1k",
        "no_such_model",
    ]
    with pytest.raises(LieDerivError, match="Unknown model 'no_such_model'"):
        names("no_such_model")
    with pytest.raises(LieDerivError, match=r"--models-file=.*cannot be read"):
        names(models_file=tmp_path / "absent.txt")


def test_nothing_to_scan_is_an_error():
    with pytest.raises(LieDerivError, match="no model is left to scan"):
        names()
    with pytest.raises(LieDerivError, match="1 models left out, larger than 1 M"):
        names("resnet18", max_params=1e6)


def test_presets_say_what_is_missing():
    selection = select_models(presets=["paper-layerwise"])
    gone = [e for e in preset("paper-layerwise") if not e.available]
    untrained = [e for e in preset("paper-layerwise") if e.available and not e.pretrained]
    assert len(selection.candidates) == len(
        {e.name for e in preset("paper-layerwise")} - {e.name for e in gone + untrained}
    )
    said = " ".join(selection.notes)
    assert all(e.paper_name in said for e in gone + untrained)
    families = select_models(presets=["families"], pretrained=False)
    assert len(families.candidates) == len(preset("families"))


def test_shards_are_disjoint_complete_and_mixed():
    parts = [shard(MODELS, f"{i}/3", {}) for i in (1, 2, 3)]
    assert sorted(c.name for part in parts for c in part) == sorted(c.name for c in MODELS)
    assert [c.name for c in parts[1]] == ["1", "4", "7"]
    assert shard(MODELS, None, {}) == tuple(MODELS)


@pytest.mark.parametrize(("index", "low", "step"), [(2, 1, 1), (1, 0, 1), (15, 10, 5)])
def test_slurms_array_gives_the_shard(index, low, step):
    environment = {
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_MIN": str(low),
        "SLURM_ARRAY_TASK_COUNT": "4",
        "SLURM_ARRAY_TASK_STEP": str(step),
    }
    assert shard(MODELS, None, environment) == shard(MODELS, "2/4", {})
    assert shard(MODELS, "1/2", environment) == shard(MODELS, "1/2", {}), "the option wins"


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "x/2", "3", "1/2/3", f"{'1' * 5000}/3"])
def test_bad_shards_are_refused(text):
    with pytest.raises(LieDerivError, match=r"--shard="):
        shard(MODELS, text, {})


@pytest.mark.parametrize("value", ["x", "", "1" * 5000])
def test_variables_of_slurm_that_are_no_numbers_are_refused(value):
    environment = {"SLURM_ARRAY_TASK_ID": value, "SLURM_ARRAY_TASK_COUNT": "2"}
    with pytest.raises(
        LieDerivError, match=r"SLURM_ARRAY_TASK_ID=.* of the environment is no whole"
    ):
        shard(MODELS, None, environment)


def test_an_array_with_gaps_is_refused():
    environment = {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "2"}
    with pytest.raises(LieDerivError, match="array task 9 is none of the 2 shards"):
        shard(MODELS, None, environment)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224.augreg_in21k", "test_vit", "mixer_s32_224"]
)
def test_the_table_of_sizes_agrees_with_the_models(name):
    assert parameter_count(name) == count_on_meta(name)


def test_sizes_of_tags_differ_with_their_classes():
    name = "vit_tiny_patch16_224"
    in21k, in1k = (parameter_count(f"{name}.augreg_in21k{s}") for s in ("", "_ft_in1k"))
    classes = timm.get_pretrained_cfg(f"{name}.augreg_in21k").num_classes
    assert in21k - in1k == (classes - 1000) * (192 + 1)
    assert parameter_count("hf-hub:a/b") is parameter_count("mine:build") is None


def test_counts_with_units():
    assert parse_count("100M", "--max-params") == parse_count("100000000", "x") == 1e8
    with pytest.raises(LieDerivError, match="--max-params='many' must be a number such as 100M"):
        parse_count("many", "--max-params")


def test_calibration_makes_a_random_network_alive():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8, momentum=0.2)]
    head = torch.nn.Linear(8, 3)
    torch.nn.init.zeros_(head.weight)
    model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
    model.get_classifier = lambda: head
    model.eval().requires_grad_(False)
    x = 5 + 3 * torch.randn(4, 3, 9, 9)
    calibrate(model, x)
    normalised = model[1](model[0](x))
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-5
    assert (normalised.var((0, 2, 3)) - 1).abs().max() < 1e-3
    assert head.weight.std() > 0
    assert not any(m.training for m in model.modules())
    assert model[1].momentum == 0.2
