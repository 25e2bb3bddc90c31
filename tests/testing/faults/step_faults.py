"""Seeded faults behind the rules: in the walk, in closing ties, in resizing, slicing and cutting, in costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from fxprune import labels
from fxprune.coupling.groups import Block
from fxprune.coupling.walk import Walk
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Context, Output, Rewrite, Scaled, Value
from fxprune.ops.scaling import FIRST, Scaling
from fxprune.resizing.resolve import Gather, Resolution
from fxprune.testing.mutation.mutant import Mutant, at, code, rule
from fxprune.testing.mutation.slips import muted, overridden

Method = Callable[..., object]


def made_by_all(_: Method) -> Method:
    """No label is padding that met nothing."""
    return lambda walk, array: np.zeros(np.shape(array), bool)


def nothing(_: Method) -> Method:
    """A function that does nothing."""
    return lambda *args, **kwargs: None


def silently(*names: str) -> Callable[[Method], Method]:
    """A method of the walk that does not say these things."""

    def make(right: Method) -> Method:
        def faulty(walk: Walk, *args: object, **kwargs: object) -> object:
            with overridden(walk, **dict.fromkeys(names, lambda *_: None)):
                return right(walk, *args, **kwargs)

        return faulty

    return make


# --- the walk ----------------------------------------------------------------------------------


def _first_operand(right: Method) -> Method:
    """An unknown operator hands the labels of its first operand on."""

    def unknown(walk: Walk, node: fx.Node, operands: Sequence[Value], why: str = "") -> Output:
        with overridden(walk, pin=lambda *_: None):
            result = right(walk, node, operands, why)
        first = next(iter(operands), None)
        if isinstance(result, Value) and first is not None and first.shape == result.shape:
            return first
        return result  # type: ignore[return-value]

    return unknown


def _without_aliases(right: Method) -> Method:
    """Every name of a tied tensor has labels of its own."""

    def run(walk: Walk, *args: object, **kwargs: object) -> object:
        known, walk.trace = walk.trace, replace(walk.trace)
        walk.trace.__dict__["aliases"] = {name: name for name in known.aliases}
        try:
            return right(walk, *args, **kwargs)
        finally:
            walk.trace = known

    return run


def _rows_turned(right: Method) -> Method:
    """Rows and columns of layouts are named in the opposite order."""

    def project(walk: Walk, array: IntArray, dims: Sequence[int]) -> IntArray:
        found = right(walk, array, dims)
        assert isinstance(found, np.ndarray)
        return found if found is array else np.flip(found, varying(found)[:1])

    return project


def _columns_forgotten(right: Method) -> Method:
    """Columns of a layout get new labels every time."""

    def project(walk: Walk, array: IntArray, dims: Sequence[int]) -> object:
        for layout in walk.layouts:
            layout.columns = None
        return right(walk, array, dims)

    return project


def _next_item(right: Method) -> Method:
    """Of several results the next one is taken."""

    def call(walk: Walk, node: fx.Node) -> object:
        found = right(walk, node)
        if getattr(node.target, "__name__", "") != "getitem":
            return found
        source, index = walk.values.get(node.args[0]), node.args[1]  # type: ignore[arg-type]
        assert isinstance(source, list) and isinstance(index, int)
        return source[(index + 1) % len(source)]

    return call


def _first_line(right: Method) -> Method:
    """Where shapes broadcast only the first positions are tied."""

    def tie(walk: Walk, a: IntArray, b: IntArray) -> object:
        if a.shape == b.shape:
            return right(walk, a, b)
        n = min(a.size, b.size)
        return right(walk, a.ravel()[:n], b.ravel()[:n])

    return tie


def _once(right: Method) -> Method:
    """Only the first thing that a call consumes is noted."""

    def consume(walk: Walk, argument: str, arrays: Sequence[IntArray]) -> object:
        return None if walk.node in walk.consumed else right(walk, argument, arrays)

    return consume


def _blurring_only(_: Method) -> Method:
    def inexact(walk: Walk, arrays: Sequence[IntArray]) -> None:
        walk.blurred.extend(a.ravel() for a in arrays)

    return inexact


def _restricting_only(right: Method) -> Method:
    def inexact(walk: Walk, arrays: Sequence[IntArray]) -> None:
        before = len(walk.blurred)
        right(walk, arrays)
        del walk.blurred[before:]

    return inexact


def _whole_axes_only(right: Method) -> Method:
    """Arrays over different axes are not tied where they meet."""

    def meet(walk: Walk, result: list[IntArray], array: IntArray, count: int) -> object:
        alike = all(varying(o) in (varying(array), ()) for o in result[:count])
        with overridden(walk, **({} if alike else {"tie": lambda *_: None})):
            return right(walk, result, array, count)

    return meet


WALK = (
    code(
        "walk",
        "meeting ties nothing",
        "Operands that meet elementwise are not tied.",
        at("fxprune.coupling.meeting:_meet", silently("tie")),
        first=("padded shortcut",),
    ),
    code(
        "walk",
        "layouts do not meet",
        "Operands that lie over different axes are not tied where they meet.",
        at("fxprune.coupling.meeting:_meet", _whole_axes_only),
        first=("radix view + sum", "split attention", "grouped convolution"),
    ),
    code(
        "walk",
        "data pins nothing",
        "What meets an axis without units (the model's input, positions) is not pinned.",
        at("fxprune.coupling.meeting:_pin_against", nothing),
        first=("product with the input's width",),
    ),
    code(
        "walk",
        "outputs pin nothing",
        "The widths of the model's outputs are not kept.",
        at("fxprune.coupling.walk:Walk._pin_outputs", nothing),
        first=("output of full width",),
    ),
    code(
        "walk",
        "unknown operators pass",
        "An operator without a rule hands labels on in silence.",
        at("fxprune.coupling.walk:Walk._unknown", _first_operand),
        first=("a transform without rule", "LSTM"),
    ),
    code(
        "walk",
        "unknown operators swallow",
        "What reaches an operator without a rule is neither pinned nor handed on.",
        at("fxprune.coupling.walk:Walk._unknown", silently("pin")),
        first=("a transform without rule", "LSTM"),
    ),
    code(
        "walk",
        "tied tensors are several",
        "A tensor with two names has labels for each of them.",
        at("fxprune.coupling.walk:Walk.run", _without_aliases),
        first=("one weight under two names",),
    ),
    code(
        "walk",
        "rows and columns are one axis",
        "A position that has a row and a column is tied to both.",
        at("fxprune.coupling.meeting:_composed", lambda _: lambda walk, operands: operands),
        first=("outer product of channels", "gram matrix of channels"),
    ),
    code(
        "walk",
        "rows in the opposite order",
        "Rows and columns of a layout are named from the last to the first.",
        at("fxprune.coupling.walk:Walk.project", _rows_turned),
        first=("grouped convolution", "multi-head attention, heads"),
    ),
    code(
        "walk",
        "columns forgotten",
        "Columns of a layout get new labels every time.",
        at("fxprune.coupling.walk:Walk.project", _columns_forgotten),
        first=("grouped convolution", "channel shuffle, hard-coded sizes"),
    ),
    code(
        "walk",
        "turned layouts are new ones",
        "A layout that was transposed is not recognised.",
        at("fxprune.coupling.layouts:permutations", lambda _: lambda dims: [tuple(dims)]),
        first=(
            "channel shuffle, hard-coded sizes",
            "multi-head attention, heads",
            "grouped convolution, two channels gate all, shuffled",
        ),
    ),
    code(
        "walk",
        "the next item",
        "Of several results the next one is taken.",
        at("fxprune.coupling.walk:Walk._call", _next_item),
        first=("chunk, swapped cat",),
    ),
    code(
        "walk",
        "ties do not broadcast",
        "Where shapes differ only the first positions are tied.",
        at("fxprune.coupling.walk:Walk.tie", _first_line),
        first=("pixel_shuffle",),
    ),
    code(
        "walk",
        "consumes once",
        "Only the first operand in which a call sums over units is noted.",
        at("fxprune.coupling.walk:Walk.consume", _once),
        first=("cosine similarity",),
    ),
    code(
        "walk",
        "inexact operators see zeros",
        "The oracle is not told to compute statistics over what is left.",
        at("fxprune.coupling.walk:Walk.inexact", _blurring_only),
        first=("layer norm",),
    ),
    code(
        "walk",
        "all groups are exact",
        "That removing units changes others is kept from whoever asks.",
        at("fxprune.coupling.walk:Walk.inexact", _restricting_only),
        first=("layer norm",),
    ),
    code(
        "walk",
        "training parts not followed",
        "Parts that only run in training do not follow the widths of the trunk.",
        at(
            "fxprune.coupling.walk:Walk.run",
            lambda right: (
                lambda walk, graph, counting: right(walk, graph, counting=counting) if counting else None
            ),
        ),
        first=("auxiliary head",),
    ),
    code(
        "walk",
        "sizes are numbers",
        "Sizes that follow the batch are written down as numbers.",
        at(
            "fxprune.coupling.binding:_argument",
            lambda right: lambda raw, name, values, symbolic: right(raw, name, values, set()),
        ),
        first=("one batch and width in one size",),
    ),
)

# --- labels and coupling -----------------------------------------------------------------------


def _collapsed(right: Method) -> Method:
    """Labels are taken to be constant along what was merged or split."""

    def collapse(array: IntArray, dims: Sequence[int] | None = None) -> IntArray:
        for d in varying(array) if dims is None else list(dims)[-1:]:
            array = array.take([0], axis=d)
        return array

    return collapse


def _ragged(right: Method) -> Method:
    """Rows need not keep equally many."""

    def nested_shape(mask: np.ndarray) -> object:
        found = right(mask)
        if found is not None:
            return found
        rows = mask.reshape(-1, mask.shape[-1]).sum(axis=1)
        return (int((rows > 0).sum()), int(rows.max()))

    return nested_shape


def _neighbours(_: Method) -> Method:
    """Ties are closed over one step only."""

    def components(size: int, left: IntArray, right: IntArray) -> IntArray:
        found = np.arange(size, dtype=np.int64)
        np.minimum.at(found, np.maximum(left, right), np.minimum(left, right))
        return np.unique(found, return_inverse=True)[1].astype(np.int64)

    return components


def _plain_blocks(right: Method) -> Method:
    def blocks(*args: object) -> list[Block]:
        return [replace(b, columns=None) for b in right(*args)]  # type: ignore[attr-defined]

    return blocks


COUPLE = (
    code(
        "couple",
        "all merged labels constant",
        "Labels are taken to be constant along the last dimension of a view.",
        at("fxprune.labels:collapse", _collapsed),
        first=("flatten, linear, unflatten",),
    ),
    code(
        "couple",
        "ragged layouts",
        "Rows of a layout may keep different numbers of units.",
        at("fxprune.labels:nested_shape", _ragged),
        at("fxprune.coupling.closing:_blocks", lambda _: lambda walk, units: []),
        first=("grouped convolution",),
    ),
    code(
        "couple",
        "equal counts not asked for",
        "Layouts are no constraints.",
        at("fxprune.coupling.closing:_blocks", lambda _: lambda walk, units: []),
        first=("grouped convolution",),
    ),
    code(
        "couple",
        "columns not asked for",
        "Layouts need not keep the same positions in every row.",
        at("fxprune.coupling.closing:_blocks", _plain_blocks),
        first=("radix view + sum", "channel shuffle, hard-coded sizes"),
    ),
    code(
        "couple",
        "outer levels forgotten",
        "Of nested layouts only the innermost rows are constraints.",
        at("fxprune.coupling.layouts:Layout.levels", lambda right: lambda layout: right(layout)[:1]),
        first=("view of three levels and back",),
    ),
    code(
        "couple",
        "layouts without rows",
        "Layouts whose rows no rule asks for are not registered.",
        at("fxprune.coupling.closing:_register_layouts", nothing),
        first=("view + sum of rows and columns",),
    ),
    code(
        "couple",
        "equal rows are several",
        "Rows of the same cells are not one row.",
        at("fxprune.coupling.closing:_equal_rows", lambda _: lambda walk, units: np.zeros((0, 2), np.int64)),
        first=("grouped-query attention, queries", "grouped convolution"),
    ),
    code(
        "couple",
        "first tie forgotten",
        "The first of all ties is left out.",
        at("fxprune.labels:components", lambda right: lambda n, a, b: right(n, a[1:], b[1:])),
        first=("identity",),
    ),
    code(
        "couple",
        "ties close over one step",
        "What is tied to what is tied is not tied.",
        at("fxprune.labels:components", _neighbours),
        first=("batch norm", "norm used twice"),
    ),
    code(
        "couple",
        "pins do not spread",
        "A row with a cell that must stay may go.",
        at(
            "fxprune.coupling.closing:_pins",
            lambda right: lambda walk, units, n, blocks: right(walk, units, n, []),
        ),
        first=("grouped convolution, two channels gate all, shuffled",),
    ),
    code(
        "couple",
        "idle units may go",
        "Units that no layer makes or reads are not pinned.",
        at("fxprune.coupling.closing:_pin_idle", nothing),
        first=("position table longer than the input",),
    ),
    code(
        "couple",
        "padding may go",
        "Padding that only readers know is not pinned.",
        at("fxprune.coupling.closing:_pin_padding", nothing),
        first=("padding counted after a layer reads it",),
    ),
    code(
        "walk",
        "padding is made by nobody",
        "Padding that is counted before a layer makes something of it is not pinned.",
        at("fxprune.coupling.walk:Walk._unmade", made_by_all),
        first=("padding counted before a depthwise layer reads it",),
    ),
    code(
        "couple",
        "parameters cost nothing",
        "The cost model counts no parameters.",
        at("fxprune.coupling.walk:Walk.count_parameters", nothing),
        first=("identity",),
    ),
)

# --- resizing, slicing, running ----------------------------------------------------------------


def _one_further(right: Method) -> Method:
    def positions(dense: Value, slim: Value, dim: int) -> IntArray:
        found = right(dense, slim, dim)
        assert isinstance(found, np.ndarray)
        return (found + 1) % dense.shape[dim] if len(found) < dense.shape[dim] else found

    return positions


def _gathered(change: Callable[[IntArray], IntArray]) -> Callable[[Method], Method]:
    def make(right: Method) -> Method:
        def gather(*args: object) -> Gather:
            found = right(*args)
            assert isinstance(found, Gather)
            return replace(found, index=change(found.index.ravel()).reshape(found.index.shape))

        return gather

    return make


def _first_ones(right: Method) -> Method:
    def sliced(tensor: object, name: str, found: Resolution) -> object:
        kept = {axis: tuple(range(len(index))) for axis, index in found.kept.items()}
        return right(tensor, name, replace(found, kept=kept))

    return sliced


def _first_dimension(right: Method) -> Method:
    def sliced(tensor: object, name: str, found: Resolution) -> object:
        kept = {axis: index for axis, index in found.kept.items() if axis[1] == 0}
        return right(tensor, name, replace(found, kept=kept))

    return sliced


def _same_operator(right: Method) -> Method:
    def effective(*args: object) -> Rewrite:
        found = right(*args)
        assert isinstance(found, Rewrite)
        return Rewrite(
            {n: v for n, v in found.args.items() if n != "split_sizes"} if found.op else found.args
        )

    return effective


def _scale_turned(right: Method) -> Method:
    def scaled(old: object, new: object, symbolic: bool) -> object:
        found = right(old, new, symbolic)
        return Scaled(found.denominator, found.numerator) if isinstance(found, Scaled) else found

    return scaled


APPLY = (
    code(
        "apply",
        "no movement is checked",
        "Slim movements are taken to do what the dense ones do.",
        at("fxprune.resizing.movement:Movement.expressed_by", lambda _: lambda *args: True),
        first=("x[:, ::2]", "flip", "index permutation, list"),
    ),
    code(
        "apply",
        "what is left is one further",
        "Positions that are left are counted from one.",
        at("fxprune.resizing.resolve:live_positions", _one_further),
        first=("x[:, ::2]", "product with a literal constant"),
    ),
    code(
        "apply",
        "gathers the dense positions",
        "Positions to gather are off by one.",
        at("fxprune.resizing.movement:Movement.gather", _gathered(lambda index: np.roll(index, 1))),
        first=("index permutation, list", "x[:, ::2]"),
    ),
    code(
        "apply",
        "gathers in order",
        "Positions to gather are sorted.",
        at("fxprune.resizing.movement:Movement.gather", _gathered(np.sort)),
        first=("index permutation, list",),
    ),
    code(
        "apply",
        "labels one by one",
        "A position is taken to be left though another label of it is gone.",
        at(
            "fxprune.resizing.resolve:alive_positions",
            lambda _: lambda keep, units, k: keep[units[k]].ravel(),
        ),
        first=("gram matrix of channels",),
    ),
    code(
        "apply",
        "splits stay even",
        "Uneven parts are split by the operator for even ones.",
        at("fxprune.resizing.resolve:_Resolver._effective", _same_operator),
        first=("chunk, swapped cat", "split, swapped cat, uneven"),
    ),
    code(
        "apply",
        "sizes scaled the wrong way",
        "Sizes that follow the batch grow where they should shrink.",
        at("fxprune.resizing.resolve:_scaled", _scale_turned),
        first=("one batch and width in one size",),
    ),
    code(
        "apply",
        "batch written down",
        "Where a width changes in a list of sizes, the batch beside it becomes a number.",
        at(
            "fxprune.resizing.resolve:_scaled",
            lambda _: lambda old, new, symbolic: new if symbolic or old != new else None,
        ),
        first=("channel shuffle, sizes of the input",),
    ),
    code(
        "apply",
        "sizes that follow the batch stay",
        "Sizes that follow the batch are not scaled.",
        at(
            "fxprune.resizing.resolve:_scaled",
            lambda right: lambda old, new, symbolic: None if symbolic else right(old, new, symbolic),
        ),
        first=("one batch and width in one size",),
    ),
    code(
        "apply",
        "inner levels first",
        "Layouts are filtered as if they nested the other way round.",
        at(
            "fxprune.labels:filtered",
            lambda right: lambda array, live, order: right(array, live, order[::-1]),
        ),
        first=("grouped convolution", "grouped-query attention, queries"),
    ),
    code(
        "apply",
        "the first ones stay",
        "Tensors keep as many indices as they should, but the first ones.",
        at("fxprune.slimming.graph_copy:_sliced", _first_ones),
        first=("identity",),
    ),
    code(
        "apply",
        "outputs only",
        "Tensors are sliced along their first dimension only.",
        at("fxprune.slimming.graph_copy:_sliced", _first_dimension),
        first=("identity",),
    ),
    code(
        "apply",
        "gathers forgotten",
        "Gathers are not written into the graph.",
        at("fxprune.slimming.graph_copy:_apply_gather", nothing),
        first=("index permutation, list",),
    ),
    code(
        "apply",
        "copies are trusted",
        "The user's module is taken whether it computes the same or not.",
        at("fxprune.slimming.slim:_difference", lambda _: lambda *args: ""),
        first=("x[:, :4]", "x[:, -5:-1]"),
    ),
    code(
        "apply",
        "mean and variance exchanged",
        "The stand-in for batch norm exchanges mean and variance.",
        at(
            "fxprune.graph.shims:BatchNorm.forward",
            lambda right: (
                lambda shim, x, weight, bias, mean, variance, count=None: right(
                    shim, x, weight, bias, variance, mean, count
                )
            ),
        ),
        first=("batch norm",),
    ),
    code(
        "apply",
        "scale forgotten",
        "The stand-in for batch norm forgets the scale.",
        at(
            "fxprune.graph.shims:BatchNorm.forward",
            lambda right: (
                lambda shim, x, weight, bias, mean, variance, count=None: right(
                    shim, x, None, bias, mean, variance, count
                )
            ),
        ),
        first=("batch norm",),
    ),
    code(
        "apply",
        "dropout always drops",
        "The stand-in for dropout drops in evaluation too.",
        at("fxprune.graph.shims:Dropout.forward", lambda right: lambda shim, x: right(shim.train(), x)),
        first=("dropout of channels",),
    ),
)


# --- structures --------------------------------------------------------------------------------


def _wrong_side(right: Method) -> Method:
    def padded(graph: fx.Graph, operand: fx.Node, margins: list[int], behind: int, join: fx.Node) -> object:
        return right(graph, operand, margins[::-1], behind, join)

    return padded


def _other_operand(right: Method) -> Method:
    def bypass(join: fx.Node, gone: set[fx.Node]) -> object:
        operands = [a for a in join.all_input_nodes if a not in gone]
        return right(join, set(operands) or gone)

    return bypass


STRUCTURES = (
    code(
        "structures",
        "gaps on the wrong side",
        "Zeros in the place of a branch are put on the other side of its neighbour.",
        at("fxprune.structures.cut:_padded", _wrong_side),
        first=("cut: inception",),
    ),
    code(
        "structures",
        "no gaps",
        "Nothing takes the place of a branch.",
        at("fxprune.structures.cut:_padded", lambda _: lambda graph, operand, *others: operand),
        first=("cut: inception",),
    ),
    code(
        "structures",
        "the shortcut is cut",
        "Of a sum the operand that should go stays.",
        at("fxprune.structures.cut:_bypass", _other_operand),
        first=("cut: cifar",),
    ),
)


def _scaled(**rows: Scaling | None) -> Callable[[object], object]:
    def make(table: object) -> object:
        assert isinstance(table, dict)
        return {**table, **{f"aten::{name}": row for name, row in rows.items()}}

    return make


def _scaling(name: str, broken: str, **rows: Scaling | None) -> Mutant:
    where = at("fxprune.ops.scaling:_TABLE", _scaled(**rows))
    nets = ("cut: cifar", "cut: vit", "cut: factors")
    return code("scaling", name, broken, where, first=nets)


SCALING = (
    _scaling(
        "offsets stay",
        "The offset of a norm is not multiplied by the factor.",
        batch_norm=Scaling("all", ("weight",), needs=("weight",)),
        layer_norm=Scaling("all", ("weight",), needs=("weight",)),
    ),
    _scaling(
        "biases stay",
        "The bias of a layer is not multiplied by the factor.",
        linear=Scaling("all", ("weight",), needs=("weight",)),
        conv2d=Scaling("all", ("weight",), needs=("weight",)),
    ),
    _scaling("one summand", "Only one summand takes the factor.", add=Scaling("any", ("self", "other"))),
    _scaling(
        "both factors", "Both factors of a product take the factor.", mul=Scaling("all", ("self", "other"))
    ),
    _scaling("passes gelu", "A factor is taken to pass through gelu and sigmoid.", gelu=FIRST, sigmoid=FIRST),
)


# --- costs -------------------------------------------------------------------------------------


def _undivided(right: Callable[[Context, object], Output]) -> Callable[[Context, object], Output]:
    def faulty(ctx: Context, call: object) -> Output:
        def macs(constant: float, arrays: Sequence[IntArray], divisor: IntArray | None = None) -> None:
            Walk.macs(ctx, constant, arrays)  # type: ignore[arg-type]

        with overridden(ctx, macs=macs):
            return right(ctx, call)

    return faulty


def _uncounted(op: str, net: str) -> Mutant:
    return rule(
        op, "costs nothing", "Its multiplications are not counted.", couple=muted("macs"), first=(net,)
    )


COST = (
    _uncounted("aten::conv2d", "identity"),
    _uncounted("aten::linear", "flatten, linear, unflatten"),
    _uncounted("aten::matmul", "gram matrix of channels"),
    _uncounted("aten::scaled_dot_product_attention", "multi-head attention, heads"),
    rule(
        "aten::conv2d",
        "groups cost as one",
        "Every group is taken to read the inputs of all.",
        couple=_undivided,
        first=("grouped convolution",),
    ),
)

STEP_FAULTS: tuple[Mutant, ...] = (
    *(*WALK, *COUPLE, *APPLY, *STRUCTURES, *SCALING),
    *(replace(m, family="cost") for m in COST),
)

_ = labels
