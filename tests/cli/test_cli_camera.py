"""`--scheme camera`: photographs at their full resolution, through every command's door."""

import json

import numpy as np
import pytest
from PIL import Image

from liederiv import LieDerivError


@pytest.fixture
def large(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).integers(60, 190, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((130, 110), Image.Resampling.BICUBIC).save(
            folder / f"{i}.png"
        )
    return folder


def test_scores_and_layers_with_the_camera(score, run, user_code, large, tmp_path):
    result = score("--scheme", "camera", "--json", tmp_path / "a.json", images=large)
    assert result.exit_code == 0, result.output
    assert "scheme camera" in result.output
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["scheme"] == "camera"
    assert any("derivative at full resolution is known to" in w for w in report["warnings"])
    plain = score("--json", tmp_path / "b.json", images=large)
    assert plain.exit_code == 0
    other = json.loads((tmp_path / "b.json").read_text())
    assert report["results"][0]["value"] != other["results"][0]["value"]
    shown = run(
        *("layers", f"{user_code}:classifier", "--images", large, "--num-images", 1),
        *("--transforms", "rotation", "--scheme", "camera"),
    )
    assert shown.exit_code == 0, shown.output
    assert "resampling" in shown.output


def test_small_images_are_refused(score):
    result = score("--scheme", "camera")
    assert isinstance(result.exception, LieDerivError)
    assert "too small for scheme='camera'" in str(result.exception)
