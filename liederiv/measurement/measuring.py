"""`measure`: scores of a model with confidence intervals, floors and provenance."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor
from tqdm import tqdm

from liederiv.actions import Action, ImageAction
from liederiv.base_representation import class_axis, lie_value
from liederiv.batches import Batch, check_layout, deliver
from liederiv.checks import check_type, preflight
from liederiv.derivatives import Scheme, get_scheme
from liederiv.differentiation import ENGINES, ForwardModeWarning, Verification, check_batch
from liederiv.differentiation.engines import RECOVERABLE, auto_chunk
from liederiv.differentiation.models import kept_randomness
from liederiv.domains import Domain, domain_of, is_input, pieces
from liederiv.errors import (
    ImageError,
    InputError,
    LieDerivError,
    ModelError,
    NotDifferentiableError,
)
from liederiv.foreign_code import users_code
from liederiv.generators import Generator
from liederiv.grids.developing import takes_photographs
from liederiv.measurement.contents import ContentHash, definitions_of
from liederiv.measurement.floors import Floor, rounding_floor
from liederiv.measurement.results import Measurement, Provenance, Score
from liederiv.measurement.row_names import check_steps
from liederiv.measurement.scoring import Bootstrap, targets
from liederiv.metrics.base import Context, FiniteMetric, LocalMetric, Metric, Rows
from liederiv.metrics.local import (
    NOT_ONE_TENSOR,
    LocalBatch,
    as_output,
    assumed_classes,
    is_classifier,
    linearise,
)
from liederiv.metrics.reference import Reference
from liederiv.metrics.registry import METRICS, resolve_metrics
from liederiv.metrics.sampled import check_sampling
from liederiv.metrics.scale import RelativeStep, StepMetric
from liederiv.metrics.structure_function import StepBatch, step_responses, why_no_steps
from liederiv.names import DEFAULT_METRICS, DEFAULT_TRANSFORMS
from liederiv.representations import OutputSpec, Resolved, declared
from liederiv.resolution import resolve_output
from liederiv.steps import Step, Steps, plan_of

__all__ = ["measure"]


@takes_photographs
def measure(
    model: Callable[[Any], Tensor],
    batches: Any,
    transforms: str | Generator | Iterable[str | Generator] = DEFAULT_TRANSFORMS,
    metrics: str | Iterable[str] = DEFAULT_METRICS,
    *,
    scheme: str | Scheme = "bspline",
    output: OutputSpec = "auto",
    output_type: str | Sequence[str] = "auto",
    unit: Literal["pixel", "grid"] = "pixel",
    batch_size: int | None = None,
    chunk_size: int | None = None,
    engine: str | None = None,
    seed: int = 0,
    dynamic_range: float | None = None,
    margin: float = 0.0,
    steps: Steps = None,
    resamples: int = 2000,
    clusters: Sequence[Any] | None = None,
    image_names: Sequence[str] = (),
    provenance: Provenance | None = None,
    verify: bool = True,
    progress: bool = False,
) -> Measurement:
    """Score how equivariant a model is.

    Args:
        model: maps images [B, C, H, W], or a `PointCloud`, to one tensor, batch (or points) first.
            An `nn.Module` must be in eval mode. The model is left as it is.
        batches: images as one tensor [N, C, H, W], or an iterable of such tensors or of
            what data loaders deliver, see `liederiv.batches.unpack`; all of one size, normalised as
            the model expects. Or a `PointCloud`, or an iterable of such or of ``(clouds, labels)``.
            Labels that are no class indices are left out, with a note.
        transforms: generators or groups of them, see `liederiv.generators`.
        metrics: names or families of `liederiv.metrics.registry.METRICS`.
        scheme: how images are continued between pixels, see `liederiv.derivatives`.
        output: representation of the output, see `liederiv.lie_derivative`.
        output_type: ``probs`` (softmax of the output over its classes), ``logits``, ``features`` or
            ``output`` (the output as it is), or several. ``auto`` measures probs and logits of a
            classifier ([B, n] outputs, images only), else ``output``.
        unit: of translations of images, ``pixel`` of the input or ``grid`` (half-widths).
        batch_size: images or clouds per pass; None chooses by memory.
        chunk_size: tangents per pass; None chooses by memory.
        engine: see `liederiv.differentiation`.
        seed: of noise directions and sampled transforms, which belong to the image (see
            `liederiv.draws`), and of the bootstrap.
        dynamic_range: I_max of ``eq_t``, ``eq_t_frac`` and ``eq_r``: the largest difference between
            two values of the output, 2 for pictures in [−1, 1]. None takes 1 for probabilities, and
            leaves these metrics out for outputs that have no range of their own.
        margin: pixels of an output map that the metrics of random transforms leave out along its
            border, beyond those that come in from outside.
        steps: sizes of the motions at which ``lee_step`` is measured, in pixels, degrees, per cent:
            ``"translation=0.5,1,2;rotation=1"`` or ``{"rotation": ["1deg", "0.1rad"]}``; None (and
            transforms that it does not name) stands for 1 px, 1 degree, 1 %. They also extend the
            grid on which ``reach`` is found. See `liederiv.steps`.
        resamples: bootstrap samples over images.
        clusters: per image or cloud, a label shared by those that are not independent (crops of
            one photograph); the bootstrap then draws whole clusters.
        image_names: per image or cloud.
        provenance: what is known about model and images; completed here.
        verify: let the witness of `liederiv.differentiation` judge the first batch, and measure the
            rounding floor, on one image; False for who counts passes.
        progress: show a progress bar.

    Returns:
        a `Measurement` with one row per metric, transform and output type.

    Raises:
        ImageError: for unusable or no images (PointCloudError for clouds).
        LieDerivError: for batches of several sizes or types, or a loader that fails.
        ModelError: for a model in training mode, a stochastic one, one on another device, or one
            whose rows depend on each other (unless batch_size is 1).
        UnknownLayoutError: if it is not known how the group acts on the output.
        NotDifferentiableError: if no engine has the derivative of what the model computes.

    Example:
        >>> import torch
        >>> pool, flat = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        >>> model = torch.nn.Sequential(pool, flat).eval()
        >>> images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> scores = measure(model, images, "translation", "lee", scheme="fourier")
        >>> scores.get("lee", "translation", "logits").value < 1e-12
        True
    """
    check_sampling(dynamic_range, margin)
    wanted = resolve_metrics(metrics)
    check_steps(steps, wanted)
    settings = _Settings(
        model=model,
        transforms=transforms if isinstance(transforms, str | Generator) else tuple(transforms),
        unit=unit,
        metrics=wanted,
        scheme=get_scheme(scheme),
        output=declared(model, output),
        output_types=_requested_types(output_type),
        batch_size=batch_size,
        chunk_size=chunk_size,
        engine=engine,
        seed=seed,
        dynamic_range=dynamic_range,
        margin=margin,
        steps=steps,
        verify=verify,
    )
    run: _Run | None = None
    hidden = None if progress else True  # None: hidden where the output is no terminal
    origin = provenance or Provenance()
    contents = ContentHash(origin.images_fingerprint)
    bar = tqdm(total=_count(batches), unit="image", disable=hidden, desc="scoring")
    randomness = kept_randomness(batches if isinstance(batches, Tensor) else None)
    with users_code("the model", library=True) as watch, bar, randomness:
        try:
            for batch in _items(batches, batch_size):
                if run is None:
                    run = _Run(settings, batch.x)
                    bar.unit = run.domain.item
                run.check(batch)
                run.add(batch.x, batch.labels)
                contents.add(batch.x)
                bar.update(len(batch.x))
        except (KeyboardInterrupt, InputError) as stop:
            by_itself = isinstance(stop, KeyboardInterrupt) and watch.inside
            by_itself = by_itself and not watch.interrupted  # nobody has pressed a key
            if run is None or run.count == 0 or by_itself:
                raise
            # What is already measured is worth reporting; say that it is not everything.
            why = str(stop) or "interrupted"
            run.notes.append(f"stopped after {run.count} {run.domain.item}s: {why}")
    if run is None:
        raise ImageError("batches holds no images; pass at least one.")
    if clusters is not None and len(clusters) < run.count:
        raise LieDerivError(
            f"clusters has {len(clusters)} labels for {run.count} {run.domain.item}s; give one per "
            f"{run.domain.item}."
        )
    bootstrap = Bootstrap(resamples, seed, None if clusters is None else clusters[: run.count])
    names = tuple(image_names)[: run.count]
    return Measurement(run.scores(bootstrap), run.describe(origin, contents), names)


@dataclass(frozen=True)
class _Settings:
    """The resolved arguments of `measure`."""

    model: Callable[[Any], Tensor]
    transforms: str | Generator | tuple[str | Generator, ...]
    unit: Literal["pixel", "grid"]
    metrics: tuple[Metric, ...]
    scheme: Scheme
    output: OutputSpec
    output_types: tuple[str, ...]
    batch_size: int | None
    chunk_size: int | None
    engine: str | None
    seed: int
    dynamic_range: float | None
    margin: float
    steps: Steps
    verify: bool

    @property
    def local(self) -> list[LocalMetric]:
        """The metrics of the Lie derivative."""
        return [m for m in self.metrics if isinstance(m, LocalMetric)]

    @property
    def wants_curve(self) -> bool:
        """Whether steps beside the chosen ones are needed."""
        return any({"steps", "lie"} <= m.needs for m in self.metrics)

    def wants(self, need: str) -> bool:
        """Whether a metric with this need was asked for."""
        return any(need in m.needs for m in self.metrics)


class _Run:
    """One measurement under way: preconditions on the first image, then what accumulates."""

    def __init__(self, settings: _Settings, x: Any) -> None:
        self.settings = settings
        self.domain: Domain = domain_of(x)
        self.count = 0
        self.parts: dict[tuple[Metric, str], list[Any]] = defaultdict(list)  # by output type
        self.bad: list[int] = []
        self.floor: dict[str, Floor] = {}
        self.notes: list[str] = []
        self.no_derivative = ""
        self.resolved: Resolved | None = None
        self.verification: Verification | None = None
        self.dtype, self.device = x.dtype, x.device
        self.shape = tuple(x.shape[1:]) if isinstance(x, Tensor) else None
        self.action = self.domain.action(settings.transforms, x, settings.scheme, settings.unit)
        y = preflight(settings.model, x)
        if not isinstance(y, Tensor):
            raise ModelError(NOT_ONE_TENSOR.format(kind=type(y).__name__))
        classifier = is_classifier(self.domain, y, settings.model)
        self.output_types = _output_types(settings.output_types, classifier)
        if classifier and "auto" in settings.output_types:
            self.notes += filter(None, [assumed_classes(settings.model, y)])
        one = self.domain.rebind(self.action, x[:1])
        self.known = resolve_output(settings.model, x[:1], settings.output, y, one)
        self.output_size = tuple(y.shape[1:])
        self.axis: int | None = None  # of the classes, where there are such
        if "probs" in self.output_types:
            self.axis = class_axis(y, self.known.representation)
        self.plan: tuple[tuple[Step, ...], ...] = ()
        self.no_steps = ""
        if settings.wants("steps"):
            self._plan_steps(x, y, one)
        self.lee: dict[str, Tensor] = {}  # of the batch, by output type

    def _plan_steps(self, x: Any, y: Tensor, one: Action) -> None:
        """Which steps are taken, if any can be."""
        generators, asked = self.action.generators, self.settings.steps
        grids = [
            self.domain.step_grid(g, x) if self.settings.wants_curve else () for g in generators
        ]
        self.plan = plan_of(generators, grids, asked, self.domain.catalogue(x))
        self.no_steps = why_no_steps(x[:1], one, self.known.representation, y)
        self.notes += self.domain.out_of_sight(generators, self.plan, x)

    def check(self, batch: Batch) -> None:
        """Refuse a batch that is not like the first one: what is bound to that would be wrong.

        Raises:
            ImageError: for clouds after images (PointCloudError the other way round).
            LieDerivError: naming what differs.
        """
        x = batch.x
        self.domain.check(x, "batches")
        shape = tuple(x.shape[1:]) if isinstance(x, Tensor) else None
        for what, first, now in (
            ("sizes", self.shape, shape),
            ("dtypes", self.dtype, x.dtype),
            ("devices", self.device, x.device),
        ):
            if now != first:  # no `ImageError`: what was measured is not everything
                raise LieDerivError(
                    f"`batches` has {self.domain.item}s of several {what}: {_plain(now)} after "
                    f"{self.count} of {_plain(first)}; all must be alike: resize, crop or convert "
                    "them."
                )
        self.notes += filter(None, [batch.note])

    def add(self, x: Any, labels: Tensor | None) -> None:
        """Measure one batch; one that is interrupted leaves nothing behind."""
        before = {key: len(known) for key, known in self.parts.items()}
        bad = len(self.bad)
        try:
            self._add(x, labels)
        except BaseException:
            for key, known in self.parts.items():
                del known[before.get(key, 0) :]
            del self.bad[bad:]
            raise
        self.count += len(x)

    def _add(self, x: Any, labels: Tensor | None) -> None:
        s = self.settings
        self.action = self.domain.rebind(self.action, x)
        self.lee = {}
        if s.wants("lie") and not self.no_derivative:
            try:
                self._add_local(x)
            except NotDifferentiableError as refusal:
                # Metrics of finite transforms need no derivative; with nothing else it is an error.
                without = s.wants("finite") or s.wants("steps")
                if self.count or (s.local and not without):
                    raise
                self.no_derivative = str(refusal)
        shown = all(m.sees_rows for m in s.metrics)
        if self.count == 0 and s.verify and self.verification is None and not shown:
            check_batch(s.model, x, self.action)  # what no witness has looked at
        if s.wants("steps"):
            self._add_steps(x)
        self._add_others(x, labels)

    def _add_local(self, x: Any) -> None:
        """Derivatives along the generators and the comparison directions."""
        s = self.settings
        with _noted(self.notes):
            lin = linearise(
                s.model,
                x,
                self.action,
                output=self.known,
                relative=s.wants("comparison"),
                seeds=self.domain.seeds(x, s.seed),
                chunk_size=s.chunk_size or self.domain.chunk_size(x),
                engine=s.engine,
                verify=s.verify,
                mode="refuse",
            )
        self.resolved, self.verification = lin.resolved, lin.verification
        wrong = self._not_finite(lin.y)
        for kind in self.output_types:
            batch = LocalBatch.of(lin, x, self.action, kind)
            wrong |= ~batch.squared.isfinite().all(0)
            if lin.verification.engine != ENGINES[-1]:  # a difference is a finite step itself
                self.lee[kind] = batch.squared
            for m in s.local:
                self.parts[m, kind].append(m.measure(batch))
        self.bad += (self.count + wrong.nonzero().flatten()).tolist()
        if self.count == 0 and s.verify and lin.y.isfinite().all():
            self._find_floor(x[:1])

    def _add_steps(self, x: Any) -> None:
        """What the outputs do over steps of finite size."""
        s = self.settings
        found: dict[str, StepBatch] = {}
        if not self.no_steps:
            found = step_responses(
                s.model,
                x,
                self.action,
                self.plan,
                self.known.representation,
                self.output_types,
                compare=any(isinstance(m, RelativeStep) for m in s.metrics),
                seed=s.seed,
                cap=s.batch_size or self.domain.batch_size(x),
            )
        for kind in self.output_types:
            batch = replace(found[kind], lee=self.lee.get(kind)) if found else self.no_steps
            for m in s.metrics:
                if isinstance(m, StepMetric):
                    self.parts[m, kind].append(batch)

    def _add_others(self, x: Any, labels: Tensor | None) -> None:
        """Run the metrics that need no derivative of the model."""
        s = self.settings
        f = s.model if self.axis is None else _Probabilities(s.model, self.axis)
        context = Context(
            f,
            self.axis is not None,
            self.known,
            s.scheme,
            s.seed,
            s.dynamic_range,
            s.margin,
            labels,
        )
        unasked = [m for m in METRICS.values() if m.unasked and not context.lacks(m.needs)]
        wanted = dict.fromkeys([*s.metrics, *unasked])
        for m in sorted(wanted, key=lambda m: m.of_model):  # what is not comes first
            if isinstance(m, FiniteMetric | Reference):
                self.parts[m, self.output_type].append(m.measure(context, x))

    @property
    def output_type(self) -> str:
        """What metrics that need no derivative are measured on."""
        return "probs" if "probs" in self.output_types else self.output_types[0]

    def _not_finite(self, y: Tensor) -> Tensor:
        """Which items have outputs that are not finite, bool [B]."""
        assert self.resolved is not None
        rho = self.resolved.representation
        return (self.domain.sums(~y.isfinite()[None], self.action, rho)[0] > 0).cpu()

    def _find_floor(self, x: Any) -> None:
        """What rounding contributes, on one image; a note where it cannot be known."""
        assert self.verification is not None
        chunk = auto_chunk(x, len(self.action), self.settings.chunk_size)
        used, model = self.verification.engine, self.settings.model
        try:
            found = rounding_floor(model, x, self.action, self._lie_values, used, chunk)
        except (*RECOVERABLE, LieDerivError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            self.notes.append(f"the rounding floor is unknown: {reason}")
            return
        self.floor, why_single = found
        if why_single:
            self.notes.append(
                f"the model does not run in float64 ({why_single}), so the floor holds only how "
                "far scores move when the input moves by its rounding."
            )

    def _lie_values(self, x: Any, y: Tensor, jv: Tensor) -> dict[str, Tensor]:
        """L f per output type, [K, 1 or points, …], from f(x) and its pushforwards."""
        action = self.domain.rebind(self.action, x)
        rho = self.known.representation
        return {
            kind: lie_value(rho, action, *as_output(kind, rho, y, jv)) for kind in self.output_types
        }

    def scores(self, bootstrap: Bootstrap) -> tuple[Score, ...]:
        """All rows."""
        failure = ""
        if self.bad:
            failure = (
                f"non-finite output or derivative for {len(self.bad)} of {self.count} "
                f"{self.domain.item}s "
                f"(first: number {self.bad[0]})"
            )
        rows: list[Score] = []
        for kind in self.output_types:
            to = Rows(
                self.domain,
                self.action.generators,
                kind,
                bootstrap,
                self.count,
                self.floor.get(kind),
                failure,
            )
            rows += self._local_rows(to)
            for m in self.settings.metrics:
                if isinstance(m, StepMetric):
                    rows += m.rows(self.parts[m, kind], to)
        to = replace(to, output=self.output_type)
        for (m, _), parts in self.parts.items():
            if parts and not isinstance(m, LocalMetric | StepMetric):
                rows += m.rows(parts, to)
        return tuple(rows)

    def _local_rows(self, to: Rows) -> list[Score]:
        """One generator after another: those of no generator first, those of none of these last."""
        local = self.settings.local
        if self.no_derivative:
            found = [m.without(to, self.no_derivative) for m in local]
        else:
            found = [m.rows(self.parts[m, to.output], to) for m in local]
        places = {name: i for i, (name, _, _) in enumerate(targets(to.generators))} | {"any": -1}
        return sorted(
            (row for rows in found for row in rows),
            key=lambda row: places.get(row.transform, len(places)),
        )

    def describe(self, known: Provenance, contents: ContentHash) -> Provenance:
        """Complete the provenance."""
        rho = self.resolved or self.known
        moved: list[str] = []
        if isinstance(self.action, ImageAction):
            moved = self.settings.scheme.notes(self.action)
        return replace(
            known,
            model=known.model or type(self.settings.model).__name__,
            num_images=self.count,
            inputs=f"{self.domain.item}s",
            scheme=self.action.scheme_name,
            representation=f"{rho.representation} ({rho.status})",
            engine=self.verification.engine if self.verification else "",
            verification=str(self.verification) if self.verification else "",
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            seed=self.settings.seed,
            images_fingerprint=contents.hexdigest(),
            input_size=contents.input_size,
            output_size=self.output_size,
            transforms=definitions_of(self.action.generators, self.plan),
            settings={
                "unit": self.settings.unit,
                "dynamic_range": self.settings.dynamic_range,
                "margin": self.settings.margin,
            },
            warnings=(*known.warnings, *dict.fromkeys([*self.notes, *moved])),
        )


@dataclass(frozen=True)
class _Probabilities:
    """A classifier's output after the softmax over its classes."""

    model: Callable[[Any], Tensor]
    axis: int

    def __call__(self, x: Any) -> Tensor:
        return self.model(x).softmax(self.axis)


def _requested_types(output_type: str | Sequence[str]) -> tuple[str, ...]:
    names = output_type.split(",") if isinstance(output_type, str) else list(output_type)
    for name in names:
        check_type(name)
    return tuple(names)


def _output_types(requested: tuple[str, ...], classifier: bool) -> tuple[str, ...]:
    if "auto" not in requested:
        return requested
    return ("probs", "logits") if classifier else ("output",)


@contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
    """Turn warnings about a slower engine into notes of the provenance."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ForwardModeWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, ForwardModeWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _plain(value: Any) -> str:
    return " × ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _count(batches: Any) -> int | None:
    """Number of images or clouds, where it is known beforehand."""
    if is_input(batches):
        return len(batches)
    return getattr(batches, "num_images", None)


def _items(batches: Any, batch_size: int | None) -> Iterator[Batch]:
    """Batches of images or clouds and labels, split to a size that fits memory and cache."""
    for batch in deliver(batches):
        x, labels = batch.x, batch.labels
        domain = domain_of(x)
        domain.check(x, "batches")
        check_layout(x)
        done = 0
        for piece in pieces(x, batch_size):
            now = slice(done, done + len(piece))
            yield Batch(piece, None if labels is None else labels[now], batch.note)
            done = now.stop
