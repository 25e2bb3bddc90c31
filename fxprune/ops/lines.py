"""Operators that take some dimensions as a whole, by value or by number, and all others line by line.

Fourier transforms over pixels, tokens gathered by an index, differences, ranks: what is pinned is the axis
they work along, never the channels beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fxprune import labels
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, Context, OpRule, Output, Value
from fxprune.ops.contract import count_points
from fxprune.ops.flops import fourier_macs

__all__ = ["RULES", "without"]

Dims = Callable[[Call, int], Sequence[int]]


def without(ctx: Context, value: Value, dims: Sequence[int], reason: str) -> Value:
    """A tensor without labels along some dimensions: what varies along others, too, goes line by line.

    Args:
        ctx: Receives ties and pins.
        value: A tensor.
        dims: Dimensions of which nothing may go.
        reason: Why.
    """
    kept = []
    for array in value.arrays:
        axes = set(varying(array))
        if axes & set(dims):
            if axes <= set(dims):
                ctx.pin([array], reason)
                continue
            head = array[tuple(slice(0, 1) if d in dims else slice(None) for d in range(array.ndim))]
            ctx.tie(array, head)
            array = head
        kept.append(array)
    return Value(value.shape, tuple(kept), value.origin)


def _one(name: str = "dim", default: int = -1) -> Dims:
    """One dimension; the first and only one of a flattened tensor where the call names none."""
    return lambda call, rank: (call.integer(name, default) % max(rank, 1),)


def _many(name: str = "dim") -> Dims:
    """Several dimensions, or all of them."""
    return lambda call, rank: [d % rank for d in call.integers(name)] or range(rank)


# --- results of the operand's layout ---------------------------------------------------------------


def _along(dims: Dims, reason: str) -> Callable[[Context, Call], Output]:
    """What comes out has other values, and maybe another length, along ``dims``."""

    def rule(ctx: Context, call: Call) -> Output:
        x = call.tensors()[0]
        left = without(ctx, x, dims(call, x.rank), reason)
        ctx.pin(call.others(), "read as a setting here")
        if isinstance(call.out, list):
            return [Value(shape, left.arrays, x.origin) for shape in call.out]
        return Value(call.out, left.arrays, x.origin)

    return rule


def _difference(ctx: Context, call: Call) -> Value:
    """What is put before and behind lies beside."""
    x = call.tensor("self")
    dim = call.integer("dim", -1) % x.rank
    parts = [v for n in ("self", "prepend", "append") if (v := call.optional(n)) is not None]
    left = [without(ctx, v, (dim,), "neighbours are subtracted along this axis") for v in parts]
    return Value(call.shape, _beside(ctx, left, dim), x.origin)


def _beside(ctx: Context, values: Sequence[Value], dim: int) -> tuple[IntArray, ...]:
    """Tie tensors in every dimension but one, along which none has labels."""
    lines = [
        Value(tuple(1 if d == dim else n for d, n in enumerate(v.shape)), v.arrays, v.origin) for v in values
    ]
    return ctx.merge(lines, tuple(max(v.shape[d] for v in lines) for d in range(lines[0].rank)))


def _complexes(ctx: Context, call: Call) -> Value:
    """Pairs of numbers along the last dimension become one."""
    x = call.tensor("self")
    left = without(ctx, x, (x.rank - 1,), "the two parts of a complex number")
    return Value(call.shape, tuple(a[..., 0] for a in left.arrays), x.origin)


def _diagonal(name: str) -> Callable[[Context, Call], Value]:
    def rule(ctx: Context, call: Call) -> Value:
        x = call.tensor(name)
        one, two = (call.integer(n) % x.rank for n in ("dim1", "dim2"))
        left = without(ctx, x, (one, two), "a diagonal is taken here")
        rest = [d for d in range(x.rank) if d not in (one, two)]
        return Value(
            call.shape, tuple(a.reshape([*(a.shape[d] for d in rest), 1]) for a in left.arrays), x.origin
        )

    return rule


def _embedded_diagonal(ctx: Context, call: Call) -> Value:
    x = call.tensor("self")
    left = without(ctx, x, (x.rank - 1,), "a diagonal is made of this axis")
    rank = x.rank + 1
    new = {call.integer("dim1", -2) % rank, call.integer("dim2", -1) % rank}

    def place(array: IntArray) -> IntArray:
        sizes = iter(array.shape[:-1])
        return array.reshape([1 if d in new else next(sizes) for d in range(rank)])

    return Value(call.shape, tuple(map(place, left.arrays)), x.origin)


def _quantile(ctx: Context, call: Call) -> Value:
    """Several quantiles come along a new first dimension."""
    x = call.tensor("self")
    every = call.args.get("dim") is None
    dims = tuple(range(x.rank)) if every else (call.integer("dim") % x.rank,)
    left = without(ctx, x, dims, "values are ranked along this axis")
    ctx.pin(call.others(), "read as a setting here")
    keep = bool(call.args.get("keepdim"))
    shape = [n for d, n in enumerate(x.shape) if keep or d not in dims]
    new = len(call.shape) - len(shape)
    arrays = [
        a.reshape([1] * new + [n for d, n in enumerate(a.shape) if keep or d not in dims])
        for a in left.arrays
    ]
    return Value(call.shape, tuple(arrays), x.origin)


def _integral(ctx: Context, call: Call) -> Value:
    """Neighbours are added, with the distances between them."""
    y = call.tensor("y")
    dim = call.integer("dim") % y.rank
    left = without(ctx, y, (dim,), "neighbours are added along this axis")
    ctx.pin(call.others(), "read as a setting here")
    return Value(call.shape, tuple(a.squeeze(dim) for a in left.arrays), y.origin)


def _meshgrid(ctx: Context, call: Call) -> Output:
    """Every result has all axes."""
    tensors = call.tensors()
    order = list(range(len(tensors)))
    if call.args.get("indexing") == "xy" and len(tensors) > 1:
        order[:2] = [1, 0]
    arrays = tuple(
        labels.along(a.ravel(), order[k], len(tensors)) for k, t in enumerate(tensors) for a in t.arrays
    )
    assert isinstance(call.out, list)
    return [Value(shape, arrays) for shape in call.out]


# --- Fourier transforms ------------------------------------------------------------------------


def _fourier(dims: Dims) -> Callable[[Context, Call], Value]:
    def rule(ctx: Context, call: Call) -> Value:
        x = call.tensor("self")
        along = list(dims(call, x.rank))
        left = without(ctx, x, along, "a Fourier transform runs along this axis")
        kind = call.op.rpartition("fft_")[2]
        to_real = "c2r" in kind or "irfft" in kind
        real = to_real or "r2c" in kind or "rfft" in kind
        given = call.integers("s") or call.integers("n")
        line = x.shape if real and not to_real else call.shape
        lengths = [given[k] if given else line[d] for k, d in enumerate(along)]
        one = [1 if d in along else n for d, n in enumerate(x.shape)]
        names = "abcdefgh"[: x.rank]
        macs = fourier_macs(lengths, range(len(lengths)), real=real)
        count_points(ctx, names, dict(zip(names, one, strict=True)), left.arrays, macs)
        return Value(call.shape, left.arrays, x.origin)

    return rule


def _transformed(call: Call, rank: int) -> Sequence[int]:
    """All dimensions, or the last ones for which sizes are given, where the call names none."""
    if call.args.get("dim") is None and call.args.get("s") is not None:
        return range(rank - len(call.integers("s")), rank)
    return _many()(call, rank)


# --- positions chosen by an index ----------------------------------------------------------------


def _gather(index: str) -> Callable[[Context, Call], Value]:
    """``y[i, c] = x[index[i, c], c]``: the other dimensions lie as in the index."""

    def rule(ctx: Context, call: Call) -> Value:
        x, places = call.tensor("self"), call.tensor(index)
        if call.args.get("dim") is None:
            ctx.pin([*x.arrays, *places.arrays], "positions of a flattened tensor are looked up by value")
            return Value(call.shape)
        return Value(call.shape, _picked(ctx, call, [x, places]), x.origin)

    return rule


def _picked(ctx: Context, call: Call, operands: Sequence[Value]) -> tuple[IntArray, ...]:
    """Labels beside the dimension along which positions are looked up."""
    x = operands[0]
    dim = call.integer("dim") % max(x.rank, 1)
    left = [without(ctx, v, (dim,), "positions along this axis are looked up by value") for v in operands]
    sizes = [tuple(n for d, n in enumerate(v.shape) if d != dim) for v in left]
    if any(n not in (1, m) for size in sizes for n, m in zip(size, sizes[0], strict=True)):
        ctx.pin(
            [a for v in left for a in v.arrays], "an index that reaches over a part of the other axes only"
        )
        return ()
    return _beside(ctx, left, dim)


def _scatter(source: str) -> Callable[[Context, Call], Value]:
    """``x[index[i, c], c] = source[i, c]``."""

    def rule(ctx: Context, call: Call) -> Value:
        x, index, values = call.tensor("self"), call.tensor("index"), call.optional(source)
        operands = [x] if index.rank < x.rank or not x.rank else [x, index]
        if index.rank < x.rank:
            ctx.pin(index.arrays, "read as positions here")
        if values is not None and values.rank == x.rank:
            operands.append(values)
        return Value(call.shape, _picked(ctx, call, operands), x.origin)

    return rule


def _unpool(count: int) -> Callable[[Context, Call], Value]:
    """Values go back to where pooling found them, channel by channel."""

    def rule(ctx: Context, call: Call) -> Value:
        operands = [call.tensor("self"), call.tensor("indices")]
        dims = range(operands[0].rank - count, operands[0].rank)
        left = [without(ctx, v, dims, "the op fills this axis by number") for v in operands]
        return Value(call.shape, ctx.merge(left, operands[0].shape), operands[0].origin)

    return rule


NUMBERED = "the op moves positions of this axis by number"
RANKED = "the op ranks or searches values along this axis"

RULES = (
    OpRule(
        tuple(f"aten::fft_{n}" for n in ("fft", "ifft", "rfft", "irfft")),
        _fourier(_one()),
    ),
    OpRule(
        (
            *(
                f"aten::fft_{n}"
                for n in ("fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn")
            ),
            *("aten::_fft_c2c", "aten::_fft_r2c", "aten::_fft_c2r"),
        ),
        _fourier(_transformed),
    ),
    OpRule(("aten::fft_fftshift", "aten::fft_ifftshift"), _along(_many(), NUMBERED)),
    OpRule(("aten::rot90",), _along(_many("dims"), NUMBERED)),
    OpRule(("aten::cummax", "aten::cummin", "aten::logcumsumexp"), _along(_one(), RANKED)),
    OpRule(("aten::msort",), _along(lambda call, rank: range(min(rank, 1)), RANKED)),
    OpRule(("aten::diff",), _difference),
    OpRule(("aten::trapezoid",), _integral),
    OpRule(("aten::view_as_complex",), _complexes),
    OpRule(("aten::diagonal",), _diagonal("self")),
    OpRule(("aten::linalg_diagonal",), _diagonal("A")),
    OpRule(("aten::diag_embed",), _embedded_diagonal),
    OpRule(("aten::quantile", "aten::nanquantile"), _quantile),
    OpRule(("aten::meshgrid",), _meshgrid),
    OpRule(("aten::gather",), _gather("index")),
    OpRule(("aten::take_along_dim",), _gather("indices")),
    OpRule(("aten::scatter", "aten::scatter_add", "aten::scatter_reduce"), _scatter("src")),
    OpRule(("aten::index_add", "aten::index_copy"), _scatter("source")),
    OpRule(("aten::index_fill",), _scatter("value")),
    OpRule(("aten::max_unpool2d",), _unpool(2)),
    OpRule(("aten::max_unpool3d",), _unpool(3)),
)
