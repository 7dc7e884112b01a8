"""Where a module sits: what enters it, in which layout, found by running an example."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from liederiv.actions import check_images
from liederiv.checks import preflight
from liederiv.differentiation import forward_mode

from .capture import Call, Plan, TangentReader, check_same, measured_copy, scout
from .layouts import Layout
from .pointwise import is_affine, is_pointwise_nonlinearity, sample_inputs
from .windows import Window

__all__ = ["Site", "find_sites", "read_inputs", "simple_calls", "stride_of"]


@dataclass(frozen=True)
class Site:
    """What is known about the place of one module.

    Attributes:
        path: name in ``named_modules()``.
        inputs: for each of its calls, the tensor that enters, [1, …], with its layout; empty if no
            example was run or it takes no single tensor of known layout.
        why: why there are no inputs.
    """

    path: str
    inputs: tuple[tuple[Tensor, Layout], ...] = ()
    why: str = ""

    @property
    def layout(self) -> Layout | None:
        """The layout of all calls alike, maps of any resolution; None if unknown or not one."""
        kinds = {
            Layout(v.kind, flat=v.flat) if v.kind in ("NCHW", "NHWC") else v for _, v in self.inputs
        }
        found = next(iter(kinds), None)
        usable = found is not None and found.spatial and not found.flat
        return found if len(kinds) == 1 and usable else None

    def is_pointwise_nonlinearity(self, module: nn.Module) -> bool:
        """Tested on the inputs of the example, or on random maps without one."""
        module = _evaluating(module)
        inputs = self.inputs or (() if self.why else tuple(sample_inputs(module)))
        tests = [is_pointwise_nonlinearity(module, z, layout) for z, layout in inputs]
        return all(tests) and bool(tests) if self.inputs else any(tests)


def simple_calls(plan: Plan) -> list[Call]:
    """Calls with one input and one output whose layouts are known maps or tokens."""
    return [
        c
        for c in plan.calls
        if len(c.inputs) == len(c.outputs) == 1
        and not c.reason
        and None not in (*c.in_layouts, *c.out_layouts)
    ]


@torch.no_grad()
def read_inputs(model: nn.Module, plan: Plan, slots: Sequence[int], x: Tensor) -> list[Tensor]:
    """The tensors at some slots of a plan for one image [1, C, H, W]."""
    reader = TangentReader(model, lambda out: x.new_zeros(1), plan, slots)
    return list(reader(x.clone())[1])


def find_sites(model: nn.Module, paths: Sequence[str], example: Tensor | None) -> dict[str, Site]:
    """The sites of some modules.

    Args:
        model: in eval mode if there is an example; not touched.
        paths: names of modules of the model.
        example: images [B, C, H, W] as the model takes them; the first is run.

    Raises:
        ModelError: if the model cannot be run on the example as it is.
    """
    if example is None:
        return {path: Site(path) for path in paths}
    check_images(example, "example")
    x = example[:1].detach()
    expected = preflight(model, x)
    twin = measured_copy(model)
    with forward_mode():
        plan = scout(twin, x)
        check_same(expected, plan.output)
        calls = [c for c in simple_calls(plan) if c.path in set(paths)]
        slots = sorted({c.inputs[0][1] for c in calls})
        values = dict(zip(slots, read_inputs(twin, plan, slots, x), strict=True))
    sites = {}
    for path in paths:
        inputs = tuple(
            (values[c.inputs[0][1]], layout)
            for c in calls
            if c.path == path and (layout := c.in_layouts[0]) is not None
        )
        reasons = [c.reason for c in plan.calls if c.path == path and c.reason]
        why = "" if inputs else (reasons or ["it is not called, or takes several tensors"])[0]
        sites[path] = Site(path, inputs, why)
    return sites


def stride_of(module: nn.Module, site: Site) -> tuple[int, int] | None:
    """How many times coarser an affine layer's output is; None if it is not affine or not coarser.

    Convolutions and average pooling say so themselves. Any other module is run on the site's
    example: affine by `is_affine`, from maps to coarser maps of more than one pixel.
    """
    if isinstance(module, nn.Conv2d | nn.AvgPool2d):
        stride = Window.of(module).stride
        return stride if max(stride) > 1 else None
    module = _evaluating(module)
    for z, layout in site.inputs:
        if layout.kind != "NCHW" or not is_affine(module, z):
            continue
        y = module(z.clone())
        if y.ndim != 4 or max(y.shape[-2:]) == 1:
            continue
        stride = (round(z.shape[-2] / y.shape[-2]), round(z.shape[-1] / y.shape[-1]))
        if max(stride) > 1 and min(stride) > 0:
            return stride
    return None


def _evaluating(module: nn.Module) -> nn.Module:
    """The module, or a copy in eval mode: an experiment must not move running statistics."""
    if not any(m.training for m in module.modules()):
        return module
    return copy.deepcopy(module).eval()
