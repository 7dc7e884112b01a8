"""A kind of input of its own, with a model that takes it: importing this registers both."""

import torch
from torch import nn

from liederiv.actions import Action
from liederiv.domains import Domain, register_domain
from liederiv.errors import InputError
from liederiv.generators import Catalogue, Generator
from liederiv.model_zoo import Inputs, register_inputs
from liederiv.representations import Invariant

LENGTH = 9


class Delay(Action):
    """d/dt of x(s + t), periodic, by Fourier's derivative."""

    scheme_name = "fourier"

    def __init__(self, generators):
        self.generators = tuple(generators)

    def tangents(self, x):
        frequency = 2j * torch.pi * torch.fft.rfftfreq(x.shape[-1], dtype=torch.float64)
        slope = torch.fft.irfft(torch.fft.rfft(x.double()) * frequency, x.shape[-1])
        return slope.to(x).expand(len(self), *x.shape).contiguous()

    def take(self, which):
        return Delay(self.generators[which])


class SignalDomain(Domain):
    """Periodic signals [B, C, T]."""

    item = "signal"
    catalogues = (Catalogue("signals", {"delay": Generator("delay", "delay", "sample")}, {}),)
    probabilities = False

    def accepts(self, x):
        return isinstance(x, torch.Tensor) and x.ndim == 3

    def check(self, x, argument="x"):
        if not self.accepts(x) or not x.isfinite().all():
            raise InputError(f"{argument} must be finite signals [B, C, T].")

    def bind(self, generators, x, scheme):
        return Delay(generators)


DOMAIN = SignalDomain()
register_domain(DOMAIN)


@register_inputs
class SignalSet(Inputs):
    """Noise, as long as the model says."""

    kind = title = "signals"

    def __init__(self, count, length, seed):
        generator = torch.Generator().manual_seed(seed)
        self.signals = torch.randn(count, 2, length, generator=generator)
        self.source, self.names = f"noise of seed {seed}", tuple(f"noise-{i}" for i in range(count))

    @classmethod
    def open(cls, asked, expects):
        return cls(asked.count, expects.length, asked.seed)

    def __len__(self):
        return len(self.signals)

    def batch(self, device, dtype):
        return self.signals.to(device, dtype)

    @property
    def size_in_words(self):
        return f"{self.signals.shape[-1]} samples each"


class Ramp(nn.Module):
    """Each channel's inner product with a ramp."""

    input_kind, length, output_representation = "signals", LENGTH, Invariant()

    def forward(self, x):
        return x @ torch.linspace(0, 1, LENGTH, dtype=x.dtype)


def build():
    return Ramp()
