"""Models and files that do what none should, and command lines that measure them."""

from __future__ import annotations

import os


class Payload:
    """Unpickling this without protection creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


MODELS = """
import atexit
import os
import resource
import signal
import sys
import threading
import time
import warnings

import torch
import typer
from torch import nn


class OwnError(BaseException):
    pass


ENDINGS = {
    "exit": lambda: sys.exit(0),
    "quit": lambda: quit(),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
    "generator": lambda: (_ for _ in ()).throw(GeneratorExit()),
    "own": lambda: (_ for _ in ()).throw(OwnError("\\x1b[2J")),
    "typer": lambda: (_ for _ in ()).throw(typer.Exit(0)),
}


class Net(nn.Module):
    def __init__(self, act=lambda: None, after=0):
        super().__init__()
        self.conv, self.act, self.left = nn.Conv2d(3, 4, 3), act, after
        self.data_config = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            self.act()
        return self.conv(x).mean((2, 3))


class Declared(Net):
    def __init__(self, name, act):
        super().__init__()
        self.name, self.act = name, act
        if name == "data_config":
            del self.data_config

    def __getattr__(self, name):
        if name == self.__dict__.get("name"):
            self.__dict__["act"]()
        return super().__getattr__(name)


def good():
    return Net()


def factory(kind):
    ENDINGS[kind]()


def forward(kind, after=0):
    return Net(ENDINGS[kind], after)


def attribute(kind, name):
    return Declared(name, ENDINGS[kind])


def representation(kind):
    from liederiv import Custom
    net = Net()
    net.output_representation = Custom(lambda *a, **k: ENDINGS[kind]())
    return net


def moves():
    def act():
        os.chdir("/")
        sys.argv[:] = ["x"]
    return Net(act)


def config(value):
    net = Net()
    net.data_config = eval(value)
    return net


def does(what, after=0):
    net = Net(after=after)
    net.act = lambda: eval(what, globals(), {"self": net})
    return net


class Odd(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.add_module(name, nn.Conv2d(3, 4, 3))
        self.add_module("b", nn.GELU())
        self.data_config = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x.mean((2, 3))


def odd(name):
    return Odd(name)


def dies_at_once():
    os._exit(0)


def named(text):
    def act():
        raise ValueError(text)
    return Net(act)
"""


COMMANDS = {
    "score": ["--metrics", "lee"],
    "layers": [],
    "gate": ["--max", "rotation=1e9"],
    "check": [],
    "compare": ["--metrics", "lee"],
    "track": ["--metrics", "lee"],
}
MODELED = [c for c in COMMANDS if c not in ("compare", "track")]


def arguments_of(command, model, quick, folder, kwargs=()):
    """The command line that runs a model of a factory with arguments."""
    given = [a for k in kwargs for a in ("--model-kwargs", k)]
    if command == "check":
        i = quick.index("--num-images")
        quick = quick[:i] + quick[i + 2 :]
    if command == "compare":
        return (command, model, model, *quick, *COMMANDS[command], *given)
    if command == "track":
        return (command, folder, "--model", model, *quick, *COMMANDS[command], *given)
    return (command, model, *quick, *COMMANDS[command], *given)
