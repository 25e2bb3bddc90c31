"""Reductions and normalisations along dimensions (sum, mean, softmax, norms of vectors)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from fxprune.labels import varying
from fxprune.ops.base import Call, Context, OpRule, Output, Value, across
from fxprune.ops.pointwise import elementwise

__all__ = ["RULES", "reduced"]


def _dims(call: Call, rank: int) -> tuple[int, ...]:
    """The reduced dimensions: all of them where the call names none."""
    dims = call.integers("dim")
    return tuple(d % rank for d in dims) if dims else tuple(range(rank))


def reduced(
    ctx: Context, value: Value, dims: Sequence[int], *, exact: bool, keep: bool, argument: str
) -> Value:
    """Labels after a reduction: rows that are reduced away vanish, the others stay.

    Args:
        ctx: Receives what was consumed or made inexact.
        value: The reduced tensor.
        dims: Reduced dimensions.
        exact: Zeroing a position is the same as leaving it out.
        keep: Reduced dimensions stay with size 1.
        argument: Name of the argument, for the oracle.
    """
    gone = [a for a in value.arrays if set(varying(a)) & set(dims)]
    if gone:
        # A sum of ones is a count: it divides, as a mean does.
        (ctx.consume(argument, gone) if exact and not value.filled else ctx.inexact(gone))
    arrays = across(ctx, value.arrays, dims)
    shape = [1 if d in dims else n for d, n in enumerate(value.shape)]
    if not keep:
        kept = [d for d in range(value.rank) if d not in dims]
        arrays = [a.reshape([a.shape[d] for d in kept]) for a in arrays]
        shape = [shape[d] for d in kept]
    return Value(tuple(shape), tuple(arrays), "" if arrays else value.origin)


def _is_sum(call: Call) -> bool:
    """Zeros add nothing to a sum or a norm, but are the smallest magnitude (order below zero)."""
    order = call.args.get("ord", call.args.get("p", 2))
    return not isinstance(order, (int, float)) or order >= 0


def _reduce(exact: bool) -> Callable[[Context, Call], Output]:
    def rule(ctx: Context, call: Call) -> Output:
        name = "self" if "self" in call.args else "x"
        value = call.tensor(name)
        keep = bool(call.args.get("keepdim", False))
        dims = _dims(call, value.rank)
        _need_degrees(ctx, call, value, dims)
        result = reduced(ctx, value, dims, exact=exact and _is_sum(call), keep=keep, argument=name)
        if isinstance(call.out, list):
            if call.op in PLACES and 1 in call.used:
                gone = [a for a in value.arrays if set(varying(a)) & set(dims)]
                ctx.pin(gone, "the op returns positions along this axis")
            return [Value(shape, result.arrays, result.origin) for shape in call.out]
        return Value(call.out, result.arrays, result.origin)

    return rule


def _need_degrees(ctx: Context, call: Call, value: Value, dims: Sequence[int]) -> None:
    """A variance divides by the number of entries less its correction: one entry alone has no unbiased one."""
    if call.op not in SPREADS:
        return
    given = call.args.get("correction")
    freedom = float(given if isinstance(given, (int, float)) else bool(call.args.get("unbiased", True)))
    for array in value.arrays:
        along = [d for d in varying(array) if d in dims]
        if along:
            others = prod(n for d, n in enumerate(value.shape) if d in dims and d not in along)
            size = prod(array.shape[d] for d in along)
            rows = np.moveaxis(array, along, range(-len(along), 0)).reshape(-1, size)
            ctx.need(rows, int(freedom // others) + 1)


def _vector_or_matrix_norm(ctx: Context, call: Call) -> Output:
    """``linalg.norm``: of entries, as one vector, unless an order is given and the dimensions are two."""
    x = call.tensor("self" if "self" in call.args else "A")
    order, dims = call.args.get("ord"), _dims(call, x.rank)
    if order in (None, "fro") or len(dims) != 2:
        return _reduce(exact=True)(ctx, call)
    crossing = [a for a in x.arrays if set(varying(a)) & set(dims)]
    ctx.pin(crossing, "a norm of matrices looks at whole rows and columns")
    left = Value(x.shape, tuple(a for a in x.arrays if not set(varying(a)) & set(dims)), x.origin)
    keep = bool(call.args.get("keepdim", False))
    return reduced(ctx, left, dims, exact=True, keep=keep, argument="self")


def _distance(ctx: Context, call: Call) -> Value:
    """Of pairs of vectors; a small number is added to each difference, also where both entries are zero."""
    pair = [call.tensor("x1"), call.tensor("x2")]
    met = elementwise(ctx, pair, np.broadcast_shapes(*(v.shape for v in pair)))
    keep = bool(call.args.get("keepdim", False))
    return reduced(ctx, met, [met.rank - 1], exact=False, keep=keep, argument="x1")


def _loss(ctx: Context, call: Call) -> Value:
    """Entries compared one by one; then their mean, their sum, or neither."""
    met = elementwise(ctx, call.tensors(), np.broadcast_shapes(*(v.shape for v in call.tensors())))
    if not call.integer("reduction", 1):
        return met
    return reduced(ctx, met, range(met.rank), exact=False, keep=False, argument="self")


def _along(ctx: Context, call: Call) -> Value:
    """Softmax and the like: the shape stays, every position sees all others along ``dim``."""
    value = call.tensor("self")
    dim = call.integer("dim") % max(value.rank, 1)
    seen = [a for a in value.arrays if value.rank and a.shape[dim] > 1]
    if seen:
        ctx.inexact(seen)
        across(ctx, seen, [dim])
    return Value(call.shape, value.arrays, value.origin)


def _prefix(ctx: Context, call: Call) -> Value:
    """Running sums: zeros in the dead places leave the others as they are."""
    value = call.tensor("self")
    dim = call.integer("dim") % max(value.rank, 1)
    seen = [a for a in value.arrays if a.shape[dim] > 1]
    if seen:
        (ctx.inexact(seen) if value.filled else ctx.consume("self", seen))
        across(ctx, seen, [dim])
    return Value(call.shape, value.arrays, value.origin)


def _by_position(ctx: Context, call: Call) -> Output:
    """Results that are positions: their meaning hangs on the width."""
    value = call.tensor("self")
    dims = call.integers("dim")
    dim = (dims[0] if dims else -1) % max(value.rank, 1)
    along = [a for a in value.arrays if not dims or a.shape[dim] > 1]
    if along:
        ctx.pin(along, "the op returns or orders positions along this axis")
    rest = [a for a in value.arrays if dims and a.shape[dim] == 1]
    shapes = call.out if isinstance(call.out, list) else [call.out]
    results = []
    for shape in shapes:
        arrays = rest if len(shape) == value.rank else [a.squeeze(dim) for a in rest]
        results.append(Value(shape, tuple(arrays), value.origin))
    return results if isinstance(call.out, list) else results[0]


def _paired(one: str, two: str) -> Callable[[Context, Call], Value]:
    """Products (and, for cosine similarity, norms) summed over ``dim``: exact under zeroing."""

    def rule(ctx: Context, call: Call) -> Value:
        pair = [call.tensor(name) for name in (one, two)]
        shape = np.broadcast_shapes(*(v.shape for v in pair))
        dim = call.integer("dim") % len(shape)
        merged = elementwise(ctx, pair, shape)
        for name, value in zip((one, two), pair, strict=True):
            at = dim - (len(shape) - value.rank)
            gone = [a for a in value.arrays if at >= 0 and a.shape[at] > 1]
            if gone:
                ctx.consume(name, gone)
        arrays = [a.squeeze(dim) for a in across(ctx, merged.arrays, [dim])]
        return Value(call.shape, tuple(arrays))

    return rule


SPREADS = frozenset({"aten::var", "aten::std", "aten::var_mean", "aten::std_mean"})

# These return positions as their second result.
PLACES = frozenset({"aten::max", "aten::min", "aten::median", "aten::nanmedian"})

RULES = (
    OpRule(
        (
            *("aten::sum", "aten::linalg_vector_norm", "aten::norm", "aten::nansum"),
            "aten::count_nonzero",
        ),
        _reduce(exact=True),
    ),
    OpRule(("aten::linalg_norm", "aten::linalg_matrix_norm"), _vector_or_matrix_norm),
    OpRule(
        (
            *("aten::mean", "aten::amax", "aten::amin", "aten::max", "aten::min", "aten::prod"),
            *("aten::var", "aten::std", "aten::var_mean", "aten::std_mean", "aten::logsumexp"),
            *("aten::any", "aten::all", "aten::median", "aten::nanmean"),
            *("aten::nanmedian", "aten::aminmax"),
        ),
        _reduce(exact=False),
    ),
    OpRule(
        (
            *(f"aten::{n}_loss" for n in ("mse", "l1", "smooth_l1", "huber")),
            *("aten::kl_div", "aten::binary_cross_entropy_with_logits"),
        ),
        _loss,
    ),
    OpRule(
        ("aten::softmax", "aten::_softmax", "aten::log_softmax", "aten::_log_softmax"),
        _along,
        aligned=lambda call: {},
    ),
    OpRule(("aten::cumsum",), _prefix),
    OpRule(
        (
            "aten::argmax",
            "aten::argmin",
            "aten::sort",
            "aten::argsort",
            "aten::topk",
            "aten::kthvalue",
            "aten::mode",
            "aten::cumprod",
        ),
        _by_position,
    ),
    OpRule(("aten::cosine_similarity",), _paired("x1", "x2")),
    OpRule(("aten::linalg_vecdot",), _paired("x", "y")),
    OpRule(("aten::pairwise_distance",), _distance),
)
