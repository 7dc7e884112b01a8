"""The Rapidash benchmark on a tiny cloud: what it prints is what it measured."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rapidash.py"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("rapidash_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)
    del sys.modules[spec.name]


@pytest.mark.parametrize("orientations", [0, 4])
def test_ratios_come_from_the_times(benchmark, orientations):
    result = benchmark.measure_one(12, orientations, "knn-4", repeats=1)
    assert min(result.forward, result.derivative, result.double_backward) > 0
    console = Console(width=120, record=True)
    console.print(benchmark.table([result]))
    text = console.export_text()
    assert f"{result.derivative / result.forward:.1f}" in text
    assert f"{result.double_backward / result.derivative:.1f}" in text
