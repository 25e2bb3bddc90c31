"""How a rule goes wrong: what it does not say, reads wrongly, loses or puts in the wrong place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, Context, Output, Value
from fxprune.testing.mutation.mutant import Couple, Move, Resize, Shape


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


def lost(couple: Couple) -> Couple:
    """The result carries no labels."""

    def faulty(ctx: Context, call: Call) -> Output:
        result = couple(ctx, call)
        if isinstance(result, list):
            return [replace(v, arrays=()) for v in result]
        return result and replace(result, arrays=())

    return faulty


def passed(_: Couple) -> Couple:
    """What an operator that is taken for elementwise does with labels."""

    def faulty(ctx: Context, call: Call) -> Output:
        x = call.tensors()[0]
        shapes = call.out if isinstance(call.out, list) else [call.out]
        values = [Value(s, x.arrays if s == x.shape else (), x.origin) for s in shapes]
        return values if isinstance(call.out, list) else values[0]

    return faulty


def still(move: Move | None) -> Move | None:
    """Labels stay where they are."""
    return move and (lambda call, array, shape: array)


def forgotten(_: Resize | None) -> None:
    """No resizing."""
    return
