"""Every notebook runs from top to bottom, offline, on what the `samples` extra installs.

`make test` runs every cell on less: fewer images, steps and models. `make test-all` runs all.
"""

import asyncio
import warnings
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from patience import PATIENCE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NOTEBOOKS = {path.stem: path for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb")}

# notebook: what stands in its code, and what takes its place
LESS = {
    "layerwise_violations": {
        "img_size=128": "img_size=96",
        'what_if(model, x[:2], "translation", k=5': 'what_if(model, x[:1], "translation", k=1',
    },
    "rapidash_variants": {
        "systems=32": "systems=4",
        "(4, 6, 8, 12, 16, 24, 32, 48, 64)": "(4, 8, 16)",
        "clouds[:6]": "clouds[:2]",
    },
    "scale": {
        "SIZE, TRANSFORMS = 128": "SIZE, TRANSFORMS = 64",
        "num_images=4).batches(4)": "num_images=2).batches(2)",
        "resamples=500": "resamples=20",
    },
    "training_with_penalty": {"range(60)": "range(5)", "epochs=12": "epochs=1"},
    "zoo_scan": {
        '"--num-images", 4': '"--num-images", 1',
        '"--offline", "--measure"': '"--offline", "--img-size", 96, "--measure"',
        '"--num-images", 2': '"--num-images", 1',
        "resamples=500": "resamples=20",
    },
}


def test_there_are_notebooks():
    assert set(NOTEBOOKS) == set(LESS)


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_notebook_runs(name, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))  # cells run in another folder than their own
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    if not whole:
        reduce(notebook, LESS[name])
    client = NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": tmp_path}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel client, not of the notebook's code
        asyncio.run(client.async_execute())
    printed = [o for c in notebook.cells for o in c.get("outputs", ())]
    assert not [o for o in printed if o["output_type"] == "error"]
    assert any("image/png" in o.get("data", {}) for o in printed)
    assert "Traceback" not in str([o.get("text", "") for o in printed])


def reduce(notebook, less):
    """Let the same code run on less; fails where the notebook no longer says what is replaced."""
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    for old, new in less.items():
        assert any(old in c.source for c in cells), f"{old} is in no cell: change LESS"
        for cell in cells:
            cell.source = cell.source.replace(old, new)
