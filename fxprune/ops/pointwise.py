"""Elementwise operators: broadcast, then tie what meets; and those that hand their tensor on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fxprune.labels import along, take
from fxprune.ops.base import Call, Context, OpRule, Output, Value

__all__ = ["ARITHMETIC", "RULES", "elementwise", "pointwise"]


def pointwise(ctx: Context, call: Call) -> Output:
    """Labels of elementwise results: those of the operands, tied where they meet."""
    operands = call.tensors()
    shapes = call.out if isinstance(call.out, list) else [call.out]
    met = elementwise(ctx, operands, shapes[0])
    return [replace(met, shape=shape) for shape in shapes] if isinstance(call.out, list) else met


def elementwise(ctx: Context, operands: Sequence[Value], shape: tuple[int, ...]) -> Value:
    """Labels of operands that are broadcast to a shape, tied where they meet."""
    rank = len(shape)
    lifted = []
    for value in operands:
        pad = (1,) * (rank - value.rank)
        arrays = tuple(a.reshape(*pad, *a.shape) for a in value.arrays) if pad else value.arrays
        lifted.append(Value((*pad, *value.shape), arrays, value.origin))
    arrays = ctx.merge(lifted, shape)
    origin = "" if arrays else next((v.origin for v in operands if v.origin), "")
    return Value(shape, arrays, origin)


def _outer(ctx: Context, call: Call) -> Value:
    """Every entry of one vector times every entry of another."""
    column, row = call.tensors()
    lying = Value((*column.shape, 1), tuple(a[:, None] for a in column.arrays), column.origin)
    return elementwise(ctx, [lying, row], call.shape)


def _same(ctx: Context, call: Call) -> Output:
    """The first tensor, unchanged in layout."""
    ctx.pin(call.others(), "read as a setting here")
    first = call.tensors()[0]
    if isinstance(call.out, list):  # a dropout's mask has the layout of what it masks
        return [Value(shape, first.arrays, first.origin) for shape in call.out]
    return Value(call.shape, first.arrays, first.origin, first.data)


def _nothing(ctx: Context, call: Call) -> None:
    """Checks that return nothing."""


def _glu(ctx: Context, call: Call) -> Value:
    """Gated linear unit: the two halves of ``dim`` meet elementwise."""
    x = call.tensor("self")
    dim = call.integer("dim", -1) % x.rank
    half = x.shape[dim] // 2
    shape = call.shape
    halves = [
        Value(shape, tuple(take(a, dim, s) for a in x.arrays), x.origin)
        for s in (slice(0, half), slice(half, 2 * half))
    ]
    return Value(shape, ctx.merge(halves, shape), x.origin)


def _prelu(ctx: Context, call: Call) -> Value:
    """One slope for all, or one per channel (dimension 1)."""
    x, weight = call.tensor("self"), call.tensor("weight")
    arrays = tuple(along(a.ravel(), 1, x.rank) for a in weight.arrays)
    sizes = tuple(weight.shape[0] if d == 1 and arrays else 1 for d in range(x.rank))
    return Value(x.shape, ctx.merge([x, Value(sizes, arrays)], x.shape), x.origin)


# Elementwise in effect, though torch does not tag them so.
POINTWISE = (
    "aten::where",
    "aten::masked_fill",
    "aten::copy",
    "aten::_prelu_kernel",
    "aten::hardswish",
    "aten::log_sigmoid",
    "aten::rsub",
    "aten::floor_divide",
    "aten::rrelu",
    "aten::lerp",
    "aten::addcmul",
    "aten::addcdiv",
    "aten::type_as",
    "aten::expand_as",
    "aten::dropout",
    "aten::logit",
    "aten::_assert_async",
    "aten::maximum",
    "aten::minimum",
    "aten::complex",
    "aten::polar",
    "aten::isclose",
    "aten::isreal",
    "aten::special_ndtr",
    "aten::broadcast_tensors",
)

# What Python's operators become.
ARITHMETIC = frozenset(
    f"aten::{n}"
    for n in ("add", "sub", "rsub", "mul", "div", "pow", "remainder", "floor_divide", "true_divide")
)

SAME = (
    "aten::alpha_dropout",
    "aten::native_dropout",
    "aten::feature_dropout",
    "aten::feature_alpha_dropout",
    "aten::contiguous",
    "aten::clone",
    "aten::alias",
    "aten::detach",
    "aten::lift_fresh_copy",
    "aten::lift_fresh",
    "aten::to",
    "aten::_to_copy",
    "aten::fill",
    "aten::zero",
    "aten::bernoulli",
    "aten::uniform",
    "aten::normal",
    *(f"aten::{n}" for n in ("exponential", "cauchy", "geometric", "log_normal", "random")),
    "aten::nan_to_num",
    "aten::float_power",
    "aten::requires_grad",
    *("aten::real", "aten::imag", "aten::conj", "aten::_conj", "aten::resolve_conj", "aten::resolve_neg"),
    "aten::_autocast_to_reduced_precision",
    "aten::_autocast_to_full_precision",
)

# New entries in the layout of a tensor.
LIKE = tuple(f"aten::{n}_like" for n in ("zeros", "ones", "full", "empty", "rand", "randn"))

RULES = (
    OpRule(POINTWISE, pointwise),
    OpRule(SAME, _same),
    OpRule(LIKE, _same, fills=True),
    OpRule(("aten::outer",), _outer),
    OpRule(("aten::glu",), _glu),
    OpRule(("aten::prelu",), _prelu),
    OpRule(
        ("aten::_assert_tensor_metadata", "aten::_assert_scalar", "aten::sym_constrain_range_for_size"),
        _nothing,
    ),
)
