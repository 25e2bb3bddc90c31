"""Tensors made from nothing: their sizes are written in the graph and follow the widths."""

from __future__ import annotations

import numpy as np

from fxprune.ops.base import Call, Context, OpRule, Rewrite, Value
from fxprune.ops.moving import LONGEST

__all__ = ["RULES"]


def _filled(ctx: Context, call: Call) -> Value:
    """Equal values everywhere: any width will do."""
    rank = len(call.shape)
    arrays = []
    name = "size"
    free = [d for d, n in enumerate(call.shape) if 1 < n <= LONGEST and (name, d) not in call.symbolic]
    if call.stacked and {0, rank - 1} <= set(free):
        # Each layer has units of its own, so the two axes are one layout.
        arrays.append(ctx.padding(tuple(n if d in (0, rank - 1) else 1 for d, n in enumerate(call.shape))))
        free = free[1:-1]
    arrays += [ctx.padding(tuple(n if d == e else 1 for e, n in enumerate(call.shape))) for d in free]
    return Value(call.shape, tuple(arrays), "a constant")


def _resize_filled(dense: Call, slim: Call) -> Rewrite:
    return Rewrite({"size": list(slim.shape)})


def _counted(ctx: Context, call: Call) -> Value:
    """Values that depend on the position: made at full width, then gathered."""
    n = call.shape[0] if call.shape else 1
    symbolic = any(k in ("end", "start", "step", "steps") for k, _ in call.symbolic)
    if 1 < n <= LONGEST and not symbolic and len(call.shape) == 1:
        data = None
        if call.op == "aten::arange" and all(
            isinstance(call.args.get(k, 0), int) for k in ("start", "end", "step")
        ):
            start, step = call.integer("start"), call.integer("step", 1)
            data = np.arange(start, call.integer("end"), step, dtype=np.int64)
        return Value(call.shape, (ctx.padding((n,)),), "a constant", data)
    return Value(call.shape, (), "a constant")


def _opaque(ctx: Context, call: Call) -> Value:
    return Value(call.shape, (), "a constant")


def _identity(ctx: Context, call: Call) -> Value:
    """Row i and column i are one unit, so that what is left is an identity again."""
    rows, columns = call.shape
    if rows != columns or call.symbolic or not 1 < rows <= LONGEST:
        return Value(call.shape, (), "a constant")
    units = ctx.padding((rows,))
    return Value(call.shape, (units[:, None], units[None]), "a constant")


def _resize_identity(dense: Call, slim: Call) -> Rewrite:
    return Rewrite({name: slim.shape[0] for name in ("n", "m") if name in dense.args})


RULES = (
    OpRule(
        (
            *("aten::zeros", "aten::ones", "aten::full", "aten::empty", "aten::rand", "aten::randn"),
            *("aten::new_zeros", "aten::new_ones", "aten::new_full", "aten::new_empty"),
        ),
        _filled,
        _resize_filled,
        fills=True,
    ),
    OpRule(("aten::eye",), _identity, _resize_identity),
    OpRule(("aten::arange", "aten::linspace"), _counted, gathers=True),
    OpRule(("aten::scalar_tensor", "aten::hann_window", "aten::tensor"), _opaque),
)
