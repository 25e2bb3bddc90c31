"""What the walk does not take a rule's word for.

A number that only the data know moves positions nobody can follow.  A result must have the shape that the
operator gives it.  Labels that come in come out, or the rule says what became of them: summed over, seen by
others, pinned, or tied to what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, OpRule, Output, Value
from fxprune.ops.pointwise import pointwise

__all__ = ["Ledger", "adrift", "flaw"]

SETTLED = frozenset(
    [
        "size",
        "shape",
        "sizes",
        "output_size",
        "input_size",
        "repeats",
        "scales",
        "scale_factors",
        "scales_h",
        "scales_w",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "output_padding",
        "fill_value",
        "value",
        "eps",
        "momentum",
        "p",
        "min",
        "max",
        "other",
        "alpha",
    ]
)
"""Arguments in which such a number moves nothing but along the dimensions whose sizes it changes."""

DIMS = ("dim", "dims", "dimension", "dim1", "dim2", "dim0")


def adrift(call: Call, rule: OpRule) -> list[IntArray]:
    """Labels of the operands that a number may move which only the data know."""
    operands = call.tensors()
    if rule.fills or rule.couple is pointwise or not operands:
        return []
    sizes = call.out if isinstance(call.out, tuple) else ()
    # The number that stands for it may not be one that could be there.
    impossible = min(sizes, default=1) < 1 or (rule.regroups and prod(operands[0].shape) != prod(sizes))
    if not impossible and {name for name, _ in call.unsettled} <= SETTLED:
        return []
    named = [] if impossible else [n for n in DIMS if call.args.get(n) is not None]
    padded = {-1 - k // 2 for name, k in call.unsettled if name == "pad"}
    labels: list[IntArray] = []
    for value in operands:
        dims = {d % max(value.rank, 1) for d in (*padded, *(d for n in named for d in call.integers(n)))}
        labels.extend(a for a in value.arrays if not dims or dims & set(varying(a)))
    return labels


def flaw(call: Call, output: Output) -> str:
    """What is wrong with the shape of a result or of its labels, or empty."""
    shapes = call.out if isinstance(call.out, list) else [call.out]
    held = output if isinstance(output, list) else [output]
    if output is None:
        return "gives nothing" if call.out else ""
    if len(held) != len(shapes):
        return f"gives {len(held)} results where there are {len(shapes)}"
    for value, shape in zip(held, shapes, strict=False):
        if not isinstance(value, Value):
            continue
        if value.shape != shape:
            return f"gives a result of shape {value.shape} where it is {shape}"
        for array in value.arrays:
            if array.ndim != len(shape) or any(
                n not in (1, m) for n, m in zip(array.shape, shape, strict=True)
            ):
                return f"gives labels of shape {array.shape} for a result of shape {shape}"
    return ""


class Ledger:
    """Finds labels that go into a call and are nowhere any more, though nothing was said of them.

    Arrays are looked for, not every label: an operator may leave out positions.
    """

    def __init__(self) -> None:
        self._marks: IntArray = np.zeros(0, np.int64)  # of each label the last call that accounted for it
        self._call = 0

    def forgets(
        self,
        call: Call,
        output: Output,
        told: Sequence[IntArray],
        ties: Sequence[tuple[IntArray, IntArray, object]],
        n_labels: int,
    ) -> bool:
        """Whether all labels of some array of an operand are forgotten.

        Args:
            call: With its operands.
            output: What the rule returned.
            told: Labels that it pinned, summed over or called inexact.
            ties: Pairs that it tied.
            n_labels: Labels there are by now.
        """
        if len(self._marks) < n_labels:
            self._marks = np.zeros(2 * n_labels, np.int64)
        self._call += 1
        results = output if isinstance(output, list) else [output]
        for array in (*(a for v in results if isinstance(v, Value) for a in v.arrays), *told):
            self._marks[array] = self._call
        lost = [a for v in call.tensors() for a in v.arrays if a.size > 1 and not self._known(a)]
        if lost:
            self._follow(lost, ties)
        return not all(map(self._known, lost))

    def _known(self, array: IntArray) -> bool:
        # The first one tells in nearly all cases, and is quickly read.
        return self._first(array) == self._call or bool((self._marks[array] == self._call).any())

    def _first(self, array: IntArray) -> int:
        return int(self._marks.item(array.item(0)))

    def _follow(self, lost: Sequence[IntArray], ties: Sequence[tuple[IntArray, IntArray, object]]) -> None:
        """What is tied to something that is not lost is not lost; nor are rows that meet the cells of their own layout."""
        for array in lost:
            self._marks[array] = -self._call
        for one, other, _ in ties:
            if one.size and self._first(one) == -self._call and np.array_equal(one, other):
                self._marks[one] = self._call
        spreads = True
        while spreads:
            spreads = False
            for one, other, _ in ties:
                for end, far in ((one, other), (other, one)):
                    if end.size and self._first(end) == -self._call != self._first(far):
                        self._marks[end] = self._call
                        spreads = True
