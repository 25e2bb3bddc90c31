"""What the operators that only move positions have in common: their effect on labels is themselves.

``views``, ``picking``, ``reordering`` and ``joining`` hold the operators.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fxprune.labels import BoolArray, IntArray, varying
from fxprune.ops.base import Call, Context, Move, OpRule, Output, Rewrite, Value

__all__ = [
    "LONGEST",
    "Resize",
    "Shape",
    "UnevenError",
    "dim_of",
    "first_tensor",
    "live_groups",
    "live_lines",
    "live_positions",
    "live_within",
    "looked_up",
    "moved_by",
    "picked_by",
    "repeated",
    "row",
]

Shape = tuple[int, ...]

# Longer axes are positions or vocabularies, never channels; labels for them would only cost time.
LONGEST = 16384
Resize = Callable[[Call, Call], Rewrite]


def first_tensor(call: Call) -> tuple[str, Value]:
    """Name and value of the tensor that is moved."""
    return next((k, v) for k, v in call.args.items() if isinstance(v, Value))


def dim_of(call: Call, rank: int, name: str = "dim") -> int:
    """The dimension that an argument names, counted from the front."""
    return call.integer(name) % rank


def moved_by(move: Move) -> Callable[[Context, Call], Output]:
    """The coupling face of a movement op."""

    def rule(ctx: Context, call: Call) -> Output:
        _, x = first_tensor(call)
        shapes = call.out if isinstance(call.out, list) else [call.out]
        arrays: list[list[IntArray]] = [[] for _ in shapes]
        for array in x.arrays:
            _keep_order(ctx, call, array, x.shape)
            moved = move(call, array, x.shape)
            for k, result in enumerate(moved if isinstance(moved, list) else [moved]):
                if varying(result):
                    arrays[k].append(result)
                elif varying(array):
                    ctx.pin([result], "a single position is picked here")
        values = [Value(s, tuple(a), x.origin) for s, a in zip(shapes, arrays, strict=True)]
        return values if isinstance(call.out, list) else values[0]

    return rule


def _keep_order(ctx: Context, call: Call, array: IntArray, shape: Shape) -> None:
    """Merging dimensions against their nesting (a channel shuffle) needs equal columns in every row.

    Otherwise what is left of the rows would interleave in an order that no slim op delivers.
    """
    axes = varying(array)
    if len(axes) < 2 or not isinstance(call.out, tuple) or len(call.out) >= len(shape):
        return
    order = ctx.order(array)
    if tuple(sorted(order)) != order:
        ctx.project(array, order[-1:])


def picked_by(move: Move) -> Callable[[Context, Call], Output]:
    """Movement that picks rows of a layout by number: those rows must stay."""
    couple = moved_by(move)

    def rule(ctx: Context, call: Call) -> Output:
        _, x = first_tensor(call)
        dim = dim_of(call, x.rank)
        for array in x.arrays:
            if array.shape[dim] > 1 and len(varying(array)) > 1:
                ctx.pin([ctx.project(array, (dim,))], "rows are picked by number here")
        return couple(ctx, call)

    return rule


class UnevenError(ValueError):
    """Rows keep different positions, so that one list of them says nothing about the others."""


def live_lines(dense: Value, slim: Value, dim: int) -> BoolArray:
    """Which positions along ``dim`` are left, row by row.

    Returns:
        bool[n, rows]; rows that die whole are left out.
    """
    mask = np.ones([1] * dense.rank, bool)
    for before, after in zip(dense.arrays, slim.arrays, strict=True):
        if before.shape[dim] > 1:
            mask = mask & np.isin(before, after)
    lines: BoolArray = np.moveaxis(mask, dim, 0).reshape(mask.shape[dim], -1)
    if mask.shape[dim] == 1:
        return np.ones((dense.shape[dim], 1), bool)
    return lines[:, lines.any(axis=0)]


def live_positions(dense: Value, slim: Value, dim: int) -> IntArray:
    """Positions of the dense tensor along ``dim`` that are left in the slim one.

    Raises:
        UnevenError: Rows keep different ones.
    """
    alive = np.logical_or.reduce(live_lines(dense, slim, dim), axis=1)
    # As many as there are: all rows keep these, or they are rows themselves.
    if alive.sum() != slim.shape[dim]:
        raise UnevenError("rows keep different positions")
    return np.flatnonzero(alive).astype(np.int64)


def live_within(dense: Value, slim: Value, dim: int, start: int, stop: int) -> int:
    """How many positions from ``start`` up to ``stop`` are left along ``dim``.

    Raises:
        UnevenError: More in one row than in another.
    """
    lines = live_lines(dense, slim, dim)
    alive = np.logical_or.reduce(lines, axis=1)
    if alive.sum() == slim.shape[dim]:
        return int(alive[start:stop].sum())
    counts = np.unique(lines[start:stop].sum(axis=0))
    if len(counts) > 1 or (lines.sum(axis=0) != slim.shape[dim]).any():
        raise UnevenError("rows keep different numbers of positions")
    return int(counts.sum())


def live_groups(dense: Value, slim: Value, dim: int, size: int) -> int:
    """How many runs of ``size`` positions along ``dim`` keep anything."""
    alive = live_lines(dense, slim, dim).any(axis=1)
    return int(alive.reshape(-1, size).any(axis=1).sum())


def looked_up(
    ctx: Context, x: Value, dims: list[int], shape: Shape, place: Callable[[IntArray], IntArray]
) -> Value:
    """Positions along ``dims`` are chosen by data: their labels stay."""
    bad = [a for a in x.arrays if any(d in dims for d in varying(a))]
    if bad:
        ctx.pin(bad, "positions along this axis are looked up by value")
    good = [a for a in x.arrays if not any(d in dims for d in varying(a))]
    return Value(shape, tuple(place(a) for a in good), x.origin)


def repeated(ctx: Context, call: Call, name: str) -> list[IntArray]:
    """Labels along dimensions of one position that a list of numbers makes wider: any width will do.

    Not where the copies become a part of another dimension, whose rows would then be units of their own.

    Args:
        ctx: Makes the labels.
        call: ``expand`` or ``repeat``.
        name: The list.
    """
    _, x = first_tensor(call)
    if call.regrouped or call.shared:
        return []
    rank = len(call.shape)
    before = (1,) * (rank - x.rank) + x.shape
    listed = rank - len(call.integers(name))
    wider = [
        d
        for d, n in enumerate(call.shape)
        if before[d] == 1 < n <= LONGEST and d >= listed and (name, d - listed) not in call.symbolic
    ]
    return [ctx.padding(tuple(n if d == e else 1 for e, n in enumerate(call.shape))) for d in wider]


def row(
    names: str | tuple[str, ...], move: Move, resize: Resize | None = None, picked: bool = False
) -> OpRule:
    """A table row of a plain movement op."""
    ops = tuple(f"aten::{n}" for n in ((names,) if isinstance(names, str) else names))
    return OpRule(ops, (picked_by if picked else moved_by)(move), resize, move)
