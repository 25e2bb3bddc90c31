"""Reordering: all positions of a tensor in another order, or several times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fxprune import labels
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, Context, Move, OpRule, Output, Rewrite, Value, solid
from fxprune.ops.moving import (
    Resize,
    Shape,
    dim_of,
    first_tensor,
    live_groups,
    live_within,
    moved_by,
    repeated,
    row,
)

__all__ = ["RULES"]


def _flip(call: Call, array: IntArray, shape: Shape) -> IntArray:
    flipped: IntArray = np.flip(array, tuple(d % len(shape) for d in call.integers("dims")))
    return flipped


def _mirror(dim: int) -> Move:
    return lambda call, array, shape: np.flip(array, dim)


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
        if y.shape[d % x.rank] != n:
            changed[k] = live_within(x, y, d % x.rank, n - shifts[k] % n, n)
    return Rewrite({"shifts": changed})


def _repeat(name: str) -> Move:
    def move(call: Call, array: IntArray, shape: Shape) -> IntArray:
        rank = len(call.shape)
        times = call.integers(name)
        times = [1] * (rank - len(times)) + times
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        return np.tile(array, [t if n > 1 else 1 for t, n in zip(times, array.shape, strict=True)])

    return move


def _couple_repeat(name: str) -> Callable[[Context, Call], Output]:
    """A single position may come again any number of times."""

    def rule(ctx: Context, call: Call) -> Output:
        moved = moved_by(_repeat(name))(ctx, call)
        assert isinstance(moved, Value)
        return replace(moved, arrays=(*moved.arrays, *repeated(ctx, call, name)))

    return rule


def _resize_repeat(name: str) -> Resize:
    def resize(dense: Call, slim: Call) -> Rewrite:
        _, x = first_tensor(dense)
        times = dense.integers(name)
        sizes = ((1,) * len(times) + x.shape)[-len(times) :]
        widths = slim.shape[len(slim.shape) - len(times) :]
        return Rewrite({name: [w if n == 1 else t for t, n, w in zip(times, sizes, widths, strict=True)]})

    return resize


def _repeat_interleave(call: Call, array: IntArray, shape: Shape) -> IntArray:
    if call.args.get("dim") is None:
        array, shape = labels.reshape(array, shape, (int(np.prod(shape)),)), (int(np.prod(shape)),)
    dim = dim_of(call, len(shape))
    return np.repeat(array, call.integer("repeats"), axis=dim) if array.shape[dim] > 1 else array


def _couple_repeat_interleave(ctx: Context, call: Call) -> Output:
    if isinstance(call.args.get("repeats"), Value) or "self" not in call.args:
        tensors = call.tensors()
        ctx.pin([a for t in tensors for a in t.arrays], "repeats are chosen by value")
        return Value(call.shape)
    return moved_by(_repeat_interleave)(ctx, call)


def _whole_pictures(move: Move) -> Callable[[Context, Call], Output]:
    """Movement that weaves pixels into channels: every channel moves as one piece."""

    def rule(ctx: Context, call: Call) -> Output:
        _, x = first_tensor(call)
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
    _, x = first_tensor(call)
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
    return Rewrite({"groups": live_groups(x, y, 1, x.shape[1] // dense.integer("groups"))})


RULES = (
    row("flip", _flip),
    row("flipud", _mirror(0)),
    row("fliplr", _mirror(1)),
    row("roll", _roll, _resize_roll),
    OpRule(("aten::repeat",), _couple_repeat("repeats"), _resize_repeat("repeats"), _repeat("repeats")),
    OpRule(("aten::tile",), _couple_repeat("dims"), _resize_repeat("dims"), _repeat("dims")),
    OpRule(("aten::pixel_unshuffle",), _whole_pictures(_pixel_unshuffle)),
    OpRule(("aten::im2col",), _whole_pictures(_im2col)),
    OpRule(("aten::repeat_interleave",), _couple_repeat_interleave, None, _repeat_interleave),
    OpRule(("aten::pixel_shuffle", "aten::col2im"), _tied_blocks),
    OpRule(("aten::channel_shuffle",), _channel_shuffle, _resize_channel_shuffle),
)
