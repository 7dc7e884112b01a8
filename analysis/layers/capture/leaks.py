"""Calls that cannot be cut out of the network: their arguments and results are not all there is.

A contribution needs all paths into a module to end in its arguments and all paths out of it to
begin in what it returns. A module may also read a tensor that another one left in an attribute, or
leave one there that is used later; it may write to a tensor in place that others read. All of that
is in the backward graph. Such calls are not measured, and the module around them absorbs them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from liederiv.errors import ModelError

from .calls import Plan
from .edges import Recording, record_edges
from .hooks import as_leaf, same

__all__ = ["separable"]

_READS = "it reads tensors of the network that are not among its arguments"
_LEAVES = "what it computes is used elsewhere than through what it returns"
_SHARES = "it shares memory with what is written to in place"


def separable(
    model: nn.Module, readout: Callable[[Any], Tensor], plan: Plan, calls: Sequence[int], x: Any
) -> list[int]:
    """Those of the calls that can be measured; the plan's others are told why not.

    Args:
        model: from `measured_copy`.
        readout: turns the model's output into one tensor [D].
        plan: from `scout`; gives reasons to the calls that are left out.
        calls: numbers of the calls that are to be measured.
        x: one image or cloud.

    Raises:
        ModelError: if the output changes when the calls' arguments and results are copied.
    """

    def record(numbers: Sequence[int]) -> Recording:
        return record_edges(model, readout, plan, numbers, as_leaf(x))

    expected = readout(plan.output)
    recording = record(calls)
    if not same(expected, recording.out):
        kept = [i for i in calls if not (_shares(plan, i) and not same(expected, record([i]).out))]
        _exclude(plan, {i: _SHARES for i in calls if i not in kept})
        calls, recording = kept, record(kept)
        if not same(expected, recording.out):
            raise ModelError(
                "the model's output changes when what enters and leaves its modules is copied: it "
                "writes in place to tensors that several modules share; let it make new ones, or "
                "measure fewer modules (modules=[…])."
            )
    _exclude(plan, dict(_leaks(recording)))
    return [i for i in calls if not plan.calls[i].reason]


def _exclude(plan: Plan, reasons: dict[int, str]) -> None:
    for number, reason in reasons.items():
        plan.calls[number].reason = reason


def _shares(plan: Plan, number: int) -> bool:
    """Whether a tensor that enters or leaves a call is written to in place later on."""
    call = plan.calls[number]
    return any(slot in plan.rewritten for _, slot in (*call.inputs, *call.outputs))


def _leaks(recording: Recording) -> Iterator[tuple[int, str]]:
    """Calls with a path into or out of them besides their edges, and what is wrong with them."""
    starts = {(e.call, e.edge.node) for e in recording.edges if e.sign < 0}
    ends = {(e.call, *e.edge[:2]) for e in recording.edges if e.sign > 0}
    around = _Enclosing(recording.spans)
    if recording.out.grad_fn is None:
        raise ModelError(
            "no gradient reaches the model's output, which attribution needs beside the forward "
            "derivative; the model computes under no_grad, or detaches."
        )
    for node, before, index in _graph(recording.out.grad_fn):
        inside, source = around(node), around(before)
        if source is None or inside is None or inside == source:
            continue
        for call in inside - source:
            if (call, node) not in starts:
                yield call, _READS
        for call in source - inside:
            if (call, before, index) not in ends:
                yield call, _LEAVES


class _Enclosing:
    """The calls during which a node of the graph was made."""

    def __init__(self, spans: dict[int, tuple[int, int]]) -> None:
        self._spans = sorted((first, last, call) for call, (first, last) in spans.items())
        self._outer: list[int] = []  # position of the span around each; −1 for none
        self._calls: list[frozenset[int]] = []  # of each span and all around it
        for i, (first, _, call) in enumerate(self._spans):
            outer = self._innermost(i - 1, first)
            self._outer.append(outer)
            around = self._calls[outer] if outer >= 0 else frozenset()
            self._calls.append(around | {call})

    def __call__(self, node: Any) -> frozenset[int] | None:
        """None for a leaf, which is no call's."""
        if type(node).__name__ == "AccumulateGrad":
            return None
        number = node._sequence_nr()
        i = self._innermost(bisect_left(self._spans, (number,)) - 1, number)
        return self._calls[i] if i >= 0 else frozenset()

    def _innermost(self, i: int, number: int) -> int:
        """Spans nest: of those that began before, the last that has not ended by then."""
        while i >= 0 and self._spans[i][1] <= number:
            i = self._outer[i]
        return i


def _graph(root: Any) -> Iterable[tuple[Any, Any, int]]:
    """All edges of a backward graph: a node, the one before it, and which of its outputs."""
    seen, left = {root}, [root]
    while left:
        node = left.pop()
        for before, index in node.next_functions:
            if before is None:
                continue
            yield node, before, index
            if before not in seen:
                seen.add(before)
                left.append(before)
