"""`LocalEquivarianceError`: the equivariance error as a metric of TorchMetrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchmetrics import Metric

from liederiv.batches import check_layout, unpack
from liederiv.checks import check_placement, check_type
from liederiv.derivatives import Scheme, get_scheme
from liederiv.differentiation.calls import PlainFunction
from liederiv.differentiation.models import plain_model, watched
from liederiv.domains import Domain, domain_of, pieces
from liederiv.errors import LieDerivError
from liederiv.generators import Generator
from liederiv.measurement.row_names import row_names, step_rows
from liederiv.measurement.scoring import targets
from liederiv.metrics.local import LocalBatch, is_classifier, linearise
from liederiv.metrics.structure_function import step_responses, why_no_steps
from liederiv.names import DEFAULT_TRANSFORMS
from liederiv.renamed import renamed
from liederiv.representations import OutputSpec
from liederiv.steps import Steps, plan_of, step_label
from liederiv.training.untouched import untouched

__all__ = ["LocalEquivarianceError"]

_PREFIXES = ("sum", "square", "count")


class LocalEquivarianceError(Metric):
    r"""Local equivariance error (LEE) of a model during training or validation.

    E_x ‖L_X f(x)‖² / dim(out) for each generator X and each group of them, what `liederiv.measure`
    calls ``lee``, in (unit of the output)² per (unit of the generator)². Its states are one sum,
    one sum of squares and one count for each, so processes that share the images add up exactly to
    one that saw them all. A non-finite output or derivative makes the result NaN.

    The model comes back as it was: mode of every submodule, parameters, gradients, buffers and
    torch's random state. It is measured in eval mode, and without the wrappers of distributed
    training and compilation.

    Args:
        transforms: generators or groups of them, see `liederiv.generators`.
        scheme: how images are continued between pixels, see `liederiv.derivatives`.
        output: representation of the output, see `liederiv.lie_derivative`.
        output_type: ``probs`` (softmax of the output over its classes), ``logits``, ``features`` or
            ``output`` (the output as it is). ``auto`` takes the probabilities of a classifier
            ([B, n] outputs for images), else the output.
        unit: of translations of images, ``pixel`` of the input or ``grid`` (half-widths).
        images_per_update: measure the first so many of each batch only; None measures all.
        batch_size: images or clouds per pass; None chooses by memory.
        chunk_size: tangents per pass; None chooses by memory.
        engine: see `liederiv.differentiation`.
        verify: compare with the model and its differences on one image first, once per model and
            size of image; False for who counts passes.
        steps: sizes of motions, e.g. ``"rotation=1deg"``, see `liederiv.steps`: results then hold
            the error over these too, S(h)/h², as ``rotation@1deg`` (what `liederiv.measure` calls
            ``lee_step``); transforms that it does not name take 1 px, 1 degree, 1 %.
        kwargs: see `torchmetrics.Metric`.

    Raises:
        LieDerivError: for an unknown transform, scheme or output type.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> metric = LocalEquivarianceError("translation", scheme="fourier")
        >>> metric.update(model, images)
        >>> sorted(metric.compute())
        ['translation', 'translation_x', 'translation_y']
        >>> bool(metric.compute()["translation"] < 1e-12)
        True
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(
        self,
        transforms: str | Generator | Iterable[str | Generator] = DEFAULT_TRANSFORMS,
        scheme: str | Scheme = "bspline",
        *,
        output: OutputSpec = "auto",
        output_type: str = "auto",
        unit: Literal["pixel", "grid"] = "pixel",
        images_per_update: int | None = None,
        batch_size: int | None = None,
        chunk_size: int | None = None,
        engine: str | None = None,
        verify: bool = True,
        steps: Steps = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_type(output_type)
        for name, value in (("images_per_update", images_per_update), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise LieDerivError(f"{name}={value} must be at least 1, or None.")
        alone = isinstance(transforms, str | Generator)
        self.transforms = transforms if alone else tuple(transforms)  # type: ignore[arg-type]
        self.scheme = get_scheme(scheme)
        self.output, self.output_type, self.unit = output, output_type, unit
        self.images_per_update, self.batch_size = images_per_update, batch_size
        self.chunk_size, self.engine, self.verify = chunk_size, engine, verify
        # All processes have the same states, also one that never sees an input.
        self.steps = steps
        self.names = row_names(self.transforms, unit)
        if steps is not None:
            self.names += step_rows(self.transforms, steps, unit)
        for name in self.names:
            for prefix in _PREFIXES:
                zero = torch.zeros((), dtype=torch.float64)
                self.add_state(f"{prefix}_{name}", zero, dist_reduce_fx="sum")

    @renamed(images="batches")
    def update(self, model: Callable[[Any], Tensor], batches: Any) -> None:
        """Measure the model on some images.

        Args:
            model: maps images [B, C, H, W], or a `PointCloud`, to one tensor, batch first.
            batches: images as the model takes them, normalised; a `PointCloud` likewise. Also what
                a data loader delivers: ``(images, labels, …)`` or a dictionary with
                ``pixel_values``.

        Raises:
            ImageError: for unusable images (PointCloudError for clouds).
            ModelError: for a model on another device or of another dtype, a stochastic one, or one
                whose rows depend on each other (unless batch_size is 1).
            UnknownLayoutError: if it is not known how the group acts on the output.
            NotDifferentiableError: if no engine has the derivative of what the model computes.
        """
        images = unpack(batches).x
        domain = domain_of(images)
        domain.check(images, "batches")
        check_layout(images)
        model = plain_model(model)
        if isinstance(model, nn.Module):
            check_placement(model, images, domain.item)
        found: dict[str, list[Tensor]] = {}
        with untouched(model, images.device):
            x = tree_map(Tensor.clone, images.detach())  # inference tensors stay outside
            x = x if self.images_per_update is None else x[: self.images_per_update]
            kind = self._kind(domain, model, x)
            for piece in pieces(x, self.batch_size):
                for name, values in self._measured(domain, model, piece, kind).items():
                    found.setdefault(name, []).append(values)
        for name, parts in found.items():  # only when everything is measured
            values = torch.cat(parts)
            self._add(f"sum_{name}", values.sum())
            self._add(f"square_{name}", values.square().sum())
            self._add(f"count_{name}", torch.tensor(len(values)))

    def compute(self) -> dict[str, Tensor]:
        """LEE per generator and group, float64 scalars by name; NaN before the first update."""
        counted = [n for n in self.names if getattr(self, f"count_{n}") > 0]
        return {
            name: getattr(self, f"sum_{name}") / getattr(self, f"count_{name}")
            for name in counted or self.names
        }

    def standard_error(self) -> dict[str, Tensor]:
        """Standard errors of `compute` over images, by name; NaN for fewer than two images.

        In distributed training, to be called by all processes, as `compute`.
        """
        sync = self.sync_on_compute and not self._is_synced
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=sync):
            return {
                name: _standard_error(*(getattr(self, f"{p}_{name}") for p in _PREFIXES))
                for name in self.names
                if getattr(self, f"count_{name}") > 0
            }

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one result of `compute` or `forward`, or a list of them over steps.

        Args:
            val: what to plot; None takes `compute()`.
            ax: axes of matplotlib to draw on.

        Returns:
            figure and axes, as of any metric of TorchMetrics; on a logarithmic scale, since the
            transforms' units lie orders of magnitude apart.
        """
        if ax is not None:
            ax.set_yscale("linear")  # TorchMetrics sets limits below zero
        drawn: Any = self._plot(val, ax)
        figure, axes = drawn
        axes.set_ylabel("local equivariance error (LEE)")
        if any((line.get_ydata() > 0).any() for line in axes.get_lines()):
            axes.set_yscale("log")
            axes.autoscale(axis="y")
        return figure, axes

    def _kind(self, domain: Domain, model: Callable[[Any], Any], x: Any) -> str:
        """The output type, decided by the output for one image where it is left open."""
        if self.output_type != "auto":
            return self.output_type
        with watched(model, "eval"):
            y = PlainFunction(model, ()).anything(x[:1])
        return "probs" if is_classifier(domain, y, model) else "output"

    def _measured(
        self, domain: Domain, model: Callable[[Any], Tensor], x: Any, kind: str
    ) -> dict[str, Tensor]:
        """‖L f‖²/dim per image, float64 [B], by generator and group."""
        action = domain.action(self.transforms, x, self.scheme, self.unit)
        lin = linearise(
            model,
            x,
            action,
            output=self.output,
            relative=False,
            chunk_size=self.chunk_size or domain.chunk_size(x),
            engine=self.engine,
            verify=self.verify,
            mode="eval",
        )
        lie = LocalBatch.of(lin, x, action, kind).squared
        rows = targets(action.generators)
        found = {name: lie[index].mean(0) for name, _, index in rows}
        if self.steps is None:
            return found
        grids: list[tuple[float, ...]] = [()] * len(action)
        plan = plan_of(action.generators, grids, self.steps, domain.catalogue(x))
        cap, rho = self.batch_size or domain.batch_size(x), lin.resolved.representation
        why = why_no_steps(x, action, rho, lin.y)
        if why:
            raise LieDerivError(f"steps cannot be measured: {why}")
        with watched(model, "eval"):
            steps = step_responses(model, x, action, plan, rho, (kind,), compare=False, cap=cap)
        for name, _, index in rows:
            for j, step in enumerate(plan[index[0]]):
                parts = [steps[kind].squared[k][j] for k in index]
                found[step_label(name, step)] = torch.stack(parts).mean(0) / step.t**2
        return found

    def _add(self, state: str, value: Tensor) -> None:
        old = getattr(self, state)
        setattr(self, state, old + value.to(old))


def _standard_error(total: Tensor, square: Tensor, count: Tensor) -> Tensor:
    """Of a mean, from Σ v, Σ v² and n: √((Σ v² − (Σ v)²/n) / (n (n − 1)))."""
    if count < 2:
        return torch.full_like(total, float("nan"))
    return ((square - total.square() / count).clamp_min(0) / (count * (count - 1))).sqrt()
