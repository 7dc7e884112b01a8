"""How long layerwise attribution takes, against the published algorithm and against its floor.

One run measures everything it prints, on one image and five generators:

* ours: `liederiv.analysis.attribute`, all generators and modules at once;
* published: our own implementation of the algorithm of Gruver et al. (arXiv 2210.02984):
  one generator at a time, 100 Gaussian probes; for each probe a forward pass, a backward pass, and
  in it a local derivative of every leaf module by double backward. It is given our layouts and our
  generators as matrix products, which is cheaper than resampling;
* published, cached: the same, but every local derivative is computed once and kept for all probes;
* floor: 1 + 2K + P backward passes, timed by themselves.

Standard errors: the published estimate of one squared norm has √(2/100) = 14 % of its value. Ours
has an error only where random probes were needed; its median and largest share of the entries'
values are printed. What low-rank probes leave out is printed as coverage. Random weights make all
classes equally probable, so that no few probes suffice: for them ours is also run with as many
probes as the published algorithm takes, and on an output as confident as a trained network's.

    python benchmarks/layerwise.py [--models a,b] [--probes auto] [--baseline-probes 100]
                                   [--repeats 3] [--threads 1]

On one thread, times are CPU time, so that other work on the machine disturbs the ratios less. With
fewer baseline probes the published time is extrapolated in proportion, and marked so.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from liederiv.actions import ImageAction
from liederiv.analysis import Attribution, attribute
from liederiv.analysis.layers import attribution, contributions
from liederiv.analysis.layers.capture import Call, measured_copy, scout
from liederiv.base_representation import lie_value
from liederiv.differentiation import forward_mode
from liederiv.generators import resolve_generators
from liederiv.model_zoo import load, load_images

GENERATORS = "translation_x,translation_y,rotation,scale,shear_x"
MODELS = "resnet50,vit_small_patch16_224,tf_efficientnet_lite0"
PUBLISHED_PROBES = 100


def now() -> float:
    """CPU time of this process on one thread, which other processes disturb less; else seconds."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def clock(f: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Shortest of several runs in seconds, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = now()
        result = f()
        best = min(best, now() - start)
    return best, result


@dataclass
class Leaf:
    """A leaf module to which the published algorithm applies, with its layouts."""

    call: Call
    local: Tensor | None = None


class Published:
    """The published algorithm on one image."""

    def __init__(self, model: nn.Module, x: Tensor, *, cached: bool) -> None:
        self.model, self.x, self.cached = measured_copy(model), x, cached
        with forward_mode():
            plan = scout(self.model, x)
        self.leaves = {
            c.path: Leaf(c)
            for c in plan.calls
            if not c.reason and not any(True for _ in c.module.children()) and len(c.inputs) == 1
        }

    def run(self, action: ImageAction, probes: int, seed: int = 0) -> dict[str, float]:
        """Squared norm of each leaf's contribution, along the one generator of the action."""
        random = torch.Generator().manual_seed(seed)
        sums: dict[str, float] = defaultdict(float)
        for leaf in self.leaves.values():
            leaf.local = None
        for _ in range(probes):
            self._probe(action, random, sums)
        return {path: value / probes for path, value in sums.items()}

    def _probe(self, action: ImageAction, random: torch.Generator, sums: dict[str, float]) -> None:
        inputs: dict[str, Tensor] = {}
        handles = []

        def keep(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
                inputs[path] = args[0].detach()
                out.register_hook(lambda g: self._estimate(path, inputs[path], g, action, sums))

            return hook

        try:
            for path in self.leaves:
                module = self.model.get_submodule(path)
                handles.append(module.register_forward_hook(keep(path)))
            y = self.model(self.x.clone().requires_grad_(True)).softmax(-1)
            for handle in handles:
                handle.remove()
            y.backward(torch.randn(y.shape, generator=random))
        finally:
            for handle in handles:
                handle.remove()

    def _estimate(
        self, path: str, z: Tensor, g: Tensor, action: ImageAction, sums: dict[str, float]
    ) -> None:
        leaf = self.leaves[path]
        if leaf.local is None or not self.cached:
            leaf.local = local_derivative(leaf.call, z, action)
        sums[path] += float((g * leaf.local).sum() ** 2)


def local_derivative(call: Call, z: Tensor, action: ImageAction) -> Tensor:
    """δ = J_M (G z) − G M(z) of one module by two reverse passes."""
    before, after = call.in_layouts[0], call.out_layouts[0]
    assert before is not None
    assert after is not None
    with torch.enable_grad():
        z = z.clone().requires_grad_(True)
        y = call.module(z)
        u = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, z, u, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, u, before.act(action, z.detach())[0])
    return lie_value(after, action, y.detach(), pushed[None])[0]


@contextmanager
def stopwatch(spent: dict[str, float]) -> Iterator[None]:
    """Sum the time spent in each phase of `attribute`."""
    places = [
        (attribution, "preflight", "checks"),
        (attribution, "measured_copy", "copy"),
        (attribution, "scout", "scouting pass"),
        (contributions, "pushforward", "forward-mode pass"),
        (contributions, "choose_probes", "choice of probes"),
        (contributions, "record_edges", "recording pass"),
        (contributions, "_contract", "backward and inner products"),
        (torch.autograd, "grad", "of which backward"),
    ]
    with ExitStack() as stack:
        for module, name, label in places:
            original = getattr(module, name)

            def timed(*args: Any, _f: Any = original, _label: str = label, **kwargs: Any) -> Any:
                start = now()
                try:
                    return _f(*args, **kwargs)
                finally:
                    spent[_label] += now() - start

            stack.enter_context(mock.patch.object(module, name, timed))
        yield


def backward_seconds(model: nn.Module, x: Tensor, repeats: int) -> tuple[float, float]:
    """Time of one forward pass and one backward pass to all activations."""
    twin = measured_copy(model)
    with torch.no_grad():
        forward, _ = clock(lambda: twin(x), repeats + 2)
    leaf = x.clone().requires_grad_(True)
    with forward_mode():
        y = twin(leaf)
        u = torch.ones_like(y)
        backward, _ = clock(lambda: torch.autograd.grad(y, leaf, u, retain_graph=True), repeats + 2)
    return forward, backward


def relative_errors(a: Attribution) -> tuple[float, float]:
    """Median and largest standard error of leaf entries, relative to their values."""
    parents = {e.parent for e in a.entries}
    rows = [i for i, e in enumerate(a.entries) if e.status == "measured" and i not in parents]
    values, errors = a.inclusive[rows].ravel(), a.inclusive_error[rows].ravel()
    relevant = values > 1e-4 * np.nanmax(values)
    ratio = errors[relevant] / values[relevant]
    return float(np.median(ratio)), float(ratio.max())


def agreement(a: Attribution, published: dict[str, float]) -> float:
    """Largest difference of the sum over leaves, relative, as a check of the baseline."""
    rows = {e.path: i for i, e in enumerate(a.entries) if e.status == "measured"}
    both = [p for p in published if p in rows]
    theirs = sum(published[p] for p in both)
    ours = sum(float(a.inclusive[rows[p], 0, 0]) for p in both)
    return abs(theirs / ours - 1)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--probes", default="auto")
    parser.add_argument("--baseline-probes", type=int, default=PUBLISHED_PROBES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    probes = int(options.probes) if options.probes.isdigit() else options.probes
    console = Console(width=160)
    for name in options.models.split(","):
        benchmark(name, probes, options.baseline_probes, options.repeats, console)


def confident(model: nn.Module, x: Tensor, top: float = 0.5) -> nn.Module:
    """A copy whose classifier is scaled until the most probable class of an image reaches ``top``.

    Random weights leave all classes equally probable, which no trained classifier does.
    """
    model = copy.deepcopy(model)
    classifier = model.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        logits = model(x)[0]
        low, high = 1e-3, 1e6
        for _ in range(60):
            scale = (low * high) ** 0.5
            reached = float((logits * scale).softmax(0).max()) > top
            low, high = (low, scale) if reached else (scale, high)
        for p in classifier.parameters():
            p.mul_(scale)
    return model


@dataclass(frozen=True)
class Ours:
    """One way to run `attribute`, timed."""

    label: str
    seconds: float
    result: Attribution

    @property
    def error(self) -> str:
        """Standard errors in words."""
        median, largest = relative_errors(self.result)
        a = self.result
        return (
            f"{self.label}: standard error median {median:.1%}, largest {largest:.1%}; coverage "
            f"{a.coverage:.4f}, closure error {a.closure_error:.1e}"
        )


def run_ours(model: nn.Module, x: Tensor, probes: Any, repeats: int, *, real: bool) -> list[Ours]:
    """Ours as it is; for random weights also with as small an error, and on a confident output."""
    runs: list[tuple[str, nn.Module, Any]] = [("ours", model, probes)]
    if not real:
        runs.append(("ours, top probability scaled to 0.5", confident(model, x), probes))
        runs.append((f"ours, {PUBLISHED_PROBES} probes", model, PUBLISHED_PROBES))
    out = []
    for label, network, budget in runs:

        def once(network: nn.Module = network, budget: Any = budget) -> Attribution:
            return attribute(network, x, GENERATORS, output_type="probs", probes=budget)

        once()
        seconds, a = clock(once, repeats)
        out.append(Ours(f"{label}, P = {a.num_probes[0]}", seconds, a))
    return out


def run_published(
    model: nn.Module, x: Tensor, probes: int, ours: Attribution
) -> tuple[dict[bool, float], float]:
    """Seconds without and with kept local derivatives, and how far apart the results are."""
    times, gap = {False: 0.0, True: 0.0}, float("nan")
    for cached in times:
        published = Published(model, x, cached=cached)
        for k, g in enumerate(resolve_generators(GENERATORS)):
            action = ImageAction([g], x.shape[-2], x.shape[-1])
            start = now()
            found = published.run(action, probes)
            times[cached] += (now() - start) * PUBLISHED_PROBES / probes
            gap = agreement(ours, found) if k == 0 else gap
    return times, gap


def benchmark(name: str, probes: Any, baseline: int, repeats: int, console: Console) -> None:
    """Measure and print one model."""
    real = name.startswith("tf_efficientnet_lite")
    loaded = load(name, pretrained=real)
    model = loaded.model
    x = torch.stack(load_images("samples", loaded.data_config, 1)[:])
    K = len(resolve_generators(GENERATORS))
    forward, backward = backward_seconds(model, x, repeats)
    ours = run_ours(model, x, probes, repeats, real=real)
    spent: dict[str, float] = defaultdict(float)
    with stopwatch(spent):
        attribute(model, x, GENERATORS, output_type="probs", probes=probes)
    times, gap = run_published(model, x, baseline, ours[0].result)
    P = ours[0].result.num_probes[0]
    floor = (1 + 2 * K + P) * backward
    note = "" if baseline == PUBLISHED_PROBES else f" (extrapolated from {baseline} probes)"
    weights = "ImageNet weights" if real else "random weights"
    table = Table(title=f"{name}, {weights}, one image, K = {K}", title_justify="left")
    table.add_column("what")
    for column in ("seconds", "forward passes", "published ÷ it"):
        table.add_column(column, justify="right")
    for label, seconds in (
        ("one forward pass", forward),
        ("one backward pass", backward),
        (f"floor: {1 + 2 * K + P} backward passes", floor),
        *((o.label, o.seconds) for o in ours),
        (f"published{note}", times[False]),
        (f"published, local derivatives kept{note}", times[True]),
    ):
        ratio = f"{times[False] / seconds:.1f}"
        table.add_row(label, f"{seconds:.3f}", f"{seconds / forward:.1f}", ratio)
    console.print(table)
    for run in ours:
        console.print(run.error)
    console.print(
        f"published: standard error {(2 / PUBLISHED_PROBES) ** 0.5:.1%}; Σ over leaves, ours "
        f"against its estimate: {gap:.1%} apart. ours ÷ floor: {ours[0].seconds / floor:.2f}"
    )
    parts = ", ".join(f"{label} {seconds:.2f} s" for label, seconds in spent.items())
    console.print(f"where the time goes: {parts}\n")


if __name__ == "__main__":
    main()
