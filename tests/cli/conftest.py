"""Fixtures of the command line's tests: a small model of the user's own, small photographs."""

import re
import sys

import numpy as np
import pytest
from hostile_code import MODELS
from PIL import Image
from typer.testing import CliRunner

from liederiv.cli import app, main

FACTORIES = '''
import torch
from torch import nn

def configured(model, channels=3):
    model.data_config = {
        "input_size": (channels, 32, 32), "mean": (0.5,) * channels, "std": (0.5,) * channels
    }
    return model

def classifier(classes=4, channels=3):
    return configured(nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, classes),
    ), channels)

def dense():
    return configured(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 5, 1)))

def pixelwise():
    return configured(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GELU(), nn.Conv2d(8, 5, 1)))

class Wrapped(nn.Module):
    """A classifier with something wrong about it."""
    def __init__(self, around):
        super().__init__()
        self.net, self.around = classifier(), around
    def forward(self, x):
        return self.around(self.net, x)

def detached():
    return configured(Wrapped(lambda net, x: net(x) + 0.3 * net(x.flip(-1).detach())))

def cut():
    return configured(Wrapped(lambda net, x: net(x.detach())))

def dictionary():
    return configured(Wrapped(lambda net, x: {"out": net(x)}))

def stochastic():
    return configured(Wrapped(lambda net, x: net(x + torch.randn_like(x))))

def not_a_number():
    return configured(Wrapped(lambda net, x: net(x) * float("nan")))

def decisions():
    return configured(Wrapped(lambda net, x: net(x).argmax(1)))

def fail(net, x):
    raise ValueError("boom\\nand more")

def failing():
    return configured(Wrapped(fail))

def raising():
    raise RuntimeError("no data\\nat all")

def nothing():
    return None
'''


@pytest.fixture(scope="session")
def user_code(tmp_path_factory):
    """Name of an importable module with factories."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "cli_user_models.py").write_text(FACTORIES)
    sys.path.insert(0, str(folder))
    yield "cli_user_models"
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder with five small images."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(5):
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((56, 48), Image.Resampling.BICUBIC).save(
            folder / f"image{i}.png"
        )
    return folder


@pytest.fixture
def run():
    """Call the command line in this process; errors of liederiv come back as exceptions."""

    def call(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return call


@pytest.fixture
def refused(end_badly):
    """Call `main()` and assert one line on stderr, nothing on stdout, exit code 2; that line."""

    def call(*arguments):
        code, out, err = end_badly(*arguments)
        assert code == 2, err
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert err.startswith("liederiv: ")
        return err

    return call


@pytest.fixture
def score(run, user_code, photographs):
    """`liederiv score` of the user's classifier on the small photographs, quick metrics."""

    def call(*arguments, model="classifier", images=photographs):
        return run(
            *("score", f"{user_code}:{model}", "--images", images, "--num-images", 3),
            *("--transforms", "rotation", "--metrics", "lee", *arguments),
        )

    return call


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """Name of a module with factories."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile_models.py").write_text(MODELS)
    for kind, line in {
        "exits": "import sys; sys.exit(0)",
        "raises": "raise KeyboardInterrupt",
    }.items():
        (folder / f"hostile_{kind}.py").write_text(line)
    sys.path.insert(0, str(folder))
    yield "hostile_models"
    sys.path.remove(str(folder))


@pytest.fixture
def end(end_badly):
    """Call `main()`: its exit code, and what it printed; there is no traceback nor any fault."""

    def call(*arguments):
        code, out, err = end_badly(*arguments)
        assert "Traceback" not in err + out
        assert "unexpected" not in err
        return code, out, err

    return call


@pytest.fixture
def end_badly(monkeypatch, capsys):
    """Call `main()`: its exit code, and what it printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["liederiv", *[str(a) for a in arguments]])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        # A progress bar that was wiped from its line leaves carriage returns.
        return stop.value.code, out, re.sub(r"^.*\r", "", err)

    return call


@pytest.fixture
def few(photographs):
    """Options for few small photographs and one transform."""
    return ("--images", photographs, "--num-images", 2, "--transforms", "rotation")
