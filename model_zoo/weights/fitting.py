"""Choose the weights of a checkpoint for a model, load them, and say what was chosen and changed.

Where several parts fit: the same numbers are one part; averaged weights (EMA, SWA) come before raw
ones, as in timm; anything else (a student and a teacher, two epochs) is for the caller to choose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from liederiv.errors import ModelError
from liederiv.foreign import one_line

from .checkpoints import Checkpoint
from .files import shown
from .parts import INNER_WRAPPERS, Part, Target, fitting_parts, plausible_parts
from .state import FilterFn, Mismatch, StateDict
from .values import check_values, numbers_alike

__all__ = ["Fitted", "find_weights", "load_weights"]


@dataclass(frozen=True)
class Fitted:
    """The weights of a file for one model.

    Attributes:
        part: Where they lie; its tensors are under the model's names.
        source: Which part it is, in words; empty for a bare state dict.
        notes: What was adapted or left out, one sentence each.
    """

    part: Part
    source: str
    notes: tuple[str, ...]


def find_weights(
    file: Checkpoint, model: nn.Module, target: Target, filter_fn: FilterFn | None = None
) -> Fitted | Mismatch:
    """Find the part of a file that fits; the model is not changed.

    Args:
        file: The file.
        model: The one that is to receive the weights.
        target: What it needs.
        filter_fn: The architecture's own translation of foreign checkpoints, tried second.

    Returns:
        The weights, or the smallest mismatch.

    Raises:
        ModelError: If several parts fit and none of them is preferred.
    """
    parts = fitting_parts(file.entries, target)
    changes: dict[int, tuple[str, ...]] = {}
    best: Mismatch | None = None
    if not parts:
        for part in plausible_parts(file.entries, target):
            best = _smaller(target.compare(part.tensors), best)
            translated = _filtered(filter_fn, part.tensors, model)
            if translated is None:
                continue
            best = _smaller(target.compare(translated), best)
            if not target.compare(translated).count:
                parts.append(replace(part, tensors=translated))
                changes[id(parts[-1])] = _adaptations(part.tensors, translated)
    if not parts:
        return best or target.compare({})
    chosen, rule = _choose(file, parts, target)
    notes = (*rule, *changes.get(id(chosen), ()), *_left_out(file, chosen))
    return Fitted(chosen, _describe(file, chosen), notes)


def _smaller(found: Mismatch, best: Mismatch | None) -> Mismatch:
    return found if best is None or found.count < best.count else best


def load_weights(file: Checkpoint, fitted: Fitted, model: nn.Module) -> str:
    """Put the weights into the model.

    Args:
        file: The file.
        fitted: What `find_weights` has found for this very model.
        model: Receives the weights in place.

    Returns:
        What was taken, left out and converted, in brackets to follow the file's name; empty for a
        bare state dict.

    Raises:
        ModelError: If the values cannot be the model's; it is untouched then.
    """
    own = model.state_dict().keys()
    used = {name: tensor for name, tensor in fitted.part.tensors.items() if name in own}
    converted = check_values(used, model, file.path)
    model.load_state_dict(used, strict=False)  # only what `Target.absent` names may be absent
    said = "; ".join(filter(None, (fitted.source, *fitted.notes, *converted)))
    return f" ({said})" if said else ""


def _filtered(
    filter_fn: FilterFn | None, state_dict: StateDict, model: nn.Module
) -> StateDict | None:
    if filter_fn is None:
        return None
    try:
        found = dict(filter_fn(dict(state_dict), model))
    except Exception:  # timm's filters know some foreign formats, and trip over all others
        return None
    return found if all(isinstance(tensor, Tensor) for tensor in found.values()) else None


def _choose(
    file: Checkpoint, parts: Sequence[Part], target: Target
) -> tuple[Part, tuple[str, ...]]:
    distinct: list[Part] = []
    for part in parts:
        mine = _of_model(part, target)
        if not any(numbers_alike(mine, _of_model(other, target)) for other in distinct):
            distinct.append(part)
    averages = [part for part in distinct if part.is_average]
    if len(distinct) == 1:
        return distinct[0], ()
    if len(averages) == 1:
        others = _listed([part for part in distinct if part is not averages[0]])
        first = next(part for part in distinct if part is not averages[0])
        return averages[0], (
            f"the averaged weights in {_quoted(averages[0])} were taken before the raw ones in "
            f"{others}, as timm does (for those give {_remedy(file, first)})",
        )
    raise ModelError(
        f"`checkpoint` {shown(file.path)} holds {len(distinct)} sets of weights that fit, and they "
        f"differ: {_listed(distinct)}; name one of them, as in {_remedy(file, distinct[0])}."
    )


def _of_model(part: Part, target: Target) -> Mapping[str, Tensor]:
    return {name: t for name, t in part.tensors.items() if name in target.shapes}


def _remedy(file: Checkpoint, part: Part) -> str:
    return (
        f"'{one_line(file.path.name)}#{one_line(part.place)[:120]}'" if part.place else "them alone"
    )


def _quoted(part: Part) -> str:
    return f"'{one_line(part.place)[:120]}'" if part.place else "the file's top level"


def _listed(parts: Sequence[Part]) -> str:
    shown_parts = ", ".join(_quoted(part) for part in parts[:6])
    return f"{shown_parts}, …" if len(parts) > 6 else shown_parts


def _describe(file: Checkpoint, part: Part) -> str:
    """The part in words: key, kind, and a prefix other than those of wrappers."""
    words = []
    if part.key:
        kind = "averaged" if part.is_average else "raw"
        words.append(f"{kind} weights under '{one_line(part.key)[:120]}'")
    elif part.is_average:
        words.append("averaged weights")
    if set(part.prefix.rstrip(".").split(".")) - INNER_WRAPPERS - {""}:
        words.append(f"prefix '{one_line(part.prefix)[:120]}' removed")
    return ", ".join(words)


def _left_out(file: Checkpoint, part: Part) -> tuple[str, ...]:
    """What else lies in the file that could be weights."""
    notes = []
    if part.left_out:
        names = ", ".join(one_line(name)[:60] for name in part.left_out[:4])
        notes.append(f"metrics among the weights were left out: {names}")
    place = tuple(filter(None, part.place.split(".")))
    depth = len(place)
    outside = Counter(
        _branch(entry.path, place)
        for entry in file.entries
        if entry.path[:depth] != place
        and entry.tensor.numel() > 1
        and Part(".".join(entry.path[:-1]), "", {}).is_weights
    )
    if outside:
        listed = ", ".join(f"{one_line(n)[:60]} ({k})" for n, k in outside.most_common(4))
        more = ", …" if len(outside) > 4 else ""
        notes.append(f"other tensors of the checkpoint were left out: {listed}{more}")
    return tuple(notes)


def _branch(path: tuple[str, ...], place: tuple[str, ...]) -> str:
    """The place at which a path leaves another one."""
    same = next((i for i, (a, b) in enumerate(zip(path, place, strict=False)) if a != b), 0)
    return ".".join(path[: same + 1])


def _adaptations(before: StateDict, after: StateDict) -> tuple[str, ...]:
    """What timm's translation has changed."""
    notes = []
    sizes = 0
    for name, tensor in after.items():
        found = before.get(name)
        if found is None:
            found = next((t for n, t in before.items() if n.endswith(f".{name}")), None)
        if found is None or found.shape == tensor.shape:
            continue
        if found.numel() != tensor.numel():
            sizes += found.numel() - tensor.numel()
            kind = "position embedding" if "pos" in name or "rope" in name else "weights"
            notes.append(f"{kind} resampled: {name} {list(found.shape)} → {list(tensor.shape)}")
    shown_notes = notes[:2] + (
        [f"{len(notes) - 2} more tensors resampled"] if len(notes) > 2 else []
    )
    if before.keys() != after.keys():
        shown_notes.append("names of the weights translated by timm")
    total = sum(t.numel() for t in before.values()) - sum(t.numel() for t in after.values()) - sizes
    if total > 0:
        shown_notes.append(f"{total:,} values of the checkpoint not used by timm's architecture")
    return tuple(shown_notes)
