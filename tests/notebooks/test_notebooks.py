"""Every notebook runs from top to bottom, offline, on what the `samples` extra installs."""

import asyncio
import warnings
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from patience import PATIENCE

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    client = NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": tmp_path}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel client, not of the notebook's code
        asyncio.run(client.async_execute())
    printed = [o for c in notebook.cells for o in c.get("outputs", ())]
    assert not [o for o in printed if o["output_type"] == "error"]
    assert any("image/png" in o.get("data", {}) for o in printed)
    assert "Traceback" not in str([o.get("text", "") for o in printed])
