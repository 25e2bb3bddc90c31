"""Seeded faults in particular rules: slips that whoever writes that rule may well make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from fxprune import labels
from fxprune.coupling.walk import Walk
from fxprune.labels import IntArray, varying
from fxprune.ops import contract
from fxprune.ops.base import Call, Context, Output, Rewrite, Value
from fxprune.testing.mutation.mutant import TAGGED, Couple, Move, Mutant, Resize, at, code, rule
from fxprune.testing.mutation.slips import muted, overridden, read_as, shifted, with_args, with_arrays

Change = Callable[[Call], Call]

# --- how the particular slips are made ---------------------------------------------------------


def forced(**values: object) -> Change:
    """A call with arguments that its operator need not have."""
    return lambda call: replace(call, args={**call.args, **values})


def held(change: Callable[[IntArray], IntArray]) -> Callable[[object], object]:
    """An operand with changed label arrays."""
    return lambda value: with_arrays(value, change) if isinstance(value, Value) else value


def turned(value: object) -> object:
    """A matrix (or a batch of them) with its last two dimensions exchanged."""
    if not isinstance(value, Value) or value.rank < 2:
        return value
    shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
    return replace(value, shape=shape, arrays=tuple(a.swapaxes(-1, -2) for a in value.arrays))


def swap(one: str, two: str) -> Change:
    """A call with two arguments exchanged."""
    return lambda call: replace(call, args={**call.args, one: call.args[two], two: call.args[one]})


def more(by: int) -> Callable[[object], object]:
    """A number, or every number of a list, a little larger; None counts as 0."""

    def change(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [int(v) + by for v in value]
        return int(value or 0) + by  # type: ignore[call-overload]

    return change


def moving(wrong: Move) -> dict[str, Callable[..., object]]:
    """Both faces move labels in this way; what the rule says besides is said as before."""

    def couple(right: Couple) -> Couple:
        def faulty(ctx: Context, call: Call) -> Output:
            result = right(ctx, call)
            x = call.tensors()[0]
            moved = [wrong(call, a, x.shape) for a in x.arrays]
            if isinstance(result, list):
                columns = zip(*moved, strict=True)
                return [replace(v, arrays=tuple(c)) for v, c in zip(result, columns, strict=True)]
            assert isinstance(result, Value)
            return replace(result, arrays=tuple(m for m in moved if isinstance(m, np.ndarray)))

        return faulty

    return {"couple": couple, "move": lambda right: right and wrong}


def along(name: str, dim: Callable[[Call], int], order: Callable[[Call, int], IntArray]) -> Change:
    """A call in which the labels of an operand stand in another order along one dimension."""

    def change(call: Call) -> Call:
        value, d = call.args[name], dim(call)
        assert isinstance(value, Value)
        index = order(call, value.shape[d])
        arrays = tuple(a.take(index, axis=d) if a.shape[d] > 1 else a for a in value.arrays)
        return replace(call, args={**call.args, name: replace(value, arrays=arrays)})

    return change


def resized(change: Callable[[Call, Call, Rewrite], Rewrite]) -> dict[str, Callable[..., object]]:
    """Resizing gives something else."""

    def resize(right: Resize) -> Resize:
        return lambda dense, slim: change(dense, slim, right(dense, slim))

    return {"resize": resize}


def merge_unties(number: int) -> Callable[[Couple], Couple]:
    """One of the rule's merges does not tie what meets."""

    def make(couple: Couple) -> Couple:
        def faulty(ctx: Context, call: Call) -> Output:
            numbers = count(1)

            def merge(operands: Sequence[Value], shape: tuple[int, ...]) -> tuple[IntArray, ...]:
                assert isinstance(ctx, Walk)
                if next(numbers) != number:
                    return Walk.merge(ctx, operands, shape)
                with overridden(ctx, tie=lambda a, b: None):
                    return Walk.merge(ctx, operands, shape)

            with overridden(ctx, merge=merge):
                return couple(ctx, call)

        return faulty

    return make


# --- contractions ------------------------------------------------------------------------------


def _channel_dim(call: Call) -> int:
    return 1 if call.tensor("input").rank == call.tensor("weight").rank else 0


def _next_group(call: Call, width: int) -> IntArray:
    return np.roll(np.arange(width), width // call.integer("groups", 1))


def _interleaved(call: Call, width: int) -> IntArray:
    groups = call.integer("groups", 1)
    return np.arange(width).reshape(-1, groups).T.ravel()


def _dense_weight(dense: Call, slim: Call, right: Rewrite) -> Rewrite:
    if "groups" not in right.args:
        return right
    channels = slim.tensor("input").shape[_channel_dim(slim)]
    return Rewrite({"groups": max(channels // dense.tensor("weight").shape[1], 1)})


def _product_from_the_front(_: object) -> object:
    def product(ctx: Context, a: Value, b: Value, names: tuple[str, str]) -> Value:
        rank = max(a.rank, b.rank, 2) - 2
        batch = "abcdefgh"[:rank]
        left = batch[: max(a.rank - 2, 0)] + ("mk" if a.rank > 1 else "k")
        right = batch[: max(b.rank - 2, 0)] + ("kn" if b.rank > 1 else "k")
        out = batch + ("m" if a.rank > 1 else "") + ("n" if b.rank > 1 else "")
        terms = [
            contract.Term(v, axes, name, contract._is_matrix(v))
            for v, axes, name in zip((a, b), (left, right), names, strict=True)
        ]
        return contract.contract(ctx, terms, out)

    return product


def _heads_in_turn(_: object) -> object:
    def repeat(value: Value, heads: int) -> Value:
        dim = value.rank - 3
        times = heads // value.shape[dim]
        shape = (*value.shape[:dim], heads, *value.shape[dim + 1 :])
        reps = [times if d == dim else 1 for d in range(value.rank)]
        arrays = tuple(np.tile(a, reps) if a.shape[dim] > 1 else a for a in value.arrays)
        return Value(shape, arrays, value.origin)

    return repeat


def _unsorted(equation: object) -> object:
    text = str(equation)
    return text if "->" in text or "," in text else f"{text}->{text}"


CONTRACT = (
    rule(
        "aten::conv2d",
        "bias not tied",
        "The bias is not tied to the output.",
        **read_as(with_args(bias=None)),
    ),
    rule(
        "aten::conv2d",
        "bias off by one",
        "The bias is tied to the neighbouring output.",
        **read_as(with_args(bias=held(shifted))),
    ),
    rule(
        "aten::conv2d",
        "taken for transposed",
        "Every convolution's weight is read as input by output.",
        **read_as(forced(transposed=True)),
    ),
    rule(
        "aten::conv_transpose2d",
        "taken for ordinary",
        "A transposed convolution's weight is read as output by input.",
        **read_as(lambda call: replace(forced(transposed=False)(call), op="aten::conv2d")),
    ),
    rule(
        "aten::conv2d", "groups ignored", "It reads all inputs as one group.", **read_as(with_args(groups=1))
    ),
    rule(
        "aten::conv2d",
        "inputs of the next group",
        "Each group is tied to the inputs of its neighbour.",
        **read_as(along("input", _channel_dim, _next_group)),
    ),
    rule(
        "aten::conv2d",
        "weights of the next group",
        "Each group's outputs are tied to the filters of its neighbour.",
        **read_as(along("weight", lambda call: 0, _next_group)),
    ),
    rule(
        "aten::conv2d",
        "groups interleaved",
        "Channel c is put into group c modulo groups.",
        **read_as(along("input", _channel_dim, _interleaved)),
    ),
    rule(
        "aten::conv2d",
        "groups by the dense width",
        "The number of groups that are left is computed from the dense weight.",
        **resized(_dense_weight),
    ),
    code(
        "contract",
        "columns of grouped transposed convolutions",
        "Their outputs are given only the labels of the columns, which span all groups.",
        at("fxprune.ops.contract:_cells", lambda _: lambda ctx, value: value),
        ops=("aten::conv_transpose2d",),
        first=("conv_transpose, grouped, joined",),
    ),
    rule(
        "aten::linear",
        "bias not tied",
        "The bias is not tied to the output.",
        **read_as(with_args(bias=None)),
    ),
    rule(
        "aten::linear",
        "bias off by one",
        "The bias is tied to the neighbouring output.",
        **read_as(with_args(bias=held(shifted))),
    ),
    rule(
        "aten::linear",
        "weight transposed",
        "The weight is read as input by output.",
        **read_as(with_args(weight=turned)),
    ),
    rule(
        "aten::linear",
        "inputs off by one",
        "The weight's columns are tied to the neighbouring inputs.",
        **read_as(with_args(input=held(shifted))),
    ),
    rule(
        "aten::matmul",
        "right operand transposed",
        "The product is read as a b^T.",
        **read_as(with_args(other=turned, mat2=turned)),
    ),
    rule(
        "aten::bmm",
        "left operand transposed",
        "The product is read as a^T b.",
        **read_as(with_args(self=turned)),
    ),
    rule(
        "aten::addmm",
        "bias not tied",
        "What is added is not tied to the product.",
        **read_as(with_args(self=None)),
    ),
    code(
        "contract",
        "batches aligned in front",
        "Batch dimensions of a product of different ranks meet from the front.",
        at("fxprune.ops.contract:_product", _product_from_the_front),
        ops=("aten::matmul",),
    ),
    rule(
        "aten::scaled_dot_product_attention",
        "key and value exchanged",
        "Queries are tied to values and results to keys.",
        **read_as(swap("key", "value")),
    ),
    rule(
        "aten::scaled_dot_product_attention",
        "mask not read",
        "The mask is not tied to positions.",
        **read_as(with_args(attn_mask=None)),
    ),
    rule(
        "aten::scaled_dot_product_attention",
        "queries and keys not tied",
        "Neither heads nor channels of queries and keys are tied.",
        couple=merge_unties(1),
    ),
    rule(
        "aten::scaled_dot_product_attention",
        "heads of values not tied",
        "The heads of the values are not tied to those of queries and keys.",
        couple=lambda right: (
            lambda ctx, call: merge_unties(3 if call.optional("attn_mask") else 2)(right)(ctx, call)
        ),
    ),
    rule(
        "aten::scaled_dot_product_attention",
        "grouped queries ignored",
        "Shared key and value heads are not repeated.",
        **read_as(with_args(enable_gqa=False)),
    ),
    code(
        "contract",
        "shared heads in turn",
        "Key and value heads are given to query heads in turn rather than to neighbouring ones.",
        at("fxprune.ops.contract:_repeat_heads", _heads_in_turn),
        ops=("aten::scaled_dot_product_attention",),
    ),
    rule(
        "aten::einsum",
        "operands exchanged",
        "The first operand is read with the axes of the last.",
        **read_as(with_args(tensors=lambda v: v[::-1])),
    ),
    rule(
        "aten::einsum",
        "implicit result not sorted",
        "Without an arrow the axes of the result come in the order of the operand.",
        **read_as(with_args(equation=_unsorted)),
    ),
    rule(
        "aten::bilinear",
        "inputs exchanged",
        "The weight's second dimension is tied to the second input.",
        **read_as(swap("input1", "input2")),
    ),
    rule(
        "aten::embedding",
        "columns off by one",
        "The result is tied to the neighbouring column of the table.",
        **read_as(with_args(weight=held(shifted))),
    ),
)

# --- movement ----------------------------------------------------------------------------------


def _inside_out(right: Callable[..., IntArray]) -> Callable[..., IntArray]:
    """Merge and split dimensions with the first one running fastest."""

    def reshape(array: IntArray, old: tuple[int, ...], new: tuple[int, ...]) -> IntArray:
        if not varying(array) or 0 in old or 0 in new:
            return right(array, old, new)
        full = np.broadcast_to(array, old)
        return labels.collapse(full.reshape(new, order="F"))

    return reshape


def _behind(call: Call, array: IntArray, shape: tuple[int, ...]) -> IntArray:
    return array.reshape(array.shape + (1,) * (len(call.shape) - array.ndim))


def _inverse(dims: object) -> object:
    return np.argsort([int(d) % len(dims) for d in dims]).tolist()  # type: ignore[attr-defined, arg-type]


def _parts(call: Call, array: IntArray, dim: int, begins: Sequence[int]) -> list[IntArray]:
    assert isinstance(call.out, list)
    if array.shape[dim] == 1:
        return [array for _ in call.out]
    return [
        array.take(np.arange(b, b + s[dim]) % array.shape[dim], axis=dim)
        for b, s in zip(begins, call.out, strict=True)
    ]


def _split_early(call: Call, array: IntArray, shape: tuple[int, ...]) -> list[IntArray]:
    dim = call.integer("dim") % len(shape)
    ends = np.cumsum([s[dim] for s in call.out])  # type: ignore[index]
    return _parts(call, array, dim, [0, *(int(e) - 1 for e in ends[:-1])])


def _split_evenly(call: Call, array: IntArray, shape: tuple[int, ...]) -> list[IntArray]:
    dim = call.integer("dim") % len(shape)
    size = call.out[-1][dim]  # type: ignore[index]
    return _parts(call, array, dim, [k * size for k in range(len(call.out))])


def _split_backwards(call: Call, array: IntArray, shape: tuple[int, ...]) -> list[IntArray]:
    dim = call.integer("dim") % len(shape)
    ends = np.cumsum([s[dim] for s in call.out])  # type: ignore[index]
    return _parts(call, array, dim, [shape[dim] - int(e) for e in ends])


def _unbound_backwards(call: Call, array: IntArray, shape: tuple[int, ...]) -> list[IntArray]:
    dim = call.integer("dim") % len(shape)
    last = array.shape[dim] - 1
    return [array.take(max(last - k, 0), axis=dim) for k in range(shape[dim])]


def _index_data(change: Callable[[IntArray], IntArray]) -> Change:
    """A call with other entries of its index vector."""

    def changed(value: object) -> object:
        if isinstance(value, list):
            return [changed(v) for v in value]
        if isinstance(value, Value) and value.data is not None and value.rank == 1:
            return replace(value, data=change(value.data))
        return value

    return with_args(index=changed, indices=changed)


def _each(name: str) -> Move:
    """Repeat each position where the operator repeats the whole, or the other way round."""

    def move(call: Call, array: IntArray, shape: tuple[int, ...]) -> IntArray:
        rank = len(call.shape)
        times = call.integers(name)
        times = [1] * (rank - len(times)) + times
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        for d, t in enumerate(times):
            array = np.repeat(array, t, axis=d) if array.shape[d] > 1 else array
        return array

    return move


def _in_turn(call: Call, array: IntArray, shape: tuple[int, ...]) -> IntArray:
    if call.args.get("dim") is None:
        return np.tile(labels.reshape(array, shape, (int(np.prod(shape)),)), call.integer("repeats"))
    dim = call.integer("dim") % len(shape)
    reps = [call.integer("repeats") if d == dim else 1 for d in range(array.ndim)]
    return np.tile(array, reps) if array.shape[dim] > 1 else array


def _woven_in_turn(right: Couple) -> Couple:
    """The pixels of a window come first, the channels second."""

    def faulty(ctx: Context, call: Call) -> Output:
        result = right(ctx, call)
        x = call.tensors()[0]
        dim = x.rank - 3
        assert isinstance(result, Value)

        def turn(array: IntArray) -> IntArray:
            if array.shape[dim] == 1:
                return array
            order = np.arange(array.shape[dim]).reshape(x.shape[dim], -1).T.ravel()
            return array.take(order, axis=dim)

        return with_arrays(result, turn)

    return faulty


def _blocks_in_turn(call: Call, width: int) -> IntArray:
    channels = call.shape[len(call.shape) - 3]
    return np.arange(width).reshape(-1, channels).T.ravel()


def _woven_dim(call: Call) -> int:
    rank = call.tensors()[0].rank
    return rank - 3 if call.op == "aten::pixel_shuffle" else rank - 2


def _shuffled_back(call: Call) -> Call:
    return forced(groups=call.tensor("self").shape[1] // call.integer("groups"))(call)


def _groups_kept(dense: Call, slim: Call, right: Rewrite) -> Rewrite:
    return Rewrite({"groups": slim.tensor("self").shape[1] // dense.integer("groups") or 1})


VIEWS = (
    code(
        "views",
        "inside out",
        "Dimensions are merged and split with the first one running fastest.",
        at("fxprune.labels:reshape", _inside_out),
        first=("channel shuffle, hard-coded sizes", "flatten, linear, unflatten"),
    ),
    rule(
        "aten::reshape",
        "shuffles need no equal columns",
        "Merging rows and columns against their nesting does not ask for equal columns.",
        couple=muted("project"),
        first=("grouped convolution, shuffled", "grouped convolution, two channels gate all, shuffled"),
    ),
    rule(
        "aten::expand",
        "new dimensions behind",
        "New dimensions are put behind the others.",
        **moving(_behind),
    ),
    rule(
        "aten::permute", "inverse", "The inverse permutation is applied.", **read_as(with_args(dims=_inverse))
    ),
    rule(
        "aten::transpose",
        "second dimension one too low",
        "The dimension before the second one is exchanged with the first.",
        **read_as(with_args(dim1=more(-1), axis1=more(-1))),
    ),
    rule(
        "aten::movedim",
        "the other way",
        "Source and destination are exchanged.",
        **read_as(swap("source", "destination")),
    ),
    rule(
        "aten::mT",
        "first two dimensions",
        "The first two dimensions are exchanged instead of the last two.",
        **moving(lambda call, array, shape: array.swapaxes(0, 1)),
    ),
)

PICKING = (
    rule(
        "aten::slice",
        "begins one late",
        "The slice begins one too late.",
        **read_as(with_args(start=more(1))),
    ),
    rule("aten::slice", "ends one late", "The slice ends one too late.", **read_as(with_args(end=more(1)))),
    rule(
        "aten::slice",
        "step ignored",
        "Neighbours are taken instead of every n-th position.",
        **read_as(
            lambda call: (
                with_args(step=1, end=call.integer("start") + call.shape[call.integer("dim")])(call)
                if call.integer("start") >= 0
                else call
            )
        ),
    ),
    rule(
        "aten::slice",
        "negative start is zero",
        "A start that counts from the end is taken for the beginning.",
        **read_as(
            lambda call: (
                with_args(start=0, end=call.shape[call.integer("dim")])(call)
                if call.integer("start") < 0
                else call
            )
        ),
    ),
    rule(
        "aten::slice",
        "steps may be written to",
        "In-place changes of every n-th position do not pin.",
        couple=muted("pin"),
        first=("in-place scale of every third channel",),
    ),
    code(
        "picking",
        "views written to",
        "That a slice is changed in place later is not noticed.",
        at("fxprune.coupling.walk:written_later", lambda _: lambda graph: set()),
        first=("in-place scale of every third channel", "in-place activation of a half"),
    ),
    rule(
        "aten::narrow",
        "begins one late",
        "The part begins one position too late.",
        **read_as(with_args(start=more(1))),
    ),
    rule(
        "aten::select",
        "the next one",
        "The position behind the selected one is taken.",
        **read_as(with_args(index=more(1))),
    ),
    rule(
        "aten::select",
        "rows may go",
        "Rows that are picked by number are not pinned.",
        couple=muted("pin"),
    ),
    rule(
        "aten::unbind",
        "backwards",
        "Results come in the opposite order.",
        **moving(_unbound_backwards),
    ),
    rule(
        "aten::unbind",
        "rows may go",
        "Rows that are picked by number are not pinned.",
        couple=muted("pin"),
        first=("unbind + reversed stack of rows", "unbind + reversed stack of channels"),
    ),
    rule(
        "aten::split",
        "parts one early",
        "All parts but the first begin one too early.",
        **moving(_split_early),
    ),
    rule(
        "aten::split",
        "even parts",
        "All parts are taken to be as large as the last.",
        **moving(_split_evenly),
    ),
    rule("aten::split", "backwards", "Parts are counted from the end.", **moving(_split_backwards)),
    rule(
        "aten::index",
        "inverse",
        "The inverse of the permutation is applied.",
        **read_as(_index_data(lambda data: np.argsort(data, kind="stable"))),
    ),
    rule(
        "aten::index",
        "entries off by one",
        "The positions before the wanted ones are taken.",
        **read_as(_index_data(lambda data: np.maximum(data - 1, 0))),
    ),
    rule(
        "aten::index_select",
        "sorted",
        "Positions come in the order of the operand.",
        **read_as(_index_data(np.sort)),
    ),
)

REORDERING = (
    rule(
        "aten::flip",
        "one dimension only",
        "Only the first is flipped.",
        **read_as(with_args(dims=lambda d: d[:1])),
    ),
    rule(
        "aten::flip",
        "dimension one too low",
        "The dimensions before those named are flipped.",
        **read_as(with_args(dims=more(-1))),
    ),
    rule(
        "aten::roll",
        "the other way",
        "Positions move backwards.",
        **read_as(with_args(shifts=lambda s: [-int(v) for v in s])),
    ),
    rule("aten::roll", "one too far", "Positions move one too far.", **read_as(with_args(shifts=more(1)))),
    rule(
        "aten::roll",
        "first dimension only",
        "Only the first of several dimensions is rolled.",
        **read_as(
            lambda call: with_args(
                dims=[int(d) for d in call.integers("dims")][:1], shifts=call.integers("shifts")[:1]
            )(call)
        ),
    ),
    rule(
        "aten::repeat",
        "each position",
        "Each position is repeated, not the whole.",
        **moving(_each("repeats")),
    ),
    rule("aten::tile", "each position", "Each position is repeated, not the whole.", **moving(_each("dims"))),
    rule(
        "aten::repeat_interleave",
        "the whole",
        "The whole is repeated, not each position.",
        **moving(_in_turn),
    ),
    rule(
        "aten::pixel_shuffle",
        "pixels first",
        "Channels are read as pixels by channels.",
        **read_as(
            lambda call: along(
                next(n for n, v in call.args.items() if isinstance(v, Value)), _woven_dim, _blocks_in_turn
            )(call)
        ),
    ),
    rule("aten::pixel_unshuffle", "pixels first", "Results are pixels by channels.", couple=_woven_in_turn),
    rule("aten::im2col", "pixels first", "Results are pixels by channels.", couple=_woven_in_turn),
    rule("aten::channel_shuffle", "the other way", "The shuffle is undone.", **read_as(_shuffled_back)),
    rule(
        "aten::channel_shuffle",
        "groups from the width",
        "The groups that are left are computed from the width alone.",
        **resized(_groups_kept),
    ),
)


def _seam(right: Couple) -> Couple:
    """Everything behind the first part one too far."""

    def faulty(ctx: Context, call: Call) -> Output:
        result = right(ctx, call)
        dim = call.integer("dim") % len(call.shape)
        at_seam = call.tensors()[0].shape[dim]
        order = np.concatenate([np.arange(at_seam), np.roll(np.arange(at_seam, call.shape[dim]), 1)])
        assert isinstance(result, Value)
        return with_arrays(result, lambda a: a.take(order, axis=dim) if a.shape[dim] > 1 else a)

    return faulty


def _only_first(right: Couple) -> Couple:
    """All parts but the first are given new labels."""

    def faulty(ctx: Context, call: Call) -> Output:
        first, *others = call.tensors()
        unknown = [replace(v, arrays=tuple(ctx.fresh(a.shape) for a in v.arrays)) for v in others]
        return right(ctx, with_args(tensors=[first, *unknown])(call))

    return faulty


def _reversed(value: object) -> object:
    return list(value)[::-1]  # type: ignore[call-overload]


def _all_behind(pad: object) -> object:
    amounts = [int(v) for v in pad]  # type: ignore[attr-defined]
    return [n for k in range(0, len(amounts), 2) for n in (0, amounts[k] + amounts[k + 1])]


def _sides(pad: object) -> object:
    amounts = [int(v) for v in pad]  # type: ignore[attr-defined]
    return [n for k in range(0, len(amounts), 2) for n in (amounts[k + 1], amounts[k])]


def _pad_sides(dense: Call, slim: Call, right: Rewrite) -> Rewrite:
    return Rewrite({"pad": _sides(right.args["pad"])})


def _pad_more(dense: Call, slim: Call, right: Rewrite) -> Rewrite:
    old = dense.integers("pad")
    new = [int(n) for n in right.args["pad"]]  # type: ignore[attr-defined]
    return Rewrite({"pad": [n if n == o else n + 1 for o, n in zip(old, new, strict=True)]})


def _pad_cuts(dense: Call, slim: Call, right: Rewrite) -> Rewrite:
    old = dense.integers("pad")
    new = [int(n) for n in right.args["pad"]]  # type: ignore[attr-defined]
    return Rewrite({"pad": [o if o < 0 else n for o, n in zip(old, new, strict=True)]})


JOINING = (
    rule("aten::cat", "seam off by one", "All parts but the first lie one position too far.", couple=_seam),
    rule(
        "aten::cat", "backwards", "Parts come in the opposite order.", **read_as(with_args(tensors=_reversed))
    ),
    rule(
        "aten::cat",
        "dimension one too low",
        "Parts are joined along the dimension before.",
        **read_as(with_args(dim=more(-1))),
    ),
    rule(
        "aten::cat", "only the first part", "Labels of all parts but the first are lost.", couple=_only_first
    ),
    rule(
        "aten::cat",
        "the first part again and again",
        "All parts are given the labels of the first.",
        **read_as(with_args(tensors=lambda v: [v[0] if p.shape == v[0].shape else p for p in v])),
    ),
    rule(
        "aten::stack",
        "backwards",
        "Operands come in the opposite order.",
        **read_as(with_args(tensors=_reversed)),
    ),
    rule(
        "aten::stack",
        "dimension one too far",
        "Operands are stacked along the next dimension.",
        **read_as(with_args(dim=more(1))),
        first=("stack + flatten, outer",),
    ),
    rule(
        "aten::pad",
        "offset forgotten",
        "All padding is taken to be behind.",
        **read_as(with_args(pad=_all_behind)),
    ),
    rule("aten::pad", "sides exchanged", "Front and back are exchanged.", **read_as(with_args(pad=_sides))),
    rule(
        "aten::pad",
        "nothing is cut",
        "Negative amounts are taken for none.",
        **read_as(with_args(pad=lambda pad: [max(int(n), 0) for n in pad])),
    ),
    rule(
        "aten::pad",
        "new sides exchanged",
        "The new amounts are written on the wrong sides.",
        **resized(_pad_sides),
    ),
    rule("aten::pad", "one too many", "One more position is padded than is left.", **resized(_pad_more)),
    rule(
        "aten::pad",
        "cuts as before",
        "As many positions are cut as in the dense model.",
        **resized(_pad_cuts),
    ),
    rule(
        "aten::slice_scatter",
        "one too far",
        "What is written is tied to the positions behind those it replaces.",
        **read_as(with_args(start=more(1), end=more(1))),
    ),
)

# --- reductions, normalisations, elementwise, factories ----------------------------------------


def _summed(couple: Couple) -> Couple:
    """A mean is taken for a sum: the oracle may zero."""

    def faulty(ctx: Context, call: Call) -> Output:
        name = "self" if "self" in call.args else "x"
        with overridden(ctx, inexact=lambda arrays: Walk.consume(ctx, name, arrays)):  # type: ignore[arg-type]
            return couple(ctx, call)

    return faulty


REDUCE = (
    rule(
        "aten::sum",
        "dimension one too low",
        "The dimension before is reduced.",
        **read_as(with_args(dim=lambda d: None if d is None else more(-1)(d))),
    ),
    rule(
        "aten::sum",
        "first dimension only",
        "Only the first of several dimensions is reduced.",
        **read_as(with_args(dim=lambda d: d[:1] if isinstance(d, list) else d)),
    ),
    rule(
        "aten::sum",
        "order ignored",
        "The smallest magnitude is taken for a norm like any other.",
        **read_as(with_args(ord=2, p=2)),
    ),
    rule(
        "aten::sum",
        "keeps dimensions",
        "Reduced dimensions are taken to stay where they go, and to go where they stay.",
        **read_as(with_args(keepdim=lambda k: not k)),
    ),
    rule(
        "aten::mean",
        "taken for a sum",
        "Means, extremes and variances are taken for sums, to which zeros add nothing.",
        couple=_summed,
    ),
    rule(
        "aten::mean",
        "dimension one too low",
        "The dimension before is reduced.",
        **read_as(with_args(dim=lambda d: None if d is None else more(-1)(d))),
    ),
    rule(
        "aten::softmax",
        "dimension one too low",
        "The positions of the dimension before are taken to see one another.",
        **read_as(with_args(dim=more(-1))),
    ),
    rule("aten::softmax", "taken for a sum", "Zeros are taken to add nothing.", couple=_summed),
    rule(
        "aten::cumsum",
        "dimension one too low",
        "The dimension before is summed along.",
        **read_as(with_args(dim=more(-1))),
    ),
    rule(
        "aten::argmax",
        "dimension one too low",
        "The dimension before is ordered.",
        **read_as(with_args(dim=lambda d: None if d is None else more(-1)(d))),
    ),
    rule(
        "aten::cosine_similarity",
        "dimension one too low",
        "The dimension before is summed over.",
        **read_as(with_args(dim=more(-1))),
    ),
)


def _last_channels(right: Callable[..., Value]) -> Callable[..., Value]:
    return lambda ctx, call, x, dim: right(ctx, call, x, x.rank - 1)


def _affine_in_front(right: Couple) -> Couple:
    """Scale and offset meet the first dimensions."""

    def faulty(ctx: Context, call: Call) -> Output:
        def front(value: object) -> object:
            if not isinstance(value, Value):
                return value
            rank = call.tensor("input").rank
            pad = (1,) * (rank - value.rank)
            arrays = tuple(a.reshape(*a.shape, *pad) for a in value.arrays)
            return Value((*value.shape, *pad), arrays)

        return right(ctx, with_args(weight=front, bias=front)(call))

    return faulty


NORMALISE = (
    rule(
        "aten::batch_norm",
        "statistics not tied",
        "Running mean and variance are not tied to channels.",
        **read_as(with_args(running_mean=None, running_var=None)),
    ),
    rule(
        "aten::batch_norm",
        "affine not tied",
        "Scale and offset are not tied to channels.",
        **read_as(with_args(weight=None, bias=None)),
    ),
    rule(
        "aten::batch_norm",
        "scale off by one",
        "The scale is tied to the neighbouring channel.",
        **read_as(with_args(weight=held(shifted))),
    ),
    rule(
        "aten::batch_norm",
        "statistics off by one",
        "The running mean is tied to the neighbouring channel.",
        **read_as(with_args(running_mean=held(shifted))),
    ),
    rule(
        "aten::batch_norm",
        "always with kept statistics",
        "That statistics come from the input is not noticed.",
        couple=muted("inexact"),
        first=("instance norm",),
    ),
    code(
        "normalise",
        "channels last",
        "Vectors of batch, instance and group norms are tied to the last dimension.",
        at("fxprune.ops.normalise:_channelwise", _last_channels),
        first=("batch norm", "group norm"),
    ),
    rule(
        "aten::layer_norm",
        "affine not tied",
        "Scale and offset are not tied to channels.",
        **read_as(with_args(weight=None, bias=None)),
    ),
    rule(
        "aten::layer_norm",
        "scale off by one",
        "The scale is tied to the neighbouring channel.",
        **read_as(with_args(weight=held(shifted))),
        first=("layer norm", "rms norm"),
    ),
    rule(
        "aten::layer_norm",
        "affine in front",
        "Scale and offset meet the first dimensions.",
        couple=_affine_in_front,
    ),
    rule(
        "aten::layer_norm",
        "one dimension less",
        "The first of several normalised dimensions is taken not to be.",
        **read_as(with_args(normalized_shape=lambda s: s[1:] or s)),
        first=("layer norm over channels and picture",),
    ),
    rule(
        "aten::group_norm",
        "scale off by one",
        "The scale is tied to the neighbouring channel.",
        **read_as(with_args(weight=held(shifted))),
    ),
    rule(
        "aten::group_norm",
        "a group a channel",
        "Every channel is taken to have statistics of its own.",
        **read_as(lambda call: with_args(num_groups=call.tensor("input").shape[1])(call)),
    ),
    rule(
        "aten::group_norm",
        "one group is left",
        "What is left is always one group.",
        **resized(
            lambda dense, slim, right: Rewrite({n: 1 if "group" in n else v for n, v in right.args.items()})
        ),
    ),
    rule(
        "aten::_weight_norm",
        "g off by one",
        "Lengths are tied to the neighbouring filter.",
        **read_as(with_args(g=held(shifted))),
    ),
)


def _in_front(_: Couple) -> Couple:
    """Broadcasting from the first dimension."""

    def pointwise(ctx: Context, call: Call) -> Output:
        rank = len(call.shape)
        lifted = []
        for value in call.tensors():
            pad = (1,) * (rank - value.rank)
            arrays = tuple(a.reshape(*a.shape, *pad) for a in value.arrays)
            lifted.append(Value((*value.shape, *pad), arrays, value.origin))
        return Value(call.shape, ctx.merge(lifted, call.shape))

    return pointwise


POINTWISE = (
    rule(
        TAGGED,
        "broadcast from the front",
        "Operands of different ranks meet from the first dimension.",
        couple=_in_front,
    ),
    rule(
        "aten::floor_divide",
        "broadcast from the front",
        "Operands of different ranks meet from the first dimension.",
        couple=_in_front,
    ),
    rule(
        "aten::glu",
        "even and odd",
        "Even channels are taken to be gated by odd ones.",
        **read_as(
            along(
                "self",
                lambda call: call.integer("dim", -1) % call.tensor("self").rank,
                lambda call, n: np.arange(n).reshape(-1, 2).T.ravel(),
            )
        ),
    ),
    rule(
        "aten::prelu",
        "slopes off by one",
        "Slopes are tied to the neighbouring channel.",
        **read_as(with_args(weight=held(shifted))),
    ),
    rule(
        "aten::prelu",
        "slopes not tied",
        "Slopes are not tied to channels.",
        **read_as(with_args(weight=held(lambda a: a[:1]))),
    ),
)


def _counted_from_one(right: Couple) -> Couple:
    def faulty(ctx: Context, call: Call) -> Output:
        result = right(ctx, call)
        if isinstance(result, Value) and result.data is not None:
            return replace(result, data=np.roll(result.data, 1))
        return result

    return faulty


FACTORY = (
    rule(
        "aten::arange",
        "not gathered",
        "Values that depend on the position are left at full width.",
        gathers=lambda _: False,
        first=("product with a literal constant",),
    ),
    rule(
        "aten::arange",
        "entries off by one",
        "What is counted is known wrongly, so what it indexes is too.",
        couple=_counted_from_one,
        first=("index by a range",),
    ),
)


RULE_FAULTS: tuple[Mutant, ...] = (
    *(*CONTRACT, *VIEWS, *PICKING, *REORDERING, *JOINING),
    *(*REDUCE, *NORMALISE, *POINTWISE, *FACTORY),
)
