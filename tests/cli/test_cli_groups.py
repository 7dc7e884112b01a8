"""Groups of options: fields of dataclasses as options of a command."""

from dataclasses import dataclass, fields

import pytest
import typer
from typer.testing import CliRunner

from liederiv.cli.groups import grouped
from liederiv.cli.options import OPTIONS
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.model_options import ModelOptions
from liederiv.model_zoo.scan import ScanSettings


@dataclass(frozen=True)
class First:
    num_images: int = 16
    seed: int = 0
    model_kwargs: tuple[str, ...] = ()
    inner: str = "no option"


@dataclass(frozen=True)
class Second:
    seed: int = 0
    split: str | None = None
    unit: str = "pixel"


def run(arguments, omit=()):
    """What a command with both groups gets."""
    got = {}

    @grouped(omit=omit)
    def command(
        name: str, a: First = First(num_images=4), b: Second = Second(), unit: str = "mine"
    ) -> None:
        """Take everything."""
        got.update(name=name, a=a, b=b, unit=unit)

    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, arguments.split())
    return got, done


def test_defaults_are_those_of_the_groups():
    got, done = run("x")
    assert done.exit_code == 0, done.output
    assert got == {"name": "x", "a": First(num_images=4), "b": Second(), "unit": "mine"}


def test_fields_become_options_and_shared_ones_reach_every_group():
    got, done = run("x --num-images 7 --seed 3 --split val --model-kwargs a=1 --model-kwargs b=2")
    assert done.exit_code == 0, done.output
    assert got["a"] == First(7, 3, ["a=1", "b=2"])
    assert got["b"] == Second(3, "val")


def test_a_parameter_of_the_command_goes_before_a_field():
    got, _ = run("x --unit grid")
    assert got["unit"] == "grid"
    assert got["b"].unit == "pixel"


@pytest.mark.parametrize("option", ["--inner", "--split"])
def test_what_is_no_option_is_refused(option):
    got, done = run(f"x {option} 1", omit=("split",))
    assert done.exit_code == 2
    assert not got


@pytest.mark.parametrize("group", [ModelOptions, MeasureOptions, ScanSettings])
def test_only_what_no_user_gives_is_no_option(group):
    inner = {"progress", "chunk_size", "measurements", "images_fingerprint"}
    assert {f.name for f in fields(group)} - set(OPTIONS) <= inner
