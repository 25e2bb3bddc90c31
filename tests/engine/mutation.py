"""Seeded faults in the engine: what they are, how one is put in, and those that every rule can have.

A mutant changes one rule, or one function behind the rules, as a slip of whoever writes it would.
``systematic`` makes the slips that any rule can have from the table of rules itself (a tie, a pin, a
flag that is not said; labels that are lost or shifted; sizes that do not follow), as far as the rule
says such a thing on its samples at all.  ``engine.mutants`` is the table of all of them, ``engine.detection`` finds out
which are noticed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest
from engine.lawful import lone
from engine.samples import SAMPLES, Sample

from fxprune import ops
from fxprune.coupling.couple import coupling
from fxprune.coupling.walk import Walk
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, Context, OpRule, Output, Rewrite, Value

Shape = tuple[int, ...]
Couple = Callable[[Context, Call], Output]
Move = Callable[[Call, IntArray, Shape], IntArray | list[IntArray]]
Resize = Callable[[Call, Call], Rewrite]
Patch = Callable[[], contextlib.AbstractContextManager[None]]

TAGGED = "pointwise"
"""Stands for the operators that need no row because torch tags them as elementwise."""


@dataclass(frozen=True)
class Mutant:
    """A seeded fault.

    Attributes:
        name: What is faulty and how, in a few words.
        family: Module of the rule, or part of the engine.
        broken: What is wrong, in one sentence.
        patches: Each puts a part of the fault in while it is entered.
        ops: Operators that it concerns, the most concerned first; none if it may concern any network.
        first: Names of networks on which it should show.
        why: Why the library cannot notice it, where it does not.
    """

    name: str
    family: str
    broken: str
    patches: tuple[Patch, ...]
    ops: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    why: str = ""


@contextlib.contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The engine with the fault in it; it is whole again afterwards."""
    with contextlib.ExitStack() as stack:
        for patch in mutant.patches:
            stack.enter_context(patch())
        yield


# --- where a fault is put ----------------------------------------------------------------------


def at(place: str, make: Callable[..., object]) -> Patch:
    """Replace a function (``module:name`` or ``module:Class.name``) by what ``make`` makes of it."""
    module, _, path = place.partition(":")

    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        owner: object = import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(owner, name, make(getattr(owner, name)))
            yield

    return patch


def row_of(op: str) -> OpRule:
    """The row of an operator in the table of rules."""
    return ops._POINTWISE if op == TAGGED else ops._BY_NAME[op]


def in_row(op: str, **faces: Callable[..., object]) -> Patch:
    """Replace faces (``couple``, ``move``, ``resize``, ``gathers``) of an operator's row by what is made of them."""

    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        row = row_of(op)
        faulty = replace(row, **{face: make(getattr(row, face)) for face, make in faces.items()})
        with pytest.MonkeyPatch.context() as monkeypatch:
            if op == TAGGED:
                monkeypatch.setattr(ops, "_POINTWISE", faulty)
            for name in row.ops:
                monkeypatch.setitem(ops._BY_NAME, name, faulty)
            yield

    return patch


def family_of(op: str) -> str:
    """Name of the module that holds an operator's row."""
    row = row_of(op)
    found = [n for n, module in vars(ops).items() if any(row is r for r in getattr(module, "RULES", ()))]
    return found[0] if found else "pointwise"


def ops_of(row: OpRule) -> frozenset[str]:
    """Operators of a row; for those without one the operators that have samples."""
    return frozenset(row.ops) or frozenset(base(s) for s in SAMPLES if ops.rule_for(_target(s)) is row)


def rule(
    op: str,
    name: str,
    broken: str,
    *,
    first: tuple[str, ...] = (),
    **faces: Callable[..., object],
) -> Mutant:
    """A fault in the row of an operator."""
    where = in_row(op, **faces)
    concerned = (op, *sorted(ops_of(row_of(op)) - {op}))
    return Mutant(f"{op}: {name}", family_of(op), broken, (where,), concerned, first)


def code(
    family: str,
    name: str,
    broken: str,
    *patches: Patch,
    ops: Sequence[str] = (),
    first: tuple[str, ...] = (),
) -> Mutant:
    """A fault in a function behind the rules."""
    return Mutant(f"{family}: {name}", family, broken, patches, tuple(ops), first)


# --- how a rule goes wrong ---------------------------------------------------------------------


@contextlib.contextmanager
def overridden(ctx: Context, **methods: Callable[..., object]) -> Iterator[None]:
    """The walk with other methods, for as long as one rule runs."""
    for name, method in methods.items():
        setattr(ctx, name, method)
    try:
        yield
    finally:
        for name in methods:
            delattr(ctx, name)


def muted(*names: str) -> Callable[[Couple], Couple]:
    """The rule does not say these things."""

    def make(couple: Couple) -> Couple:
        def faulty(ctx: Context, call: Call) -> Output:
            def unknown(array: IntArray, dims: Sequence[int]) -> IntArray:
                return ctx.fresh(tuple(n if d in dims else 1 for d, n in enumerate(array.shape)))

            silent = {name: unknown if name == "project" else _nothing for name in names}
            with overridden(ctx, **silent):
                return couple(ctx, call)

        return faulty

    return make


def _nothing(*_: object, **__: object) -> None:
    """Instead of saying something."""


def read_as(change: Callable[[Call], Call]) -> dict[str, Callable[..., object]]:
    """Both faces that deal with labels read the call wrongly."""

    def couple(right: Couple) -> Couple:
        return lambda ctx, call: right(ctx, change(call))

    def move(right: Move | None) -> Move | None:
        return None if right is None else lambda call, array, shape: right(change(call), array, shape)

    return {"couple": couple, "move": move}


def with_args(**values: object) -> Callable[[Call], Call]:
    """A call with other arguments; functions are given the old one."""

    def change(call: Call) -> Call:
        new = {n: v(call.args.get(n)) if callable(v) else v for n, v in values.items() if n in call.args}
        return replace(call, args={**call.args, **new})

    return change


def relabelled(change: Callable[[IntArray], IntArray]) -> dict[str, Callable[..., object]]:
    """Both faces that deal with labels put them in the wrong places."""

    def couple(right: Couple) -> Couple:
        return lambda ctx, call: with_arrays(right(ctx, call), change)

    def move(right: Move | None) -> Move | None:
        if right is None:
            return None

        def faulty(call: Call, array: IntArray, shape: Shape) -> IntArray | list[IntArray]:
            moved = right(call, array, shape)
            return [change(m) for m in moved] if isinstance(moved, list) else change(moved)

        return faulty

    return {"couple": couple, "move": move}


def with_arrays(output: Output, change: Callable[[IntArray], IntArray]) -> Output:
    """A rule's result with changed label arrays."""
    if isinstance(output, list):
        return [replace(v, arrays=tuple(map(change, v.arrays))) for v in output]
    return output and replace(output, arrays=tuple(map(change, output.arrays)))


def shifted(array: IntArray) -> IntArray:
    """Every label one position too far along the last dimension that has any."""
    axes = varying(array)
    return np.roll(array, 1, axis=axes[-1]) if axes else array


def swapped(array: IntArray) -> IntArray:
    """The first two positions exchanged."""
    axes = varying(array)
    if not axes:
        return array
    order = np.arange(array.shape[axes[-1]])
    order[:2] = order[1::-1]
    return array.take(order, axis=axes[-1])


def _lost(couple: Couple) -> Couple:
    def faulty(ctx: Context, call: Call) -> Output:
        result = couple(ctx, call)
        if isinstance(result, list):
            return [replace(v, arrays=()) for v in result]
        return result and replace(result, arrays=())

    return faulty


def _passed(_: Couple) -> Couple:
    """What an operator that is taken for elementwise does."""

    def faulty(ctx: Context, call: Call) -> Output:
        x = call.tensors()[0]
        shapes = call.out if isinstance(call.out, list) else [call.out]
        values = [Value(s, x.arrays if s == x.shape else (), x.origin) for s in shapes]
        return values if isinstance(call.out, list) else values[0]

    return faulty


def _still(move: Move | None) -> Move | None:
    return move and (lambda call, array, shape: array)


def forgotten(_: Resize | None) -> None:
    """No resizing."""
    return


# --- faults that any rule can have -------------------------------------------------------------

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
    "labels": ("loses labels", "The result carries no labels.", {"couple": _lost}),
    "places": ("off by one", "Labels of the result are one position too far.", relabelled(shifted)),
    "order": ("first two swapped", "The first two labels of the result are exchanged.", relabelled(swapped)),
    "moves": (
        "taken for elementwise",
        "Its result is given the labels of its operand as they are, and nothing is said.",
        {"couple": _passed, "move": _still},
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


def base(sample: Sample) -> str:
    """``aten.conv2d.default`` as ``aten::conv2d``."""
    namespace, op, _ = sample.op.split(".")
    return f"{namespace}::{op}"


def _target(sample: Sample) -> object:
    from engine.lawful import overload

    return overload(sample.op)


def rules() -> list[tuple[str, OpRule]]:
    """Every distinct rule under the name of its first operator: rows that share all code count once."""
    found: dict[object, tuple[str, OpRule]] = {(ops._POINTWISE.couple,): (TAGGED, ops._POINTWISE)}
    for row in ops.RULES:
        key = tuple(_code_of(face) for face in (row.couple, row.resize, row.move))
        found.setdefault(key, (row.ops[0], row))
    return list(found.values())


def _code_of(face: object) -> object:
    """The code of a function, and the functions and flags it was made with."""
    held = [c.cell_contents for c in getattr(face, "__closure__", None) or ()]
    inner = tuple(_code_of(h) for h in held if callable(h) or isinstance(h, bool))
    return (getattr(face, "__code__", face), inner)


def systematic() -> Iterator[Mutant]:
    """For every rule each fault in something that it says."""
    for op, row in rules():
        said = _said(op, row)
        for what, (name, broken, faces) in SAID.items():
            if what in said:
                yield rule(op, name, broken, first=TELLING.get(op, ()), **faces)


def _said(op: str, row: OpRule) -> set[str]:
    """What the rule says on the samples of its operators."""
    said = {"sizes"} if row.resize is not None else set()
    names = ops_of(row)
    for sample in SAMPLES:
        if base(sample) in names:
            with pytest.MonkeyPatch.context() as monkeypatch, in_row(op, couple=_watched(said))():
                coupling(lone(sample, monkeypatch).trace)
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
