"""Joining: several tensors side by side, or one written into another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fxprune import labels
from fxprune.labels import IntArray, take, varying
from fxprune.ops.base import Call, Context, OpRule, Output, Rewrite, Value
from fxprune.ops.moving import dim_of, live_within
from fxprune.ops.picking import indexed_dims, resize_slice, sliced

__all__ = ["CONCATENATIONS", "RULES", "joined"]

CONCATENATIONS = ("aten::cat", "aten::concat", "aten::concatenate")


def _cat(ctx: Context, call: Call) -> Output:
    parts = [t for t in call.tensors() if t.shape != (0,)]
    return joined(ctx, parts, dim_of(call, len(call.shape)))


def joined(ctx: Context, parts: Sequence[Value], dim: int) -> Value:
    """Tensors side by side along ``dim``: along the others they are tied."""
    sizes = parts[0].shape
    total = tuple(sum(p.shape[d] for p in parts) if d == dim else n for d, n in enumerate(sizes))
    shape = tuple(1 if d == dim else n for d, n in enumerate(sizes))
    others = [
        Value(
            tuple(1 if d == dim else n for d, n in enumerate(p.shape)),
            tuple(a for a in p.arrays if a.shape[dim] == 1),
        )
        for p in parts
    ]
    arrays = list(ctx.merge(others, shape))
    cells = _joined(ctx, parts, dim)
    if cells is not None:
        arrays = [a for a in arrays if not set(varying(a)) <= set(varying(cells))]
        arrays.append(cells)
    return Value(total, tuple(arrays), "" if arrays else parts[0].origin)


def _joined(ctx: Context, parts: Sequence[Value], dim: int) -> IntArray | None:
    """Labels along the concatenated axis; parts without units there get labels that stay."""
    along = [[a for a in p.arrays if a.shape[dim] > 1] for p in parts]
    if not any(along):
        return None
    axes = {varying(a) for arrays in along for a in arrays}
    if len(axes) > 1 or any(len(arrays) > 1 for arrays in along):
        ctx.pin([a for arrays in along for a in arrays], "parts of different layouts are joined here")
        return None
    rank = parts[0].rank
    (inner,) = axes
    pieces = []
    for part, arrays in zip(parts, along, strict=True):
        if arrays:
            pieces.append(arrays[0])
            continue
        shape = tuple(part.shape[d] if d in inner else 1 for d in range(rank))
        piece = ctx.fresh(shape)
        ctx.pin([piece], f"joined with {part.origin or 'data'} that carries no units", "data")
        pieces.append(piece)
    return np.concatenate(pieces, axis=dim)


def _beside(least: int, dim: int) -> Callable[[Context, Call], Output]:
    """NumPy's stacks: tensors with at least so many dimensions, side by side along one of them."""

    def rule(ctx: Context, call: Call) -> Output:
        parts = [_lifted(part, _with_rank(part.shape, least)) for part in call.tensors()]
        return joined(ctx, parts, min(dim, parts[0].rank - 1))

    return rule


def _columns(ctx: Context, call: Call) -> Output:
    """Vectors become columns."""
    parts = [_lifted(p, p.shape if p.rank > 1 else (*(p.shape or (1,)), 1)) for p in call.tensors()]
    return joined(ctx, parts, 1)


def _with_rank(shape: tuple[int, ...], least: int) -> tuple[int, ...]:
    """As ``atleast_2d`` has it a vector is a row, as ``atleast_3d`` has it a matrix is a picture of one channel."""
    if len(shape) >= least:
        return shape
    row = (1,) * (min(least, 2) - len(shape))
    return (*row, *shape) if least < 3 else (*row, *shape, 1)


def _lifted(value: Value, shape: tuple[int, ...]) -> Value:
    """A tensor under dimensions of one position more."""
    return Value(shape, tuple(labels.reshape(a, value.shape, shape) for a in value.arrays), value.origin)


def _at_least(ctx: Context, call: Call) -> Output:
    """One tensor, or a list of them."""
    shapes = call.out if isinstance(call.out, list) else [call.out]
    values = [_lifted(part, shape) for part, shape in zip(call.tensors(), shapes, strict=True)]
    return values if isinstance(call.out, list) else values[0]


def _stack(ctx: Context, call: Call) -> Output:
    """Operands side by side on a new axis: as many units must stay in each."""
    parts = call.tensors()
    dim = dim_of(call, len(call.shape))
    arrays = []
    for k in range(max(len(p.arrays) for p in parts)):
        column = [p.arrays[k] for p in parts if k < len(p.arrays)]
        if len(column) < len(parts) or len({varying(a) for a in column}) > 1:
            ctx.pin(column, "operands of different layouts are stacked here", "data")
            continue
        stacked = labels.collapse(np.stack(column, axis=dim), [dim])
        if len(varying(stacked)) > 1 and stacked.shape[dim] > 1:
            rest = [d for d in varying(stacked) if d != dim]
            ctx.nest(stacked, [dim, *rest])
            ctx.pin([ctx.project(stacked, (dim,))], "an operand of a stack")
        arrays.append(stacked)
    return Value(call.shape, tuple(arrays), "" if arrays else parts[0].origin)


def _pad(ctx: Context, call: Call) -> Output:
    """Padded positions are new units that any width may have; negative amounts cut."""
    x = call.tensor("self")
    amounts = call.integers("pad")
    pads = {x.rank - 1 - k // 2: (amounts[k], amounts[k + 1]) for k in range(0, len(amounts), 2)}
    constant = str(call.args.get("mode", "constant")) == "constant"
    arrays = []
    for array in x.arrays:
        for dim, (left, right) in pads.items():
            if array.shape[dim] == 1 or not (left or right):
                continue
            if not constant:
                ctx.pin([array], "a reflecting pad reads positions by number")
                break
            array = take(array, dim, slice(max(-left, 0), x.shape[dim] + min(right, 0)))
            sides = [
                ctx.padding(tuple(max(n, 0) if d == dim else s for d, s in enumerate(array.shape)))
                for n in (left, right)
            ]
            array = np.concatenate([sides[0], array, sides[1]], axis=dim)
        else:
            arrays.append(array)
    return Value(call.shape, tuple(arrays), x.origin)


def _resize_pad(dense: Call, slim: Call) -> Rewrite:
    """Left and right amounts shrink to the padded positions that are left."""
    x, y = dense.tensor("self"), slim.tensor("self")
    amounts = dense.integers("pad")
    before, after = Value(dense.shape, _padded(dense)), Value(slim.shape, _padded(slim))
    changed = list(amounts)
    for k in range(0, len(amounts), 2):
        dim = x.rank - 1 - k // 2
        left, right = amounts[k], amounts[k + 1]
        if not any(a.shape[dim] > 1 for a in before.arrays):
            continue
        if dense.shape[dim] == slim.shape[dim] and x.shape[dim] == y.shape[dim]:
            continue
        if left < 0 or right < 0:
            changed[k] = -live_within(x, y, dim, 0, -left) if left < 0 else 0
            changed[k + 1] = -live_within(x, y, dim, x.shape[dim] + right, x.shape[dim]) if right < 0 else 0
        if left > 0:
            changed[k] = live_within(before, after, dim, 0, left)
        if right > 0:
            changed[k + 1] = live_within(before, after, dim, dense.shape[dim] - right, dense.shape[dim])
    return Rewrite({"pad": changed})


def _padded(call: Call) -> tuple[IntArray, ...]:
    """Label arrays of the result, which the resize walk passes as the argument ``result``."""
    result = call.args["result"]
    assert isinstance(result, Value)
    return result.arrays


def _slice_scatter(ctx: Context, call: Call) -> Output:
    """A part is overwritten: what is written ties with what it replaces."""
    x, source = call.tensor("self"), call.tensor("src")
    dim = dim_of(call, x.rank)
    if call.integer("step", 1) > 1:
        ctx.pin([a for a in x.arrays if a.shape[dim] > 1], "every n-th position is replaced here")
    part = Value(source.shape, tuple(sliced(call, a, x.shape) for a in x.arrays))
    ctx.merge([part, source], source.shape)
    return Value(call.shape, x.arrays, x.origin)


def _index_put(ctx: Context, call: Call) -> Output:
    """``x[index] = values``: along the other dimensions what is written ties with what it replaces."""
    x, values = call.tensor("self"), call.tensor("values")
    dims, _ = indexed_dims(call)
    raw = call.args["indices"]
    indices = [v for v in raw if isinstance(v, Value)] if isinstance(raw, (list, tuple)) else []
    ctx.pin([a for v in indices for a in v.arrays], "read as positions here")
    if len(dims) != 1 or indices[0].rank != 1 or values.rank not in (0, x.rank):
        ctx.pin([*x.arrays, *values.arrays], "written at positions that are chosen by value")
        return Value(call.shape, (), x.origin)
    chosen = [a for a in x.arrays if a.shape[dims[0]] > 1]
    ctx.pin(chosen, "positions along this axis are chosen by value")
    if values.rank:
        shape = tuple(values.shape[d] if d == dims[0] else n for d, n in enumerate(x.shape))
        part = Value(shape, tuple(a for a in x.arrays if a.shape[dims[0]] == 1))
        return Value(call.shape, ctx.merge([part, values], shape), x.origin)
    return Value(call.shape, tuple(a for a in x.arrays if a.shape[dims[0]] == 1), x.origin)


RULES = (
    OpRule(CONCATENATIONS, _cat),
    OpRule(("aten::hstack",), _beside(1, 1)),
    OpRule(("aten::vstack",), _beside(2, 0)),
    OpRule(("aten::dstack",), _beside(3, 2)),
    OpRule(("aten::column_stack",), _columns),
    OpRule(("aten::atleast_1d", "aten::atleast_2d", "aten::atleast_3d"), _at_least),
    OpRule(("aten::stack",), _stack),
    OpRule(("aten::pad", "aten::constant_pad_nd"), _pad, _resize_pad),
    OpRule(("aten::slice_scatter",), _slice_scatter, resize_slice),
    OpRule(("aten::index_put",), _index_put),
)
