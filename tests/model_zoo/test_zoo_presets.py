"""Presets: every name exists in the installed timm, and the weights of 2022 are the right ones."""

import pytest
import timm
from timm.models import get_arch_pretrained_cfgs, list_modules

from liederiv.errors import ModelError
from liederiv.model_zoo import PRESETS, preset
from liederiv.model_zoo.sources.timm_names import resolve_name


@pytest.fixture(scope="module")
def paper():
    return {e.paper_name: e for e in preset("paper-e2e")}


@pytest.mark.parametrize("name", PRESETS)
def test_every_name_is_known_to_timm(name):
    entries = preset(name)
    assert entries
    published = set(timm.list_pretrained())
    for entry in entries:
        if not entry.available:
            assert entry.note
            continue
        assert resolve_name(entry.name).startswith(entry.name)
        if entry.pretrained:
            assert entry.name in published or any(n.startswith(f"{entry.name}.") for n in published)
        assert entry.name.partition(".")[0] in timm.list_models(module=entry.family)


def test_sizes_of_the_papers_lists(paper):
    layerwise = {e.paper_name for e in preset("paper-layerwise")}
    assert (len(paper), len(layerwise)) == (483, 97)
    assert layerwise <= set(paper)
    assert [e.paper_name for e in paper.values() if not e.available] == [
        "ig_resnext101_32x48d",
        "gluon_xception65",
    ]
    assert [e.paper_name for e in paper.values() if e.match == "untrained"] == ["mixnet_xxl"]


def test_default_of_today_is_recorded_where_it_is_newer(paper):
    for entry in paper.values():
        if entry.available:
            arch = entry.name.partition(".")[0]
            tag = timm.get_pretrained_cfg(arch).tag
            today = f"{arch}.{tag}"
            assert (entry.default_name or entry.name) == today
            assert entry.default_name != entry.name


@pytest.mark.parametrize(
    ("paper_name", "name"),
    [
        ("resnet18", "resnet18.tv_in1k"),
        ("convnext_base", "convnext_base.fb_in1k"),
        ("tf_efficientnet_b0", "tf_efficientnet_b0.aa_in1k"),
        ("tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"),
        ("vit_base_patch16_224", "vit_base_patch16_224.augreg_in21k_ft_in1k"),
        ("vit_base_patch32_sam_224", "vit_base_patch32_224.sam_in1k"),
        ("ig_resnext101_32x16d", "resnext101_32x16d.fb_wsl_ig1b_ft_in1k"),
        ("mixer_b16_224_in21k", "mixer_b16_224.goog_in21k"),
    ],
)
def test_weights_of_2022(paper, paper_name, name):
    assert paper[paper_name].name == name


def test_files_agree_where_timm_still_gives_an_address(paper):
    """The address of the tag, where today's timm has one, names the file of 2022."""
    checked = 0
    for entry in paper.values():
        if entry.match != "same file":
            continue
        url = timm.get_pretrained_cfg(entry.name).url or ""
        file = url.rsplit("/", 1)[-1]
        # torchvision hashed some files anew; the weights in them are unchanged.
        if url and "download.pytorch.org" not in url:
            assert file == entry.file_2022, entry
            checked += 1
    assert checked > 150


def test_a_set_of_weights_is_the_only_one(paper):
    for entry in paper.values():
        if entry.match == "only weights":
            tagged = [n for n in get_arch_pretrained_cfgs(entry.name.partition(".")[0]) if "." in n]
            assert tagged == [entry.name]


def test_no_two_names_of_the_paper_are_the_same_weights(paper):
    names = [e.name for e in paper.values() if e.available]
    assert len(names) == len(set(names))


def test_one_model_for_each_family():
    entries = preset("families")
    assert [e.family for e in entries] == list(list_modules())
    assert all(e.available for e in entries)


def test_imagenet_classifiers_have_a_thousand_classes():
    entries = preset("imagenet1k")
    assert len(entries) > 1000
    assert all(timm.get_pretrained_cfg(e.name).num_classes == 1000 for e in entries)
    names = {e.name for e in entries}
    assert "resnet50.a1_in1k" in names
    assert "resnet50.b1k_in1k" in names
    assert "vit_base_patch16_224.augreg_in21k" not in names


def test_unknown_preset():
    with pytest.raises(ModelError, match="`preset`='papers' is unknown; choose one of paper-e2e"):
        preset("papers")
