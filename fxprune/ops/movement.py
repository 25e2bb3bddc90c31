"""Operators that only move positions: their effect on labels is themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fxprune import labels
from fxprune.labels import take, varying
from fxprune.ops.base import Call, Context, Move, OpRule, Output, Rewrite, Value, solid
from fxprune.types import IntArray

__all__ = ["CONCATENATIONS", "RULES", "live_positions"]

Shape = tuple[int, ...]
Resize = Callable[[Call, Call], Rewrite]


def _first(call: Call) -> tuple[str, Value]:
    """Name and value of the tensor that is moved."""
    return next((k, v) for k, v in call.args.items() if isinstance(v, Value))


def _dim(call: Call, rank: int, name: str = "dim") -> int:
    return call.integer(name) % rank


def _moved(move: Move) -> Callable[[Context, Call], Output]:
    """The coupling face of a movement op."""

    def rule(ctx: Context, call: Call) -> Output:
        _, x = _first(call)
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


def _picked(move: Move) -> Callable[[Context, Call], Output]:
    """Movement that picks rows of a layout by number: those rows must stay."""
    couple = _moved(move)

    def rule(ctx: Context, call: Call) -> Output:
        _, x = _first(call)
        dim = _dim(call, x.rank)
        for array in x.arrays:
            if array.shape[dim] > 1 and len(varying(array)) > 1:
                ctx.pin([ctx.project(array, (dim,))], "rows are picked by number here")
        return couple(ctx, call)

    return rule


def live_positions(dense: Value, slim: Value, dim: int) -> IntArray:
    """Positions of the dense tensor along ``dim`` that are left in the slim one.

    Where rows keep different positions, those of the first full row.
    """
    left = np.ones(dense.shape[dim], bool)
    for before, after in zip(dense.arrays, slim.arrays, strict=True):
        if before.shape[dim] > 1:
            mask = np.isin(before, after)
            lines = np.moveaxis(mask, dim, 0).reshape(before.shape[dim], -1)
            left &= lines[:, lines.sum(axis=0).argmax()]
    return np.flatnonzero(left).astype(np.int64)


# --- reshaping ---------------------------------------------------------------------------------


def _reshape(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return labels.reshape(array, shape, call.shape)


def _couple_view_as(ctx: Context, call: Call) -> Output:
    """The shape of another tensor: its widths must follow."""
    moved, other = _moved(_reshape)(ctx, call), call.tensor("other")
    assert isinstance(moved, Value)
    return Value(call.shape, ctx.merge([moved, other], call.shape), moved.origin)


def _resize_sizes(name: str) -> Resize:
    """Sizes written in the graph follow the result's shape; -1 stays -1."""

    def resize(dense: Call, slim: Call) -> Rewrite:
        old = dense.integers(name)
        new = list(slim.shape)[len(slim.shape) - len(old) :]
        return Rewrite({name: [-1 if o == -1 else n for o, n in zip(old, new, strict=True)]})

    return resize


def _resize_unflatten(dense: Call, slim: Call) -> Rewrite:
    _, x = _first(dense)
    dim, sizes = _dim(dense, x.rank), dense.integers("sizes")
    return Rewrite({"sizes": list(slim.shape[dim : dim + len(sizes)])})


def _expand(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return array.reshape((1,) * (len(call.shape) - array.ndim) + array.shape)


def _permute(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return array.transpose([d % len(shape) for d in call.integers("dims")])


def _transpose(first: str, second: str) -> Move:
    def move(call: Call, array: IntArray, shape: Shape) -> IntArray:
        rank = max(len(shape), 1)
        return array.swapaxes(call.integer(first) % rank, call.integer(second) % rank)

    return move


def _t(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return array.T


def _mt(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return array.swapaxes(-1, -2)


def _movedim(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return np.moveaxis(array, call.integers("source"), call.integers("destination"))


# --- picking -----------------------------------------------------------------------------------


def _slice(call: Call, array: IntArray, shape: Shape) -> IntArray:
    end = call.args.get("end")
    step = call.integer("step", 1)
    stop = None if end is None else call.integer("end")
    return take(array, _dim(call, len(shape)), slice(call.integer("start"), stop, step))


def _couple_slice(ctx: Context, call: Call) -> Output:
    """Every n-th position of a selection is no slice any more, and a copy would lose what is written."""
    _, x = _first(call)
    if call.shared and call.integer("step", 1) > 1:
        dim = _dim(call, x.rank)
        ctx.pin([a for a in x.arrays if a.shape[dim] > 1], "every n-th position is changed in place here")
    return _moved(_slice)(ctx, call)


def _resize_slice(dense: Call, slim: Call) -> Rewrite:
    """The bounds count what is left before them."""
    (_, x), (_, y) = _first(dense), _first(slim)
    dim = _dim(dense, x.rank)
    n = x.shape[dim]
    start, stop, _ = slice(dense.integer("start"), dense.args.get("end"), None).indices(n)
    live = live_positions(x, y, dim)
    if len(live) == n:
        return Rewrite()
    return Rewrite({"start": int((live < start).sum()), "end": int((live < stop).sum())})


def _narrow(call: Call, array: IntArray, shape: Shape) -> IntArray:
    start = call.integer("start")
    return take(array, _dim(call, len(shape)), slice(start, start + call.integer("length")))


def _resize_narrow(dense: Call, slim: Call) -> Rewrite:
    (_, x), (_, y) = _first(dense), _first(slim)
    dim = _dim(dense, x.rank)
    start = dense.integer("start")
    live = live_positions(x, y, dim)
    return Rewrite({"start": int((live < start).sum()), "length": slim.shape[dim]})


def _select(call: Call, array: IntArray, shape: Shape) -> IntArray:
    dim = _dim(call, len(shape))
    index = call.integer("index") % shape[dim]
    return take(array, dim, np.array([index])).squeeze(dim)


def _resize_select(dense: Call, slim: Call) -> Rewrite:
    (_, x), (_, y) = _first(dense), _first(slim)
    dim = _dim(dense, x.rank)
    index = dense.integer("index") % x.shape[dim]
    return Rewrite({"index": int((live_positions(x, y, dim) < index).sum())})


def _split(call: Call, array: IntArray, shape: Shape) -> list[IntArray]:
    dim = _dim(call, len(shape))
    assert isinstance(call.out, list)
    ends = np.cumsum([s[dim] for s in call.out])
    return [take(array, dim, slice(int(e) - s[dim], int(e))) for e, s in zip(ends, call.out, strict=True)]


def _resize_split(dense: Call, slim: Call) -> Rewrite:
    """Uneven parts need their sizes written out."""
    _, x = _first(dense)
    assert isinstance(slim.out, list)
    dim = _dim(dense, x.rank)
    sizes = [s[dim] for s in slim.out]
    return Rewrite({"split_sizes": sizes, "dim": dim}, op="aten::split_with_sizes")


def _unbind(call: Call, array: IntArray, shape: Shape) -> list[IntArray]:
    dim = _dim(call, len(shape))
    return [take(array, dim, np.array([k])).squeeze(dim) for k in range(shape[dim])]


def _index_select(call: Call, array: IntArray, shape: Shape) -> IntArray:
    index = call.tensor("index")
    return array if index.data is None else take(array, _dim(call, len(shape)), index.data)


def _couple_index_select(ctx: Context, call: Call) -> Output:
    x = call.tensor("self")
    dim = _dim(call, x.rank)
    ctx.pin(call.others(), "read as positions here")
    if call.tensor("index").data is not None:
        return _moved(_index_select)(ctx, call)
    return _looked_up(ctx, x, [dim], call.shape, lambda a: a)


def _looked_up(
    ctx: Context, x: Value, dims: list[int], shape: Shape, place: Callable[[IntArray], IntArray]
) -> Value:
    """Positions along ``dims`` are chosen by data: their labels stay."""
    bad = [a for a in x.arrays if any(d in dims for d in varying(a))]
    if bad:
        ctx.pin(bad, "positions along this axis are looked up by value")
    good = [a for a in x.arrays if not any(d in dims for d in varying(a))]
    return Value(shape, tuple(place(a) for a in good), x.origin)


def _indexed_dims(call: Call) -> tuple[list[int], Value | None]:
    """Dimensions that ``x[...]`` indexes with tensors, and the index vector if its entries are known."""
    raw = call.args["indices"]
    indices = list(raw) if isinstance(raw, (list, tuple)) else []
    dims = [d for d, v in enumerate(indices) if isinstance(v, Value)]
    known = [v for v in indices if isinstance(v, Value) and v.data is not None and v.rank == 1]
    return dims, known[0] if len(dims) == 1 and known else None


def _index_move(call: Call, array: IntArray, shape: Shape) -> IntArray:
    """``x[:, index]``: a known vector moves labels; any other index leaves the other dimensions alone."""
    dims, known = _indexed_dims(call)
    if known is not None and known.data is not None:
        return take(array, dims[0], known.data)
    added = len(call.shape) - (len(shape) - len(dims))
    together = dims == list(range(dims[0], dims[-1] + 1)) if dims else True
    at = dims[0] if together and dims else 0
    rest = [n for d, n in enumerate(array.shape) if d not in dims]
    return (
        array.take([0]).reshape((1,) * len(call.shape))
        if any(array.shape[d] > 1 for d in dims)
        else array.reshape([*rest[:at], *(1,) * added, *rest[at:]])
    )


def _index(ctx: Context, call: Call) -> Output:
    """Known index vectors move labels, anything else looks up by value."""
    x = call.tensor("self")
    ctx.pin(call.others(), "read as positions here")
    dims, known = _indexed_dims(call)
    if known is not None:
        return _moved(_index_move)(ctx, call)
    return _looked_up(ctx, x, dims, call.shape, lambda a: _index_move(call, a, x.shape))


# --- reordering --------------------------------------------------------------------------------


def _flip(call: Call, array: IntArray, shape: Shape) -> IntArray:
    flipped: IntArray = np.flip(array, tuple(d % len(shape) for d in call.integers("dims")))
    return flipped


def _roll(call: Call, array: IntArray, shape: Shape) -> IntArray:
    dims = [d % len(shape) for d in call.integers("dims")]
    if not dims:
        full = np.broadcast_to(array, shape)
        return labels.collapse(np.roll(full, call.integers("shifts")[0]))
    for shift, d in zip(call.integers("shifts"), dims, strict=True):
        if array.shape[d] > 1:
            array = np.roll(array, shift, axis=d)
    return array


def _resize_roll(dense: Call, slim: Call) -> Rewrite:
    """As many positions wrap around as are left of those that did."""
    x, y = dense.tensor("self"), slim.tensor("self")
    dims, shifts = dense.integers("dims"), dense.integers("shifts")
    changed = list(shifts)
    for k, d in enumerate(dims):
        n = x.shape[d]
        live = live_positions(x, y, d % x.rank)
        if len(live) != n:
            changed[k] = int((live >= n - shifts[k] % n).sum())
    return Rewrite({"shifts": changed})


def _repeat(name: str) -> Move:
    def move(call: Call, array: IntArray, shape: Shape) -> IntArray:
        rank = len(call.shape)
        times = call.integers(name)
        times = [1] * (rank - len(times)) + times
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        return np.tile(array, [t if n > 1 else 1 for t, n in zip(times, array.shape, strict=True)])

    return move


def _repeat_interleave(call: Call, array: IntArray, shape: Shape) -> IntArray:
    if call.args.get("dim") is None:
        array, shape = labels.reshape(array, shape, (int(np.prod(shape)),)), (int(np.prod(shape)),)
    dim = _dim(call, len(shape))
    return np.repeat(array, call.integer("repeats"), axis=dim) if array.shape[dim] > 1 else array


def _couple_repeat_interleave(ctx: Context, call: Call) -> Output:
    if isinstance(call.args.get("repeats"), Value) or "self" not in call.args:
        tensors = call.tensors()
        ctx.pin([a for t in tensors for a in t.arrays], "repeats are chosen by value")
        return Value(call.shape)
    return _moved(_repeat_interleave)(ctx, call)


def _channel_dim(rank: int, call: Call) -> int:
    return rank - 3


def _whole_pictures(move: Move) -> Callable[[Context, Call], Output]:
    """Movement that weaves pixels into channels: every channel moves as one piece."""

    def rule(ctx: Context, call: Call) -> Output:
        _, x = _first(call)
        rows = solid(ctx, x, x.rank - 2, "pixels are woven into channels here")
        heads = [a.reshape(*a.shape, 1, 1) for a in rows.arrays]
        arrays = [move(call, a, x.shape) for a in heads]
        return Value(call.shape, tuple(a for a in arrays if isinstance(a, np.ndarray)), x.origin)

    return rule


def _pixel_unshuffle(call: Call, array: IntArray, shape: Shape) -> IntArray:
    factor = call.integer("downscale_factor")
    dim = len(shape) - 3
    return np.repeat(array, factor * factor, axis=dim) if array.shape[dim] > 1 else array


def _im2col(call: Call, array: IntArray, shape: Shape) -> IntArray:
    """``n c h w -> n (c k) l``."""
    dim = len(shape) - 3
    block = call.shape[dim] // shape[dim]
    array = array.reshape(*array.shape[:-2], 1)
    return np.repeat(array, block, axis=dim) if array.shape[dim] > 1 else array


def _tied_blocks(ctx: Context, call: Call) -> Output:
    """``pixel_shuffle`` and ``col2im``: ``(c k)`` channels become c; the k of one c go together."""
    _, x = _first(call)
    dim = x.rank - 3 if call.op == "aten::pixel_shuffle" else x.rank - 2
    channels = call.shape[len(call.shape) - 3]
    arrays = []
    for array in x.arrays:
        if varying(array) and varying(array)[-1] < dim:
            arrays.append(array.reshape(*array.shape[:dim], *(1,) * (len(call.shape) - dim)))
            continue
        if varying(array) != (dim,):
            ctx.pin([array], "positions of this axis are woven into pixels")
            continue
        cells = array.ravel().reshape(channels, -1)
        ctx.tie(cells, cells[:, :1])
        if channels > 1:
            arrays.append(labels.along(cells[:, 0], len(call.shape) - 3, len(call.shape)))
        else:
            ctx.pin([array], "a single channel is left here")
    return Value(call.shape, tuple(arrays), x.origin)


def _channel_shuffle(ctx: Context, call: Call) -> Output:
    x = call.tensor("self")
    groups = call.integer("groups")
    split = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    turned = (split[0], split[2], split[1], *split[3:])
    arrays = []
    for array in x.arrays:
        cells = labels.reshape(array, x.shape, split)
        if len(varying(cells)) > 1:
            ctx.project(cells, varying(cells)[-1:])
        arrays.append(labels.reshape(cells.swapaxes(1, 2), turned, x.shape))
    return Value(call.shape, tuple(arrays), x.origin)


def _resize_channel_shuffle(dense: Call, slim: Call) -> Rewrite:
    x, y = dense.tensor("self"), slim.tensor("self")
    groups = dense.integer("groups")
    live = live_positions(x, y, 1) // (x.shape[1] // groups)
    return Rewrite({"groups": len(np.unique(live))})


def _unfold(ctx: Context, call: Call) -> Output:
    x = call.tensor("self")
    return _looked_up(ctx, x, [_dim(call, x.rank, "dimension")], call.shape, lambda a: a[..., None])


# --- joining -----------------------------------------------------------------------------------


def _cat(ctx: Context, call: Call) -> Output:
    parts = [t for t in call.tensors() if t.shape != (0,)]
    dim = _dim(call, len(call.shape))
    shape = tuple(1 if d == dim else n for d, n in enumerate(call.shape))
    others = [
        Value(
            tuple(1 if d == dim else n for d, n in enumerate(p.shape)),
            tuple(a for a in p.arrays if a.shape[dim] == 1),
        )
        for p in parts
    ]
    arrays = list(ctx.merge(others, shape))
    joined = _joined(ctx, parts, dim)
    if joined is not None:
        arrays = [a for a in arrays if not set(varying(a)) <= set(varying(joined))]
        arrays.append(joined)
    return Value(call.shape, tuple(arrays), "" if arrays else parts[0].origin)


def _joined(ctx: Context, parts: list[Value], dim: int) -> IntArray | None:
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


def _stack(ctx: Context, call: Call) -> Output:
    """Operands side by side on a new axis: as many units must stay in each."""
    parts = call.tensors()
    dim = _dim(call, len(call.shape))
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
                ctx.fresh(tuple(max(n, 0) if d == dim else s for d, s in enumerate(array.shape)))
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
            kept = live_positions(x, y, dim)
            changed[k] = -int((kept < -left).sum()) if left < 0 else 0
            changed[k + 1] = -int((kept >= x.shape[dim] + right).sum()) if right < 0 else 0
        live = live_positions(before, after, dim)
        if left > 0:
            changed[k] = int((live < left).sum())
        if right > 0:
            changed[k + 1] = int((live >= dense.shape[dim] - right).sum())
    return Rewrite({"pad": changed})


def _padded(call: Call) -> tuple[IntArray, ...]:
    """Label arrays of the result, which the resize walk passes as the argument ``result``."""
    result = call.args["result"]
    assert isinstance(result, Value)
    return result.arrays


def _slice_scatter(ctx: Context, call: Call) -> Output:
    """A part is overwritten: what is written ties with what it replaces."""
    x, source = call.tensor("self"), call.tensor("src")
    dim = _dim(call, x.rank)
    if call.integer("step", 1) > 1:
        ctx.pin([a for a in x.arrays if a.shape[dim] > 1], "every n-th position is replaced here")
    part = Value(source.shape, tuple(_slice(call, a, x.shape) for a in x.arrays))
    ctx.merge([part, source], source.shape)
    return Value(call.shape, x.arrays, x.origin)


def _index_put(ctx: Context, call: Call) -> Output:
    """``x[index] = values``: along the other dimensions what is written ties with what it replaces."""
    x, values = call.tensor("self"), call.tensor("values")
    dims, _ = _indexed_dims(call)
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


def _by_value(ctx: Context, call: Call) -> Output:
    """What comes out depends on the entries, not on their places."""
    ctx.pin([a for v in call.tensors() for a in v.arrays], "entries are chosen by value here")
    shapes = call.out if isinstance(call.out, list) else [call.out]
    values = [Value(shape) for shape in shapes]
    return values if isinstance(call.out, list) else values[0]


def _row(
    names: str | tuple[str, ...], move: Move, resize: Resize | None = None, picked: bool = False
) -> OpRule:
    """A table row of a plain movement op."""
    ops = tuple(f"aten::{n}" for n in ((names,) if isinstance(names, str) else names))
    return OpRule(ops, (_picked if picked else _moved)(move), resize, move)


CONCATENATIONS = ("aten::cat", "aten::concat", "aten::concatenate")

RULES = (
    _row(("view", "_unsafe_view", "view_copy"), _reshape, _resize_sizes("size")),
    _row("reshape", _reshape, _resize_sizes("shape")),
    _row("unflatten", _reshape, _resize_unflatten),
    _row(("flatten", "squeeze", "unsqueeze", "squeeze_copy"), _reshape),
    OpRule(("aten::view_as", "aten::reshape_as"), _couple_view_as, None, _reshape),
    _row(("expand", "broadcast_to"), _expand, _resize_sizes("size")),
    _row("permute", _permute),
    _row(("transpose", "swapdims"), _transpose("dim0", "dim1")),
    _row("swapaxes", _transpose("axis0", "axis1")),
    _row(("t", "numpy_T"), _t),
    _row(("mT", "adjoint"), _mt),
    _row("movedim", _movedim),
    OpRule(("aten::slice",), _couple_slice, _resize_slice, _slice),
    _row("narrow", _narrow, _resize_narrow),
    _row("select", _select, _resize_select, picked=True),
    _row(("split", "split_with_sizes", "chunk", "tensor_split"), _split, _resize_split),
    _row("unbind", _unbind, picked=True),
    _row("flip", _flip),
    _row("roll", _roll, _resize_roll),
    _row("repeat", _repeat("repeats")),
    _row("tile", _repeat("dims")),
    OpRule(("aten::pixel_unshuffle",), _whole_pictures(_pixel_unshuffle)),
    OpRule(("aten::im2col",), _whole_pictures(_im2col)),
    OpRule(("aten::repeat_interleave",), _couple_repeat_interleave, None, _repeat_interleave),
    OpRule(("aten::index_select",), _couple_index_select, None, _index_select),
    OpRule(("aten::index",), _index, None, _index_move),
    OpRule(("aten::pixel_shuffle", "aten::col2im"), _tied_blocks),
    OpRule(("aten::channel_shuffle",), _channel_shuffle, _resize_channel_shuffle),
    OpRule(("aten::unfold",), _unfold),
    OpRule(CONCATENATIONS, _cat),
    OpRule(("aten::stack",), _stack),
    OpRule(("aten::pad", "aten::constant_pad_nd"), _pad, _resize_pad),
    OpRule(("aten::slice_scatter",), _slice_scatter, _resize_slice),
    OpRule(("aten::index_put",), _index_put),
    OpRule(
        (
            *("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::bincount"),
            *("aten::gather", "aten::scatter", "aten::scatter_add", "aten::bucketize", "aten::searchsorted"),
            *("torchvision::nms", "aten::one_hot", "aten::_local_scalar_dense", "aten::item"),
        ),
        _by_value,
    ),
)
