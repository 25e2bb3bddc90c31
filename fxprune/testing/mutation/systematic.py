"""Faults that any rule can have, made from the table of rules itself.

A tie, a pin, a flag that is not said; labels that are lost or shifted; sizes that do not follow: as far as the rule
says such a thing on its samples at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from fxprune import ops
from fxprune.coupling.couple import analyse
from fxprune.coupling.walk import Walk
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, Context, OpRule, Output
from fxprune.testing.lone import lone
from fxprune.testing.mutation.mutant import TAGGED, Couple, Mutant, in_row, ops_of, row_of, rule
from fxprune.testing.mutation.slips import (
    forgotten,
    lost,
    muted,
    overridden,
    passed,
    relabelled,
    shifted,
    still,
    swapped,
)
from fxprune.testing.samples import SAMPLES
from fxprune.testing.samples.base import Sample

SAID: dict[str, tuple[str, str, dict[str, Callable[..., object]]]] = {
    "tie": ("ties nothing", "What meets in the operator is not tied.", {"couple": muted("tie")}),
    "pin": ("pins nothing", "What must stay is not pinned.", {"couple": muted("pin")}),
    "consume": (
        "consumes nothing",
        "It does not say where it sums over units, so the oracle cannot zero there.",
        {"couple": muted("consume")},
    ),
    "inexact": (
        "is exact",
        "It does not say that removing units changes what is computed from the others.",
        {"couple": muted("inexact")},
    ),
    "project": (
        "knows no rows",
        "Rows and columns of layouts get labels of their own instead of those of the layout.",
        {"couple": muted("project")},
    ),
    "labels": ("loses labels", "The result carries no labels.", {"couple": lost}),
    "places": ("off by one", "Labels of the result are one position too far.", relabelled(shifted)),
    "order": ("first two swapped", "The first two labels of the result are exchanged.", relabelled(swapped)),
    "moves": (
        "taken for elementwise",
        "Its result is given the labels of its operand as they are, and nothing is said.",
        {"couple": passed, "move": still},
    ),
    "sizes": (
        "sizes do not follow",
        "Numbers in the call stay those of the dense model.",
        {"resize": forgotten},
    ),
}


TELLING: dict[str, tuple[str, ...]] = {
    TAGGED: ("relu", "one half gates the other"),
    "aten::sum": ("channel-sum gate", "radix view + sum"),
    "aten::mean": ("channel-mean gate", "position of the largest channel"),
    "aten::zeros": ("product with a constant made on the spot",),
    "aten::arange": ("product with a literal constant", "index by a range"),
    "torchvision::roi_align": ("region pooling", "regions that a layer makes"),
}
"""Networks that tell more about some rules than single calls: what reads the results of those stands in the way."""


def rules() -> list[tuple[str, OpRule]]:
    """Every distinct rule under the name of its first operator: rows that share all code count once."""
    distinct: dict[object, tuple[str, OpRule]] = {(ops._POINTWISE.couple,): (TAGGED, ops._POINTWISE)}
    for row in ops.RULES:
        key = tuple(_code_of(face) for face in (row.couple, row.resize, row.move))
        distinct.setdefault(key, (row.ops[0], row))
    return list(distinct.values())


def _code_of(face: object) -> object:
    """The code of a function, and the functions and flags it was made with."""
    held = [c.cell_contents for c in getattr(face, "__closure__", None) or ()]
    inner = tuple(_code_of(h) for h in held if callable(h) or isinstance(h, bool))
    return (getattr(face, "__code__", face), inner)


def systematic() -> Iterator[Mutant]:
    """For every rule of the table each fault in something that it says."""
    for op, row in rules():
        names = ops_of(row)
        yield from slips_of(op, [s for s in SAMPLES if s.name in names])


def slips_of(op: str, samples: Iterable[Sample]) -> Iterator[Mutant]:
    """Each fault that the rule of an operator can have in something that it says.

    Args:
        op: The operator, as ``"aten::cat"``.
        samples: Of the operators that share its row: what the rule says on them.

    Example:
        >>> from fxprune.testing import parameter
        >>> flip = Sample("aten.flip.default", (parameter(2, 3), [1]))
        >>> sorted(slip.name for slip in slips_of("aten::flip", [flip]))  # doctest: +ELLIPSIS
        ['aten::flip: first two swapped', 'aten::flip: loses labels', ...]
    """
    said = _said(op, samples)
    for what, (name, broken, faces) in SAID.items():
        if what in said:
            yield rule(op, name, broken, first=TELLING.get(op, ()), **faces)


def _said(op: str, samples: Iterable[Sample]) -> set[str]:
    """What the rule says on samples."""
    row = row_of(op)
    said = {"sizes"} if row.resize is not None else set()
    for sample in samples:
        with in_row(op, couple=_watched(said))(), lone(sample) as one:
            analyse(one.trace)
    if row.move is None:
        said -= {"order"}
    return said


def _watched(said: set[str]) -> Callable[[Couple], Couple]:
    """A rule that notes what it says and what it does to labels."""

    def make(couple: Couple) -> Couple:
        def watched(ctx: Context, call: Call) -> Output:
            assert isinstance(ctx, Walk)

            def tie(a: IntArray, b: IntArray) -> None:
                if (np.asarray(a) != b).any():
                    said.add("tie")
                Walk.tie(ctx, a, b)

            def about(name: str) -> Callable[..., None]:
                def method(*given: object, **named: object) -> None:
                    arrays = next(g for g in given if isinstance(g, (list, tuple)))
                    if any(varying(a) for a in arrays):
                        said.add(name)
                    getattr(Walk, name)(ctx, *given, **named)

                return method

            def project(array: IntArray, dims: Sequence[int]) -> IntArray:
                result = Walk.project(ctx, array, dims)
                if result is not array:
                    said.add("project")
                return result

            methods = {name: about(name) for name in ("pin", "consume", "inexact")}
            with overridden(ctx, tie=tie, project=project, **methods):
                result = couple(ctx, call)
            said.update(_of_result(call, result))
            return result

        return watched

    return make


def _of_result(call: Call, result: Output) -> set[str]:
    values = [v for v in (result if isinstance(result, list) else [result]) if v is not None]
    said = set()
    for value in values:
        if any(varying(a) for a in value.arrays):
            said |= {"labels", "places", "order"}
        operands = call.tensors()
        if operands and value.shape == operands[0].shape:
            before, after = operands[0].arrays, value.arrays
            if len(before) != len(after) or not all(map(np.array_equal, before, after)):
                said.add("moves")
    return said
