"""Some of the networks through the command line: the number in its file is right, or code 2."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from liederiv import LieDerivError
from liederiv.cli import app
from liederiv.model_zoo import load, load_images

from .kinds import NETWORKS
from .truth import Raw, find_truth

NAMES = (
    "NothingAwkward",
    "OrdinaryInplaceSequential",
    "ReluReadThroughItsArgument",
    "DeformableConvolutionBesideASkip",
    "DetachOfEverything",
    "WritesThroughData",
    "OnceDifferentiableInABranch",
    "JvpTwiceTooLarge",
    "BatchStatisticsInEvalMode",
    "TestTimeAugmentation",
    "StochasticDepth",
    "StraightThroughRounding",
    "SaliencyDetached",
    "TransposedOutput",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two small photographs."""
    made = tmp_path_factory.mktemp("gauntlet")
    rng = np.random.default_rng(1)
    for i in range(2):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((24, 24), Image.Resampling.BICUBIC).save(made / f"{i}.png")
    return made


@pytest.mark.parametrize("name", NAMES)
def test_score_is_right_or_refused(name, folder, tmp_path):
    cls, model, out = NETWORKS[name], f"gauntlet.cli_models:{name}", tmp_path / "r.json"
    arguments = [
        *("score", model, "--images", folder, "--num-images", 2, "--batch-size", 2, "--quiet"),
        *("--transforms", cls.generators, "--metrics", "lee", "--output-type", "logits"),
        *("--scheme", "fourier", "--json", out),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exit_code:
        assert isinstance(result.exception, LieDerivError), result.exception
        assert not cls.needed, f"refused: {result.exception}"
        return
    assert cls.right == "number", "a number where none is right"
    config = load(model, None, False).data_config
    x = torch.stack(list(load_images(folder, config, 2)))
    want = find_truth(Raw(cls), x, cls.generators, cls.output).lee()
    results = json.loads(out.read_text())["results"]
    rows = {r["transform"]: r["value"] for r in results if r["metric"] == "lee"}
    for transform, value in want.items():
        assert rows[transform] == pytest.approx(value, rel=0.04), transform
