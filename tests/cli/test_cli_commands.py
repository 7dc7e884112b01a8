"""`liederiv compare`, `check`, `models`, `info`, and the help of every command."""

import re

import pandas as pd
import pytest
import timm
import torch

import liederiv
from liederiv.cli import app

QUICK = ("--num-images", "3", "--transforms", "rotation", "--metrics", "lee")


def test_compare_of_two_checkpoints(run, photographs, tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = timm.create_model("test_resnet", num_classes=5)
        torch.save(model.state_dict(), tmp_path / f"{seed}.pth")
    result = run(
        *("compare", tmp_path / "0.pth", tmp_path / "1.pth", "--model", "test_resnet"),
        *("--img-size", 48, "--images", photographs, *QUICK, "--csv", tmp_path / "d.csv"),
    )
    assert result.exit_code == 0, result.output
    assert "B − A" in result.stdout
    table = pd.read_csv(tmp_path / "d.csv")
    assert set(table["output"]) == {"probs", "logits"}
    gap = (table["b"] - table["a"]).tolist()
    assert table["difference"].tolist() == pytest.approx(gap, rel=1e-9)
    assert (table["difference"] != 0).all()
    assert (table["ci_low"] <= table["difference"]).all()
    assert (table["difference"] <= table["ci_high"]).all()
    scores = run(
        *("score", "test_resnet", "--checkpoint", tmp_path / "0.pth", "--img-size", 48),
        *("--images", photographs, *QUICK, "--csv", tmp_path / "s.csv"),
    )
    assert scores.exit_code == 0
    alone = pd.read_csv(tmp_path / "s.csv").set_index(["metric", "transform", "output"])["value"]
    paired = table.set_index(["metric", "transform", "output"])["a"]
    assert paired.to_dict() == pytest.approx(alone.to_dict(), rel=1e-9)


def test_compare_of_a_model_with_itself_is_zero(run, user_code, photographs, tmp_path):
    name = f"{user_code}:classifier"
    result = run(
        *("compare", name, name, "--images", photographs, *QUICK),
        *("--csv", tmp_path / "d.csv", "--quiet"),
    )
    assert result.exit_code == 0
    assert result.output == ""
    table = pd.read_csv(tmp_path / "d.csv")
    assert len(table) == 4
    assert (table[["difference", "ci_low", "ci_high"]] == 0).all(axis=None)


def test_check_passes_a_sound_model(run, user_code, photographs):
    result = run("check", f"{user_code}:classifier", "--images", photographs)
    assert result.exit_code == 0
    for text in ("translation_x", "rotation", "scale", "Deterministic: yes", "engine vmap"):
        assert text in result.stdout


@pytest.mark.parametrize("model", ["detached", "cut"])
def test_check_fails_a_model_with_a_detach(run, user_code, photographs, model):
    result = run("check", f"{user_code}:{model}", "--images", photographs)
    assert result.exit_code == 1
    assert "may be detached from its input" in " ".join(result.stdout.split())
    assert "The derivative is right" not in result.stdout


def test_models_lists_names(run):
    result = run("models", "test_res*", "--names-only")
    assert result.exit_code == 0
    assert result.stdout.split() == timm.list_models("test_res*")
    table = run("models", "tf_efficientnet_lite*")
    assert "tf_efficientnet_lite0" in table.stdout
    assert re.search(r"tf_efficientnet_lite4\s+in1k", table.stdout)
    assert f"{len(timm.list_models('tf_efficientnet_lite*'))} models" in table.stdout


def test_models_pretrained_only(run):
    every = run("models", "efficientnet_lite*", "--names-only").stdout.split()
    published = run("models", "efficientnet_lite*", "--names-only", "--pretrained").stdout.split()
    assert set(published) < set(every)
    assert all(timm.is_model_pretrained(name) for name in published)


def test_info_names_versions_and_devices(run):
    result = run("info")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"liederiv      {liederiv.__version__}")
    for text in ("python", torch.__version__.split("+")[0], timm.__version__, "CUDA"):
        assert text in result.stdout


HELP = {
    "score": (
        "--checkpoint --pretrained --no-pretrained --num-classes --model-kwargs --images "
        "--num-images --img-size --crop-pct --mean --std --interpolation --transforms --scheme "
        "--metrics --output-type --unit --device --dtype --batch-size --seed --json --csv "
        "--per-image --quiet"
    ),
    "layers": (
        "--checkpoint --pretrained --num-classes --model-kwargs --images --num-images --img-size "
        "--transforms --scheme --output-type --unit --device --dtype --seed --top --by --aliasing "
        "--what-if --plot --json --parquet --quiet"
    ),
    "orbit": (
        "--checkpoint --pretrained --num-classes --model-kwargs --images --num-images --img-size "
        "--transforms --scheme --output-type --unit --device --dtype --seed --range --points "
        "--shifts --worst --starts --figure --json --quiet"
    ),
    "compare": (
        "--model --pretrained --num-classes --model-kwargs --images --num-images --img-size "
        "--transforms --scheme --metrics --output-type --device --dtype --batch-size --seed --csv "
        "--quiet"
    ),
    "check": (
        "--checkpoint --pretrained --num-classes --model-kwargs --images --img-size --transforms "
        "--scheme --output-type --device --seed"
    ),
    "scan": (
        "--models-file --preset --pretrained --exclude --max-params --out --measure --engine "
        "--workers --gpus-per-task --address --shard --timeout --retry-failed --dry-run --prefetch "
        "--offline --cache-limit --images --transforms --scheme --metrics --seed --quiet"
    ),
    "results": "--sort --group --accuracy --format --failed",
    "report": "--out --accuracy --title --quiet",
    "gate": "--max --baseline --max-increase --junit --json --images --scheme --output-type",
    "track": "--model --images --transforms --plot --json --csv --parquet --quiet",
    "models": "--pretrained --names-only",
    "info": "",
}


@pytest.mark.parametrize("command", HELP)
def test_help_mentions_the_options(run, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    for flag in ("--help", "-h"):
        result = run(command, flag)
        assert result.exit_code == 0
        for option in HELP[command].split():
            assert option in result.stdout


def test_help_lists_the_commands(run):
    result = run("--help")
    assert result.exit_code == 0
    assert len(app.registered_commands) == len(HELP)
    for command in HELP:
        assert command in result.stdout
