"""A scan and its weights, against a hub on the loopback interface: the command line in processes.

The models are timm's smallest, three times over under other names; one does not exist.
"""

import json
import os
import subprocess
import sys

import pytest
import timm
from hub_server import serve
from patience import PATIENCE
from safetensors.torch import save

from liederiv.model_zoo.scan.store import Store

NAMES = ("real-a", "real-b", "real-c")
QUICK = ("--num-images", "1", "--transforms", "rotation", "--metrics", "lee", "--quiet")


@pytest.fixture(scope="module")
def hub_and_run(tmp_path_factory):
    """The hub, a function that runs `liederiv scan`, a folder, and the size of one model."""
    root = tmp_path_factory.mktemp("scan_weights")
    model = timm.create_model("test_resnet", num_classes=10).eval()
    content = save(model.state_dict())
    config = {
        "architecture": "test_resnet",
        "num_classes": 10,
        "pretrained_cfg": model.pretrained_cfg,
    }
    with serve() as (address, hub):
        for name in NAMES:
            hub.files[f"org/{name}", "model.safetensors"] = content
            hub.files[f"org/{name}", "config.json"] = json.dumps(config, default=str).encode()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= {"OMP_NUM_THREADS": "1"}

        def run(*arguments, cache):
            code = "from liederiv.cli import main; main()"
            return subprocess.run(
                [sys.executable, "-c", code, "scan", *map(str, arguments)],
                env=environment | {"HF_HUB_CACHE": str(root / cache)},
                cwd=root,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )

        yield hub, run, root, len(content)


def hub_names(*names):
    return [f"hf-hub:org/{name}" for name in names]


def outcomes(folder):
    frame = Store.open(folder).read("score").drop_duplicates("model").set_index("model")
    return frame["outcome"].to_dict(), frame["reason"].to_dict()


def on_disk(folder):
    return sorted(p.name.removeprefix("models--org--") for p in folder.glob("models--*"))


def test_prefetched_weights_are_measured_offline(hub_and_run):
    hub, run, root, size = hub_and_run
    done = run("--prefetch", *hub_names("real-a", "absent"), cache="first")
    assert done.returncode == 1
    assert "hf-hub:org/absent: Weights hf-hub:org/absent do not exist on the hub" in done.stderr
    assert f"weights of 2 models: 1 downloaded, 1 failed; {size / 1e6:.3g} MB" in done.stdout
    assert on_disk(root / "first") == ["real-a"]
    assert not (root / "scan").exists()

    before = sum(hub.asked.values())
    names = hub_names("real-a", "real-b")
    done = run(*names, *QUICK, "--offline", "--out", root / "offline", cache="first")
    assert done.returncode == 0, done.stderr
    assert sum(hub.asked.values()) == before
    outcome, reason = outcomes(root / "offline")
    assert outcome == {names[0]: "measured", names[1]: "failed"}
    assert "are not cached here and the hub is offline" in reason[names[1]]


def test_downloads_within_a_limit_go_along_with_the_measurements(hub_and_run):
    hub, run, root, size = hub_and_run
    names = hub_names(*NAMES, "absent")
    hub.asked.clear()
    limit = f"{1.5 * size:.0f}"
    done = run(*names, *QUICK, "--cache-limit", limit, "--out", root / "bounded", cache="second")
    assert done.returncode == 0, done.stderr
    outcome, reason = outcomes(root / "bounded")
    assert outcome == {**dict.fromkeys(names[:3], "measured"), names[3]: "failed"}
    assert "do not exist on the hub" in reason[names[3]]
    # One model's weights fit at a time, and each was downloaded for its turn alone.
    assert len([n for n in on_disk(root / "second") if n.startswith("real")]) <= 1
    weights = [
        n
        for (method, _, file), n in hub.asked.items()
        if (method, file) == ("GET", "model.safetensors")
    ]
    assert sorted(weights)[:3] == [1, 1, 1]
