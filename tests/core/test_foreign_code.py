"""Whatever code of the user's raises is its failure; what a signal sets off is not."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn

from liederiv import measure
from liederiv.errors import ModelError
from liederiv.foreign_code import users_code
from liederiv.testing import assert_equivariant, equivariance_errors


def press() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass


@pytest.fixture(autouse=True)
def _ctrl_c_arrives():
    """Where the tests run in the background, their shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class OwnError(BaseException):
    """Of a library that wants to be caught by nobody."""


ENDINGS = [SystemExit(0), SystemExit(), KeyboardInterrupt(), GeneratorExit(), OwnError("x\ud800")]


class Ending(nn.Module):
    """Raises at its call of that number."""

    def __init__(self, error: BaseException, call: int = 1) -> None:
        super().__init__()
        self.error, self.left = error, call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x.mean((2, 3))


@pytest.mark.parametrize("error", ENDINGS, ids=lambda e: type(e).__name__)
def test_what_is_no_exception_becomes_one(error):
    sentence = rf"the model raised {type(error).__name__}\(.*would end"
    with pytest.raises(ModelError, match=sentence), users_code("the model"):
        raise error


def test_an_exception_passes_as_it_is():
    with pytest.raises(ValueError, match="no data"), users_code("the model"):
        raise ValueError("no data")


@pytest.mark.parametrize("handled", [True, False])
def test_a_real_interrupt_passes(handled):
    """Also where the user's code turns it into its own exit."""
    before = signal.getsignal(signal.SIGINT)

    def interrupted():
        try:
            press()
        except KeyboardInterrupt:
            if handled:
                raise SystemExit(0) from None
            raise

    with pytest.raises(SystemExit if handled else KeyboardInterrupt), users_code() as watch:
        interrupted()
    assert watch.interrupted
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("error", ENDINGS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6, 9, 12])
def test_no_call_of_the_model_ends_a_measurement(error, call):
    model = Ending(error, call).eval()
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="which would end the program"), users_code():
        measure(model, x, "rotation", "lee", batch_size=1)
    assert model.left <= 0


def test_a_real_interrupt_keeps_what_was_measured():
    class Pressed(nn.Module):
        rows = 0

        def forward(self, x):
            return x.mean((2, 3))

    def batches():
        yield torch.rand(2, 3, 8, 8)
        press()
        yield torch.rand(2, 3, 8, 8)

    found = measure(Pressed().eval(), batches(), "rotation", "lee")
    assert found.provenance.num_images == 2
    assert any("stopped after 2 images" in note for note in found.provenance.warnings)


@pytest.mark.parametrize("function", [assert_equivariant, equivariance_errors])
@pytest.mark.parametrize("error", ENDINGS, ids=lambda e: type(e).__name__)
def test_an_assertion_fails_and_ends_no_session(function, error):
    with pytest.raises(ModelError, match="which would end the program"):
        function(Ending(error, 3).eval(), torch.rand(1, 3, 8, 8), "translation")


@pytest.mark.parametrize("raised", ["SystemExit(0)", "KeyboardInterrupt"])
def test_the_plugin_fails_that_test_and_goes_on(pytester, raised):
    pytester.makepyfile(
        f"""
        import torch

        def model(x):
            raise {raised}

        def test_bad(assert_equivariant):
            assert_equivariant(model, torch.rand(1, 1, 4, 4), "translation")

        def test_good(assert_equivariant):
            assert_equivariant(lambda x: x.mean((2, 3)), torch.rand(1, 1, 4, 4), "translation")
        """
    )
    result = pytester.runpytest_inprocess("-p", "pytest_liederiv", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
