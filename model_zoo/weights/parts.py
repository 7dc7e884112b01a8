"""Find the part of a checkpoint that fits a model, tensor by tensor.

A part is everything below one place in the file, where a place is a key of a container
(`state_dict`, `ema`, `callbacks.EMA.weights`) followed by the prefix of a wrapper in the tensors'
names (`module.`, `model.backbone.`). It fits if it has every tensor of the model, in its shape, and
no other. Wrappers of single submodules (`_orig_mod.`, `_checkpoint_wrapped_module.`) are dropped
wherever they stand, and so are the counters and metrics that tools leave among the weights.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .checkpoints import Entry
from .state import Mismatch, StateDict

__all__ = ["INNER_WRAPPERS", "Part", "Target", "fitting_parts", "plausible_parts"]

Place = tuple[str, ...]

# Put around submodules by torch.compile, DataParallel, FSDP and activation checkpointing.
INNER_WRAPPERS = frozenset(
    {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module"}
)
# What training code calls the network beside which it keeps others (a head, a queue, a loss).
KNOWN_PREFIXES = INNER_WRAPPERS | {
    "average", "averaged", "backbone", "base", "base_encoder", "base_model", "body", "clip", "ema",
    "ema_model", "encoder", "encoder_k", "encoder_q", "feature_extractor", "generator",
    "image_encoder", "learner", "model", "model_ema", "momentum_encoder", "net", "netG", "net_ema",
    "network", "online", "online_encoder", "online_network", "shadow", "student", "swa_model",
    "target", "target_encoder", "target_network", "teacher", "trunk", "vision_encoder",
    "vision_model", "vision_tower", "visual",
}  # fmt: skip
AVERAGES = frozenset({"average", "averaged", "avg", "ema", "lawa", "shadow", "swa", "teacher"})
# Counters that averaging and profiling tools leave among the weights.
COUNTERS = frozenset({"n_averaged", "total_ops", "total_params"})
_METRIC = re.compile(
    r"(?i)(^|_)((best|val|test|train|eval|valid|top\d?|running)_?)*(acc\w{0,6}\d?|accuracy|auc|"
    r"best\w*|decay|epochs?|f1|global_step|iou|iter(ation)?s?|loss|lr|map|metrics?|miou|"
    r"num_updates|perplexity|precision|psnr|recall|score|ssim|steps?|time|top\d)(_?\d+)?$"
)
# State of optimisers and statistics of gradients have the names and shapes of the weights.
_NOT_WEIGHTS = re.compile(
    r"(?i)(^|_)(optim\w*|\w*scheduler\w*|scaler|grads?|gradients?|exp_avg\w*|momentum_buffers?|"
    r"velocit\w*|fisher|hessian|masks?|deltas?|adam\w*|sgd|moments?|second_moment|variances?)($|_)"
)


@dataclass(frozen=True)
class Target:
    """What a model needs.

    Attributes:
        shapes: Of its tensors, by name.
        absent: Names that a file may lack.
        free: Names whose first axis may differ: a classifier of any number of classes.
        unused: Names that a file may have beyond the model's.
    """

    shapes: Mapping[str, tuple[int, ...]]
    absent: frozenset[str] = frozenset()
    free: frozenset[str] = frozenset()
    unused: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        absent: Collection[str] = (),
        free: Collection[str] = (),
        unused: Collection[str] = (),
    ) -> Target:
        """The needs of a model; batch norm's counters are absent from old files and unused."""
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        counters = {name for name in shapes if name.endswith("num_batches_tracked")}
        return cls(shapes, frozenset(absent) | counters, frozenset(free), frozenset(unused))

    def compare(self, tensors: Mapping[str, Tensor]) -> Mismatch:
        """List what keeps tensors from being the model's."""
        missing = tuple(n for n in self.shapes if n not in tensors and n not in self.absent)
        unexpected = tuple(n for n in tensors if n not in self.shapes and n not in self.unused)
        shapes = tuple(
            (name, _shape(tensor), self.shapes[name])
            for name, tensor in tensors.items()
            if name in self.shapes and not self._same(name, _shape(tensor))
        )
        return Mismatch(missing, unexpected, shapes, len(self.shapes))

    def _same(self, name: str, shape: tuple[int, ...]) -> bool:
        own = self.shapes[name]
        return shape == own or (name in self.free and len(shape) > 0 and shape[1:] == own[1:])

    @property
    def required(self) -> int:
        """Number of tensors that no file may lack."""
        return sum(name not in self.absent for name in self.shapes)


@dataclass(frozen=True)
class Part:
    """Tensors below one place of a file.

    Attributes:
        key: Keys of the containers, joined by dots.
        prefix: In front of every name, with its dot.
        tensors: By name behind the prefix.
        left_out: Counters and metrics among the tensors that no model has.
    """

    key: str
    prefix: str
    tensors: StateDict
    left_out: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Key and prefix as one dotted path."""
        return ".".join(filter(None, (self.key, self.prefix.rstrip("."))))

    @property
    def is_average(self) -> bool:
        """Whether its place speaks of averaged weights (EMA, SWA, a student's mean teacher)."""
        return not AVERAGES.isdisjoint(word.lower() for word in _words(self.place))

    @property
    def is_weights(self) -> bool:
        """False for an optimiser's state and the like."""
        return not any(_NOT_WEIGHTS.search(word) for word in self.place.split("."))


def fitting_parts(entries: Sequence[Entry], target: Target) -> list[Part]:
    """Parts that fit, shallow ones first; the same tensors are listed once.

    Args:
        entries: Tensors of a file.
        target: What the model needs.
    """
    tree = _Tree(entries)
    found: dict[Place, Part] = {}
    for place, numbers in tree.nodes(max(1, target.required)):
        part = tree.fitting(place, numbers, target)
        if part is not None:
            found[place] = part
    # Weights that lie beside a wrapped copy of themselves: {"conv.weight": …, "ema.conv.weight": …}
    for place in {p[:i] for p in found for i in range(len(p))} - found.keys():
        inner = [p for p in found if p[: len(place)] == place]
        numbers = [n for n in tree.below[place] if not any(tree.inside(n, p) for p in inner)]
        part = tree.fitting(place, numbers, target) if numbers else None
        if part is not None:
            found[place] = part
    once: dict[frozenset[int], Part] = {}
    for place in sorted(found, key=len):  # the deepest place of the same tensors is the true one
        part = found[place]
        once[frozenset(id(t) for n, t in part.tensors.items() if n in target.shapes)] = part
    return [part for part in once.values() if part.is_weights]


def plausible_parts(entries: Sequence[Entry], target: Target, limit: int = 32) -> list[Part]:
    """Parts large enough to be the weights under other names or of another model.

    Args:
        entries: Tensors of a file.
        target: What the model needs.
        limit: How many at most.
    """
    tree = _Tree(entries)
    largest = max((len(n) for n in tree.below.values()), default=0)
    enough = max(1, min(target.required, largest) // 2)
    parts = []
    for place, numbers in sorted(tree.nodes(enough), key=lambda node: len(node[0])):
        direct = tree.direct(place, numbers)
        for chosen in (numbers, direct) if len(direct) >= enough else (numbers,):
            if not tree.trusted(place, chosen):
                continue
            parts += list(tree.named(place, chosen, target))[:2]
    once = {(p.place, tuple(p.tensors)): p for p in parts if p.is_weights}
    return list(once.values())[:limit]


class _Tree:
    """The places of a file, and which tensors lie below each."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.below: dict[Place, list[int]] = defaultdict(list)
        for number, entry in enumerate(entries):
            for i in range(len(entry.path)):
                self.below[entry.path[:i]].append(number)

    def nodes(self, count: int) -> Iterator[tuple[Place, list[int]]]:
        """Places with at least `count` tensors below them."""
        return ((p, n) for p, n in list(self.below.items()) if len(n) >= count)

    def inside(self, number: int, place: Place) -> bool:
        """Whether a tensor lies below a place."""
        return self.entries[number].path[: len(place)] == place

    def direct(self, place: Place, numbers: list[int]) -> list[int]:
        """Tensors in the innermost container around a place, not in containers within it."""
        depth = min(max(self.entries[n].container for n in numbers), len(place))
        return [n for n in numbers if self.entries[n].container <= depth]

    def fitting(self, place: Place, numbers: list[int], target: Target) -> Part | None:
        """The tensors below a place as a part, if they fit in one of their readings."""
        direct = self.direct(place, numbers)
        for chosen in (numbers, direct) if len(direct) < len(numbers) else (numbers,):
            if not chosen or not self.trusted(place, chosen):
                continue
            for part in self.named(place, chosen, target):
                if not target.compare(part.tensors).count:
                    return part
        return None

    def trusted(self, place: Place, numbers: list[int]) -> bool:
        """Whether a prefix stands for a network of its own rather than for a piece of one."""
        depth = min(self.entries[n].container for n in numbers)
        prefix = place[depth:]
        if all(name in KNOWN_PREFIXES for name in prefix):
            return True
        siblings = [n for n in self.below[place[:depth]] if self.entries[n].container == depth]
        return 2 * self._values(numbers) >= self._values(siblings)

    def _values(self, numbers: Sequence[int]) -> int:
        return sum(self.entries[n].tensor.numel() for n in numbers)

    def named(self, place: Place, numbers: list[int], target: Target) -> Iterator[Part]:
        """Readings of the names below a place: as they stand, and without inner wrappers."""
        depth = min(min(self.entries[n].container for n in numbers), len(place))
        key, prefix = ".".join(place[:depth]), "".join(f"{name}." for name in place[depth:])
        paths = [(self.entries[n].path[len(place) :], self.entries[n].tensor) for n in numbers]
        plain = {".".join(path): tensor for path, tensor in paths}
        if len(plain) < len(paths):
            return  # {"a": {"b": …}, "a.b": …}: nobody can tell which one is meant
        yield _without_metrics(key, prefix, plain, target)
        wrappers = INNER_WRAPPERS.intersection(*[{w for path, _ in paths for w in path}])
        own = {_unwrapped(name): name for name in target.shapes}
        names = [_unwrapped(".".join(path)) for path, _ in paths]
        same = not wrappers and own.keys() == target.shapes.keys()
        if same or len(own) < len(target.shapes) or max(Counter(names).values()) > 1:
            return
        clean = {
            own.get(name, name): tensor for name, (_, tensor) in zip(names, paths, strict=True)
        }
        yield _without_metrics(key, prefix, clean, target)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Sizes of the axes; a nested tensor has none that a model could have."""
    return (len(tensor.unbind()), -1) if tensor.is_nested else tuple(tensor.shape)


def _unwrapped(name: str) -> str:
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in INNER_WRAPPERS), last])


def _without_metrics(key: str, prefix: str, tensors: StateDict, target: Target) -> Part:
    known = target.shapes.keys() | target.unused
    out = [n for n, t in tensors.items() if n not in known and _is_metric(n, t)]
    kept = {name: tensor for name, tensor in tensors.items() if name not in out}
    told = [name for name in out if name.rsplit(".", 1)[-1] not in COUNTERS]
    return Part(key, prefix, kept, tuple(told))


def _is_metric(name: str, tensor: Tensor) -> bool:
    """A tool's counter, or one number by the name of a metric outside of all modules."""
    if name.rsplit(".", 1)[-1] in COUNTERS:
        return True
    return "." not in name and tensor.numel() == 1 and _METRIC.search(name) is not None


def _words(text: str) -> list[str]:
    """Words of a path in snake or camel case."""
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)
