"""Picking: some positions of a tensor, by number or by value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fxprune.labels import IntArray, take
from fxprune.ops.base import Call, Context, Move, OpRule, Output, Rewrite, Value
from fxprune.ops.moving import Resize, Shape, dim_of, first_tensor, live_within, looked_up, moved_by, row

__all__ = ["RULES", "indexed_dims", "resize_slice", "sliced"]


def sliced(call: Call, array: IntArray, shape: Shape) -> IntArray:
    """What ``x[start:end:step]`` along one dimension leaves of a label array."""
    end = call.args.get("end")
    step = call.integer("step", 1)
    stop = None if end is None else call.integer("end")
    return take(array, dim_of(call, len(shape)), slice(call.integer("start"), stop, step))


def _couple_slice(ctx: Context, call: Call) -> Output:
    """Every n-th position of a selection is no slice any more, and a copy would lose what is written."""
    _, x = first_tensor(call)
    if call.shared and call.integer("step", 1) > 1:
        dim = dim_of(call, x.rank)
        ctx.pin([a for a in x.arrays if a.shape[dim] > 1], "every n-th position is changed in place here")
    return moved_by(sliced)(ctx, call)


def resize_slice(dense: Call, slim: Call) -> Rewrite:
    """The bounds count what is left before them."""
    (_, x), (_, y) = first_tensor(dense), first_tensor(slim)
    dim = dim_of(dense, x.rank)
    n = x.shape[dim]
    start, stop, _ = slice(dense.integer("start"), dense.args.get("end"), None).indices(n)
    if y.shape[dim] == n:
        return Rewrite()
    return Rewrite({"start": live_within(x, y, dim, 0, start), "end": live_within(x, y, dim, 0, stop)})


def _narrow(call: Call, array: IntArray, shape: Shape) -> IntArray:
    start = call.integer("start")
    return take(array, dim_of(call, len(shape)), slice(start, start + call.integer("length")))


def _resize_narrow(dense: Call, slim: Call) -> Rewrite:
    (_, x), (_, y) = first_tensor(dense), first_tensor(slim)
    dim = dim_of(dense, x.rank)
    start = dense.integer("start") % x.shape[dim]
    return Rewrite({"start": live_within(x, y, dim, 0, start), "length": slim.shape[dim]})


def _select(call: Call, array: IntArray, shape: Shape) -> IntArray:
    dim = dim_of(call, len(shape))
    index = call.integer("index") % shape[dim]
    return take(array, dim, np.array([index])).squeeze(dim)


def _resize_select(dense: Call, slim: Call) -> Rewrite:
    (_, x), (_, y) = first_tensor(dense), first_tensor(slim)
    dim = dim_of(dense, x.rank)
    index = dense.integer("index") % x.shape[dim]
    return Rewrite({"index": live_within(x, y, dim, 0, index)})


def _split(call: Call, array: IntArray, shape: Shape) -> list[IntArray]:
    dim = dim_of(call, len(shape))
    assert isinstance(call.out, list)
    ends = np.cumsum([s[dim] for s in call.out])
    return [take(array, dim, slice(int(e) - s[dim], int(e))) for e, s in zip(ends, call.out, strict=True)]


def _resize_split(dense: Call, slim: Call) -> Rewrite:
    """Uneven parts need their sizes written out."""
    _, x = first_tensor(dense)
    assert isinstance(slim.out, list)
    dim = dim_of(dense, x.rank)
    sizes = [s[dim] for s in slim.out]
    return Rewrite({"split_sizes": sizes, "dim": dim}, op="aten::split_with_sizes")


def _split_along(dim: int) -> tuple[Move, Resize]:
    """A split whose name says the dimension."""

    def at(call: Call) -> Call:
        _, x = first_tensor(call)
        return replace(call, args={**call.args, "dim": min(dim, x.rank - 1)})

    return (
        lambda call, array, shape: _split(at(call), array, shape),
        lambda dense, slim: _resize_split(at(dense), at(slim)),
    )


def _unbind(call: Call, array: IntArray, shape: Shape) -> list[IntArray]:
    dim = dim_of(call, len(shape))
    return [take(array, dim, np.array([k])).squeeze(dim) for k in range(shape[dim])]


def _at(array: IntArray, dim: int, index: IntArray, size: int) -> IntArray:
    """The positions of an index vector.

    Raises:
        IndexError: One lies outside, which a label array of size 1 does not notice.
    """
    if index.size and not -size <= index.min() <= index.max() < size:
        raise IndexError(f"positions up to {index.max()} of {size}")
    return take(array, dim, index)


def _index_select(call: Call, array: IntArray, shape: Shape) -> IntArray:
    index, dim = call.tensor("index"), dim_of(call, len(shape))
    return array if index.data is None else _at(array, dim, index.data, shape[dim])


def _couple_index_select(ctx: Context, call: Call) -> Output:
    x = call.tensor("self")
    dim = dim_of(call, x.rank)
    ctx.pin(call.others(), "read as positions here")
    if call.tensor("index").data is not None:
        return moved_by(_index_select)(ctx, call)
    return looked_up(ctx, x, [dim], call.shape, lambda a: a)


def indexed_dims(call: Call) -> tuple[list[int], Value | None]:
    """Dimensions that ``x[...]`` indexes with tensors, and the index vector if its entries are known."""
    raw = call.args["indices"]
    indices = list(raw) if isinstance(raw, (list, tuple)) else []
    dims = [d for d, v in enumerate(indices) if isinstance(v, Value)]
    known = [v for v in indices if isinstance(v, Value) and v.data is not None and v.rank == 1]
    return dims, known[0] if len(dims) == 1 and known else None


def _index_move(call: Call, array: IntArray, shape: Shape) -> IntArray:
    """``x[:, index]``: a known vector moves labels; any other index leaves the other dimensions alone."""
    dims, known = indexed_dims(call)
    if known is not None and known.data is not None:
        return _at(array, dims[0], known.data, shape[dims[0]])
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
    dims, known = indexed_dims(call)
    if known is not None:
        return moved_by(_index_move)(ctx, call)
    return looked_up(ctx, x, dims, call.shape, lambda a: _index_move(call, a, x.shape))


def _unfold(ctx: Context, call: Call) -> Output:
    x = call.tensor("self")
    return looked_up(ctx, x, [dim_of(call, x.rank, "dimension")], call.shape, lambda a: a[..., None])


def _by_value(ctx: Context, call: Call) -> Output:
    """What comes out depends on the entries, not on their places."""
    ctx.pin([a for v in call.tensors() for a in v.arrays], "entries are chosen by value here")
    shapes = call.out if isinstance(call.out, list) else [call.out]
    values = [Value(shape) for shape in shapes]
    return values if isinstance(call.out, list) else values[0]


RULES = (
    OpRule(("aten::slice",), _couple_slice, resize_slice, sliced),
    row("narrow", _narrow, _resize_narrow),
    row("select", _select, _resize_select, picked=True),
    row(
        ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"),
        *(_split, _resize_split),
    ),
    row("hsplit", *_split_along(1)),
    row("vsplit", *_split_along(0)),
    row("dsplit", *_split_along(2)),
    row("unbind", _unbind, picked=True),
    OpRule(("aten::index_select",), _couple_index_select, None, _index_select),
    OpRule(("aten::index",), _index, None, _index_move),
    OpRule(("aten::unfold",), _unfold),
    OpRule(
        (
            *("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::bincount"),
            *("aten::bucketize", "aten::searchsorted", "aten::_ctc_loss", "aten::ctc_loss"),
            *("torchvision::nms", "torchvision::ps_roi_align", "torchvision::ps_roi_pool"),
            *("aten::one_hot", "aten::_local_scalar_dense", "aten::item"),
        ),
        _by_value,
    ),
)
