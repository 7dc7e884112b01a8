"""The Rapidash benchmark on a tiny cloud: what it prints is what it measured."""

import pytest
from rich.console import Console


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("rapidash")


@pytest.mark.parametrize("orientations", [0, 4])
def test_ratios_come_from_the_times(benchmark, orientations):
    result = benchmark.measure_one(12, orientations, "knn-4", repeats=1)
    assert min(result.forward, result.derivative, result.double_backward) > 0
    console = Console(width=120, record=True)
    console.print(benchmark.table([result]))
    text = console.export_text()
    assert f"{result.derivative / result.forward:.1f}" in text
    assert f"{result.double_backward / result.derivative:.1f}" in text
