"""Contractions: convolutions, linear layers, matrix products, attention, einsum, embedding.

Every one is an einsum over named axes, ``n (g i), (g o) i -> n (g o)`` for a convolution: axes of one
name are one unit, contracted axes are where the oracle zeroes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from fxprune import labels
from fxprune.labels import IntArray
from fxprune.ops.base import Call, Context, OpRule, Output, Rewrite, Value, across, solid

__all__ = ["RULES", "Term", "contract", "count_points"]

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Term:
    """One operand of an einsum: its label arrays over named axes.

    Attributes:
        value: Shape and labels, one dimension per axis name.
        axes: Name of each dimension.
        argument: The call's argument it comes from, empty for intermediate results.
        weight: It makes and reads units (the parameter of a layer).
    """

    value: Value
    axes: str
    argument: str = ""
    weight: bool = False


def _aligned(term: Term, names: str) -> Value:
    """The term in the joint space of all axis names, size 1 where it has no such axis."""
    order = [term.axes.index(a) for a in names if a in term.axes]
    shape = tuple(term.value.shape[term.axes.index(a)] if a in term.axes else 1 for a in names)

    def place(array: IntArray) -> IntArray:
        moved = array.transpose(order)
        sizes = iter(moved.shape)
        return moved.reshape([next(sizes) if a in term.axes else 1 for a in names])

    return Value(shape, tuple(place(a) for a in term.value.arrays), term.value.origin)


def _without_subsets(arrays: Sequence[IntArray]) -> list[IntArray]:
    """Drop row labels where the cells themselves are carried: a row dies with its last cell."""
    axes = [set(labels.varying(a)) for a in arrays]
    return [a for a, s in zip(arrays, axes, strict=True) if s and not any(s < other for other in axes)]


def count_points(
    ctx: Context, names: str, sizes: Mapping[str, int], arrays: Sequence[IntArray], positions: int
) -> None:
    """One multiply-accumulate per point of the joint index space, which has ``positions`` unlabelled ones more."""
    covered: set[int] = set()
    forms: list[IntArray] = []
    divisor: IntArray | None = None
    for array in sorted(arrays, key=lambda a: -len(labels.varying(a))):
        axes = set(labels.varying(array))
        if not axes or axes <= covered:
            continue
        if axes & covered:
            divisor = ctx.project(array, sorted(axes & covered))
        covered |= axes
        forms.append(array)
    rest = prod(sizes[a] for d, a in enumerate(names) if d not in covered)
    ctx.macs(float(rest * positions), forms, divisor)


def _masked(terms: Sequence[Term], out: str) -> list[Term]:
    """The operands in which dead positions are zeroed, so that every contracted axis is covered."""
    chosen: list[Term] = []
    covered = set(out)
    for term in sorted(terms, key=lambda t: t.weight):
        axes = {term.axes[d] for a in term.value.arrays for d in labels.varying(a)}
        if axes - covered:
            chosen.append(term)
            covered |= axes
    return chosen


def contract(ctx: Context, terms: Sequence[Term], out: str, *, positions: int = 1) -> Value:
    """Apply an einsum to labels.

    Args:
        ctx: Receives ties, roles, consumption and costs.
        terms: The operands.
        out: Axis names of the result.
        positions: Further points of the index space that carry no labels (a convolution's
            output pixels times its kernel).

    Returns:
        The labels of the result, one dimension per name in ``out``.
    """
    names = "".join(dict.fromkeys("".join(t.axes for t in terms)))
    sizes = {a: max(t.value.shape[t.axes.index(a)] for t in terms if a in t.axes) for a in names}
    aligned = [_aligned(t, names) for t in terms]
    joint = ctx.merge(aligned, tuple(sizes[a] for a in names))
    free = {d for d, a in enumerate(names) if a in out}
    # Zeroing one operand of a product is enough; data rather than weights.
    masked = _masked([t for t in terms if t.argument], out)
    for term, value in zip(terms, aligned, strict=True):
        inner = [k for k, a in enumerate(value.arrays) if set(labels.varying(a)) - free]
        if term.weight:
            ctx.role(
                produced=[a for k, a in enumerate(value.arrays) if k not in inner],
                consumed=[value.arrays[k] for k in inner],
            )
        if inner and any(term is m for m in masked):
            ctx.consume(term.argument, [term.value.arrays[k] for k in inner])
    results = []
    for array in joint:
        axes = labels.varying(array)
        kept = [d for d in axes if d in free]
        if len(kept) == len(axes):
            results.append(array)
        elif kept:
            results.append(ctx.project(array, kept))
    if len(terms) > 1:
        count_points(ctx, names, sizes, joint, positions)
    order = [names.index(a) for a in out]
    dropped = [d for d in range(len(names)) if d not in order]

    def place(array: IntArray) -> IntArray:
        return array.transpose([*order, *dropped]).reshape([array.shape[d] for d in order])

    return Value(tuple(sizes[a] for a in out), tuple(place(a) for a in _without_subsets(results)))


def _split(value: Value, dim: int, groups: int) -> Value:
    """View one dimension as (groups, rest)."""
    old = value.shape
    new = (*old[:dim], groups, old[dim] // groups, *old[dim + 1 :])
    return Value(new, tuple(labels.reshape(a, old, new) for a in value.arrays), value.origin)


def _convolution(ctx: Context, call: Call) -> Value:
    """``n (g i), (g o) i, (g o) -> n (g o)``; transposed: ``n (g i), (g i) o, (g o) -> n (g o)``."""
    x, weight, bias = call.tensor("input"), call.tensor("weight"), call.optional("bias")
    transposed = _is_transposed(call)
    groups = call.integer("groups", 1)
    spatial = weight.rank - 2
    batched = x.rank == spatial + 2
    out_shape = call.shape
    if not batched:
        x = Value((1, *x.shape), tuple(a[None] for a in x.arrays), x.origin)
        out_shape = (1, *out_shape)
    kernel = prod(weight.shape[2:])
    pixels = prod(x.shape[2:]) if transposed else prod(out_shape[2:])
    x = solid(ctx, x, 2, "a convolution slides over this axis")
    weight = solid(ctx, weight, 2, "the extent of a convolution kernel")
    summed = [
        a.reshape(*a.shape[0 if batched else 1 :], *(1,) * spatial)
        for a in x.arrays
        if 1 in labels.varying(a)
    ]
    if summed and x.shape[1] > groups:
        ctx.consume("input", summed)
    terms = [
        Term(_split(x, 1, groups), "ngi"),
        Term(_split(weight, 0, groups), "gio" if transposed else "goi", weight=True),
    ]
    result = contract(ctx, terms, "ngo", positions=pixels * kernel)
    if transposed and groups > 1:
        result = _cells(ctx, result)
    if bias is not None:
        one = _split(Value((1, *bias.shape), tuple(a[None] for a in bias.arrays)), 1, groups)
        result = Value(result.shape, ctx.merge([result, one], result.shape))
    flat = (result.shape[0], result.shape[1] * result.shape[2])
    arrays = tuple(labels.reshape(a, result.shape, flat) for a in result.arrays)
    arrays = tuple(a.reshape(*a.shape, *(1,) * spatial) for a in arrays)
    if not batched:
        arrays = tuple(a[0] for a in arrays)
    return Value(call.shape, arrays, x.origin if not arrays else "")


def _cells(ctx: Context, value: Value) -> Value:
    """Give a (group, output) product its own cell labels: the weight's columns span all groups."""
    cells = ctx.fresh((1, *value.shape[1:]))
    return Value(value.shape, ctx.merge([Value((1, *value.shape[1:]), (cells,)), value], value.shape))


def _resize_convolution(dense: Call, slim: Call) -> Rewrite:
    """Groups that died whole are fewer groups."""
    groups = dense.integer("groups", 1)
    if groups == 1:
        return Rewrite()
    x, weight = slim.tensor("input"), slim.tensor("weight")
    channels = x.shape[1 if x.rank == weight.rank else 0]
    if _is_transposed(dense):
        channels = slim.shape[1 if len(slim.shape) == weight.rank else 0]
    return Rewrite({"groups": channels // weight.shape[1]})


def _is_transposed(call: Call) -> bool:
    return call.op.startswith("aten::conv_transpose") or bool(call.args.get("transposed", False))


def _linear(ctx: Context, call: Call) -> Value:
    x, weight, bias = call.tensor("input"), call.tensor("weight"), call.optional("bias")
    lead = "abcdefgh"[: x.rank - 1]
    axes = "oi" if weight.rank == 2 else "i"
    terms = [Term(x, lead + "i", "input"), Term(weight, axes, "weight", weight=True)]
    result = contract(ctx, terms, lead + axes[:-1])
    if bias is not None:
        result = Value(result.shape, ctx.merge([result, _lifted(bias, result.rank)], result.shape))
    return Value(call.shape, result.arrays, x.origin if not result.arrays else "")


def _lifted(value: Value, rank: int) -> Value:
    """Prepend dimensions of size 1, as broadcasting does."""
    pad = (1,) * (rank - value.rank)
    return Value((*pad, *value.shape), tuple(a.reshape(*pad, *a.shape) for a in value.arrays), value.origin)


def _product(ctx: Context, a: Value, b: Value, names: tuple[str, str]) -> Value:
    """Batched matrix product with broadcasting batch dimensions."""
    rank = max(a.rank, b.rank, 2) - 2
    batch = "abcdefgh"[:rank]
    left = batch[rank - max(a.rank - 2, 0) :] + ("mk" if a.rank > 1 else "k")
    right = batch[rank - max(b.rank - 2, 0) :] + ("kn" if b.rank > 1 else "k")
    out = batch + ("m" if a.rank > 1 else "") + ("n" if b.rank > 1 else "")
    return contract(
        ctx, [Term(a, left, names[0], _is_matrix(a)), Term(b, right, names[1], _is_matrix(b))], out
    )


def _is_matrix(value: Value) -> bool:
    """A two-dimensional operand with labels on both sides is a weight."""
    return value.rank == 2 and len({labels.varying(a) for a in value.arrays}) == 2


def _matmul(left: str, right: str) -> Callable[[Context, Call], Value]:
    def rule(ctx: Context, call: Call) -> Value:
        a, b = call.tensor(left), call.tensor(right)
        result = _product(ctx, a, b, (left, right))
        bias = call.optional("self") if left != "self" else None
        arrays = result.arrays
        if bias is not None:
            arrays = ctx.merge([result, _lifted(bias, result.rank)], result.shape)
        return Value(call.shape, arrays, a.origin if not arrays else "")

    return rule


def _inner(ctx: Context, call: Call) -> Value:
    """The last dimensions meet."""
    left, right = call.tensor("self"), call.tensor("other")
    names, others = "abcdefgh"[: left.rank - 1], "nopqrstu"[: right.rank - 1]
    terms = [
        Term(left, names + "k", "self", _is_matrix(left)),
        Term(right, others + "k", "other", _is_matrix(right)),
    ]
    return Value(call.shape, contract(ctx, terms, names + others).arrays)


def _repeat_heads(value: Value, heads: int) -> Value:
    """Grouped-query attention: every key or value head serves several query heads."""
    dim = value.rank - 3
    if value.shape[dim] == heads:
        return value
    times = heads // value.shape[dim]
    shape = (*value.shape[:dim], heads, *value.shape[dim + 1 :])
    arrays = tuple(np.repeat(a, times, axis=dim) if a.shape[dim] > 1 else a for a in value.arrays)
    return Value(shape, arrays, value.origin)


def _attention(ctx: Context, call: Call) -> Value:
    """``softmax(q k^T + mask) v``: q and k tie within a head, the head axis ties across all."""
    query, key, value = (call.tensor(n) for n in ("query", "key", "value"))
    if call.args.get("enable_gqa"):
        key, value = _repeat_heads(key, query.shape[-3]), _repeat_heads(value, query.shape[-3])
    batch = "abcdefgh"[: query.rank - 2]
    scores = contract(ctx, [Term(query, batch + "le", "query"), Term(key, batch + "se", "key")], batch + "ls")
    mask = call.optional("attn_mask")
    if mask is not None:
        scores = Value(scores.shape, ctx.merge([scores, _lifted(mask, scores.rank)], scores.shape))
    ctx.inexact([a for a in scores.arrays if a.shape[-1] > 1])
    across(ctx, scores.arrays, [scores.rank - 1])
    result = contract(ctx, [Term(scores, batch + "ls"), Term(value, batch + "sv", "value")], batch + "lv")
    return Value(call.shape, result.arrays)


def _resize_attention(dense: Call, slim: Call) -> Rewrite:
    """Heads that became narrower keep the softmax scale they were trained with."""
    width = dense.tensor("query").shape[-1]
    if dense.args.get("scale") is None and slim.tensor("query").shape[-1] != width:
        return Rewrite({"scale": float(width) ** -0.5})
    return Rewrite()


def _einsum(ctx: Context, call: Call) -> Value:
    equation = str(call.args["equation"]).replace(" ", "")
    tensors = call.tensors()
    inputs, arrow, out = equation.partition("->")
    sides = inputs.split(",")
    if not arrow:
        joined = "".join(sides)
        out = "".join(sorted(a for a in set(joined) if joined.count(a) == 1))
    terms = []
    for k, (tensor, side) in enumerate(zip(tensors, sides, strict=True)):
        value, axes = _without_diagonals(ctx, tensor, _spelled(side, tensor.rank))
        terms.append(Term(value, axes, f"tensors.{k}", _is_matrix(value)))
    leading = sum(a.isdigit() for a in set("".join(t.axes for t in terms)))
    return Value(
        call.shape, contract(ctx, terms, _spelled(out, len(out.replace("...", "")) + leading)).arrays
    )


def _spelled(side: str, rank: int) -> str:
    """One axis name for each dimension; an ellipsis names its own from the right, as broadcasting aligns them."""
    named = side.replace("...", "")
    return side.replace("...", "9876543210"[10 - (rank - len(named)) :] if rank > len(named) else "")


def _without_diagonals(ctx: Context, value: Value, axes: str) -> tuple[Value, str]:
    """A name that comes twice in one operand: what lies along it stays, and it is read once."""
    twice = [d for d, a in enumerate(axes) if axes.count(a) > 1]
    if not twice:
        return value, axes
    ctx.pin(
        [a for a in value.arrays if set(labels.varying(a)) & set(twice)],
        "an einsum reads a diagonal of this axis",
    )
    arrays = tuple(a for a in value.arrays if not set(labels.varying(a)) & set(twice))
    again = [d for d in twice if axes.index(axes[d]) < d]
    shape = tuple(1 if d in again else n for d, n in enumerate(value.shape))
    spare = iter("ÀÁÂÃÄÅÆÇ")
    return Value(shape, arrays, value.origin), "".join(
        next(spare) if d in again else a for d, a in enumerate(axes)
    )


def _tensordot(ctx: Context, call: Call) -> Value:
    left, right = call.tensor("self"), call.tensor("other")
    one, two = (
        [d % v.rank for d in call.integers(n)] for v, n in ((left, "dims_self"), (right, "dims_other"))
    )
    names = list("abcdefghijklm"[: left.rank])
    others = list("nopqrstuvwxyz"[: right.rank])
    for i, j in zip(one, two, strict=True):
        others[j] = names[i]
    free = [a for a in (*names, *others) if not (a in names and a in others)]
    terms = [
        Term(left, "".join(names), "self", _is_matrix(left)),
        Term(right, "".join(others), "other", _is_matrix(right)),
    ]
    return Value(call.shape, contract(ctx, terms, "".join(free)).arrays)


def _deformed(ctx: Context, call: Call) -> Value:
    """A convolution whose taps are moved by offsets, the same for all channels of an offset group."""
    x, groups = call.tensor("input"), call.integer("offset_groups")
    others = [v for n in ("offset", "mask") for v in [call.tensor(n)]]
    ctx.pin([a for v in others for a in v.arrays], "offsets and mask of a deformable convolution")
    ctx.pin([a for a in x.arrays if a.shape[0] > 1], "pictures pair up with offsets")
    if groups > 1:
        cells = _split(x, 1, groups)
        ctx.pin(
            [ctx.project(a, (1,)) for a in cells.arrays if a.shape[1] > 1 and a.shape[2] > 1],
            "its channels share offsets",
        )
        ctx.pin([a for a in cells.arrays if labels.varying(a) == (1,)], "its channels share offsets")
    names = ("input", "weight", "bias", "groups")
    return _convolution(ctx, Call("aten::conv2d", {n: call.args[n] for n in names}, call.shape))


def _embedding_bag(ctx: Context, call: Call) -> Output:
    """Rows are looked up, and those of one bag reduced."""
    weight = call.tensor("weight")
    assert isinstance(call.out, list)
    ctx.pin([a for a in weight.arrays if a.shape[0] > 1], "rows of an embedding table are looked up by value")
    ctx.pin(call.others(), "read as positions here")
    columns = tuple(a for a in weight.arrays if a.shape[0] == 1)
    ctx.role(produced=columns, consumed=[])
    if call.used - {0}:
        ctx.pin(columns, "the op returns where it found its values")
    return [Value(call.out[0], columns), *map(Value, call.out[1:])]


def _bilinear(ctx: Context, call: Call) -> Value:
    left, right, weight = call.tensor("input1"), call.tensor("input2"), call.tensor("weight")
    lead = "abcdefgh"[: left.rank - 1]
    terms = [
        Term(left, lead + "i", "input1"),
        Term(right, lead + "j", "input2"),
        Term(weight, "oij", "weight", weight=True),
    ]
    result = contract(ctx, terms, lead + "o")
    bias = call.optional("bias")
    if bias is not None:
        result = Value(result.shape, ctx.merge([result, _lifted(bias, result.rank)], result.shape))
    return Value(call.shape, result.arrays)


def _embedding(ctx: Context, call: Call) -> Value:
    weight, rank = call.tensor("weight"), len(call.shape)
    rows = [a for a in weight.arrays if a.shape[0] > 1]
    if rows:
        ctx.pin(rows, "rows of an embedding table are looked up by value")
    ctx.pin(call.others(), "read as positions here")
    columns = [a for a in weight.arrays if a.shape[0] == 1]
    ctx.role(produced=columns, consumed=[])
    return Value(call.shape, tuple(labels.along(a.ravel(), rank - 1, rank) for a in columns))


CONVOLUTIONS = (
    *(f"aten::conv{n}d" for n in (1, 2, 3)),
    *(f"aten::conv_transpose{n}d" for n in (1, 2, 3)),
    "aten::convolution",
    "aten::_convolution",
)

RULES = (
    OpRule(CONVOLUTIONS, _convolution, _resize_convolution),
    OpRule(("aten::linear",), _linear),
    OpRule(("aten::matmul", "aten::vdot"), _matmul("self", "other")),
    OpRule(("aten::dot",), _matmul("self", "tensor")),
    OpRule(("aten::inner",), _inner),
    OpRule(("aten::mm", "aten::bmm"), _matmul("self", "mat2")),
    OpRule(("aten::mv",), _matmul("self", "vec")),
    OpRule(("aten::addmm",), _matmul("mat1", "mat2")),
    OpRule(("aten::baddbmm",), _matmul("batch1", "batch2")),
    OpRule(("aten::addmv",), _matmul("mat", "vec")),
    OpRule(("aten::scaled_dot_product_attention",), _attention, _resize_attention),
    OpRule(("aten::einsum",), _einsum),
    OpRule(("aten::tensordot",), _tensordot),
    OpRule(("aten::bilinear",), _bilinear),
    OpRule(("aten::embedding",), _embedding),
    OpRule(("aten::embedding_bag", "aten::_embedding_bag"), _embedding_bag),
    OpRule(("torchvision::deform_conv2d",), _deformed, _resize_convolution),
)
