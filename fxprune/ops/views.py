"""Views: the same positions under other dimensions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fxprune import labels
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, Context, Move, OpRule, Output, Rewrite, Value
from fxprune.ops.moving import Resize, Shape, dim_of, first_tensor, moved_by, repeated, row

__all__ = ["RULES"]


def _reshape(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return labels.reshape(array, shape, call.shape)


def _couple_view_as(ctx: Context, call: Call) -> Output:
    """The shape of another tensor: its widths must follow."""
    moved, other = moved_by(_reshape)(ctx, call), call.tensor("other")
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
    _, x = first_tensor(dense)
    dim, sizes = dim_of(dense, x.rank), dense.integers("sizes")
    return Rewrite({"sizes": list(slim.shape[dim : dim + len(sizes)])})


def _squeeze(ctx: Context, call: Call) -> Output:
    """An axis that would shrink to one position would be dropped with those that are one long: two stay."""
    x = first_tensor(call)[1]
    named = [d % max(x.rank, 1) for d in call.integers("dim")] or range(x.rank)
    for array in x.arrays:
        for d in set(varying(array)) & set(named):
            part = ctx.project(array, [d])
            ctx.need(part.reshape(1, -1), 2)
    return moved_by(_reshape)(ctx, call)


def _expand(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return array.reshape((1,) * (len(call.shape) - array.ndim) + array.shape)


def _couple_expand(ctx: Context, call: Call) -> Output:
    """Equal values everywhere along the new axes."""
    moved = moved_by(_expand)(ctx, call)
    assert isinstance(moved, Value)
    return replace(moved, arrays=(*moved.arrays, *repeated(ctx, call, "size")))


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


def _with_parts(call: Call, array: IntArray, shape: Shape) -> IntArray:
    return array[..., None]


RULES = (
    replace(row(("view", "_unsafe_view", "view_copy"), _reshape, _resize_sizes("size")), regroups=True),
    replace(row("reshape", _reshape, _resize_sizes("shape")), regroups=True),
    replace(row("unflatten", _reshape, _resize_unflatten), regroups=True),
    replace(row(("flatten", "ravel"), _reshape), regroups=True),
    row("unsqueeze", _reshape),
    OpRule(("aten::squeeze", "aten::squeeze_copy"), _squeeze, None, _reshape),
    OpRule(("aten::view_as", "aten::reshape_as"), _couple_view_as, None, _reshape),
    OpRule(("aten::expand", "aten::broadcast_to"), _couple_expand, _resize_sizes("size"), _expand),
    row("permute", _permute),
    row(("transpose", "swapdims"), _transpose("dim0", "dim1")),
    row("swapaxes", _transpose("axis0", "axis1")),
    row(("t", "numpy_T"), _t),
    row(("mT", "adjoint", "matrix_H"), _mt),
    row("movedim", _movedim),
    row("view_as_real", _with_parts),
)
