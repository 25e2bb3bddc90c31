"""Recurrent layers: LSTM, GRU, plain RNN and their cells.

A hidden unit is one row of every stacked gate, ``w_ih [(g h) i]``, ``w_hh [(g h) h]`` and the biases
``[(g h)]``, and one column of what reads it: ``w_hh`` itself, the projection, the next layer's ``w_ih``.
Where those columns are gone nobody sees the unit, so removing it is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.errors import PlanError
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, Context, OpRule, Output, Rewrite, Value
from fxprune.ops.contract import Term, contract
from fxprune.ops.joining import joined

__all__ = ["RULES"]

# Blocks that are stacked along the first dimension of every weight.
GATES = {
    **dict.fromkeys(("aten::lstm", "aten::lstm_cell"), 4),
    **dict.fromkeys(("aten::gru", "aten::gru_cell"), 3),
    **dict.fromkeys(("aten::rnn_tanh", "aten::rnn_relu", "aten::rnn_tanh_cell", "aten::rnn_relu_cell"), 1),
}


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter of a recurrent layer and the argument it comes from.

    Attributes:
        value: Its shape and labels.
        argument: Name for the oracle.
    """

    value: Value
    argument: str


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer in one direction.

    Attributes:
        w_ih: ``[(g h) i]``.
        w_hh: ``[(g h) p]``, where p is h without a projection.
        biases: ``[(g h)]`` each.
        w_hr: The projection ``[p h]``, if there is one.
    """

    w_ih: Weight
    w_hh: Weight
    biases: tuple[Value, ...] = ()
    w_hr: Weight | None = None


def _one_gate(ctx: Context, value: Value, gates: int) -> Value:
    """Row j of every gate is unit j: tie them and go on with those of the first gate."""
    width = value.shape[0] // gates
    arrays = []
    for array in value.arrays:
        if array.shape[0] > 1:
            stacked = array.reshape(gates, width, *array.shape[1:])
            ctx.tie(stacked, stacked[:1])
            array = stacked[0]
            if width == 1:
                ctx.pin([array], "the only hidden unit")
        arrays.append(array)
    return Value((width, *value.shape[1:]), tuple(arrays), value.origin)


def _run(ctx: Context, x: Term, layer: Layer, states: Sequence[Value], gates: int) -> tuple[Value, Value]:
    """One layer in one direction.

    Args:
        ctx: Receives ties, roles, consumption and costs.
        x: What it reads, over the axes t, b and i in any order, without labels along t; a cell has no t.
        layer: Its parameters.
        states: Where it starts: the output ``[b p]`` and, of an LSTM, the cells ``[b h]``.
        gates: Number of stacked gates.

    Returns:
        The output ``[b p]`` of one step and the hidden units ``[b h]``.
    """
    sizes = dict(zip(x.axes, x.value.shape))
    steps = sizes.get("t", 1)
    w_ih, w_hh = (_one_gate(ctx, w.value, gates) for w in (layer.w_ih, layer.w_hh))
    # Nothing varies along time, so one step stands for all.
    terms = [x, Term(w_ih, "hi", layer.w_ih.argument, weight=True)]
    units = contract(ctx, terms, "bh", positions=gates)
    shape = units.shape
    first, *cells = states
    vectors = [_one_gate(ctx, b, gates) for b in layer.biases]
    rows = [Value((1, *v.shape), tuple(a[None] for a in v.arrays), v.origin) for v in vectors]
    units = Value(shape, ctx.merge([units, *rows, *cells], shape))
    output = units
    if layer.w_hr is not None:
        w_hr = layer.w_hr
        output = contract(
            ctx,
            [Term(units, "bh"), Term(w_hr.value, "ph", w_hr.argument, weight=True)],
            "bp",
            positions=steps,
        )
    output = Value(output.shape, ctx.merge([output, first], output.shape))
    terms = [Term(output, "bp"), Term(w_hh, "hp", layer.w_hh.argument, weight=True)]
    again = contract(ctx, terms, "bh", positions=gates * steps)
    return output, Value(shape, ctx.merge([units, again], shape))


# --- whole sequences ---------------------------------------------------------------------------


def _layers(call: Call, projected: bool) -> Iterator[Layer]:
    """The flat list of parameters, layer by layer, the two directions of one after each other."""
    raw = call.args["params"]
    assert isinstance(raw, (list, tuple))
    weights = iter([Weight(v, f"params.{k}") for k, v in enumerate(raw) if isinstance(v, Value)])
    directions = 2 if call.args.get("bidirectional") else 1
    for _ in range(call.integer("num_layers") * directions):
        w_ih, w_hh = next(weights), next(weights)
        biases = (next(weights).value, next(weights).value) if call.args.get("has_biases") else ()
        yield Layer(w_ih, w_hh, biases, next(weights) if projected else None)


def _timeless(ctx: Context, x: Value, dim: int) -> Value:
    """The input without labels along time."""
    ctx.pin([a for a in x.arrays if a.shape[dim] > 1], "a recurrent layer walks along this axis")
    return Value(x.shape, tuple(a for a in x.arrays if a.shape[dim] == 1), x.origin)


def _state(ctx: Context, value: Value, number: int) -> Value:
    """The part ``[b h]`` of a state ``[layers b h]``."""
    arrays = []
    for array in value.arrays:
        if varying(array) == (0,):
            ctx.pin([array], "layers and directions are told apart by number")
        else:
            arrays.append(array[number if array.shape[0] > 1 else 0])
    return Value(value.shape[1:], tuple(arrays), value.origin)


def _stacked(ctx: Context, parts: Sequence[Value], shape: tuple[int, ...]) -> Value:
    """The states of all layers and directions, one after the other: as many units stay in each."""
    lines = [[a for a in p.arrays if varying(a) == (1,)] for p in parts]
    whole = tuple(a[None] for a in parts[0].arrays if varying(a) == (0,))
    if any(len(line) != 1 for line in lines) or any(len(varying(a)) > 1 for p in parts for a in p.arrays):
        ctx.pin([a for p in parts for a in p.arrays], "layers keep units of different layouts")
        return Value(shape, whole)
    cells: IntArray = np.stack([line[0] for line in lines])
    if len(parts) > 1:
        ctx.nest(cells, (0, 2))
        ctx.pin([ctx.project(cells, (0,))], "layers and directions are told apart by number")
    return Value(shape, (*whole, cells))


def _sequence(ctx: Context, call: Call) -> Output:
    """Several layers, each in one or both directions, over a whole sequence."""
    raw = call.args["hx"]
    states = [v for v in raw if isinstance(v, Value)] if isinstance(raw, list) else [call.tensor("hx")]
    if "input" not in call.args:
        ctx.pin(
            [a for v in call.tensors() for a in v.arrays], "a packed sequence, whose batch shrinks", "unknown"
        )
        assert isinstance(call.out, list)
        return [Value(s) for s in call.out]
    projected = len(states) == 2 and states[0].shape[2] != states[1].shape[2]
    directions = 2 if call.args.get("bidirectional") else 1
    axes = "bti" if call.args.get("batch_first") else "tbi"
    time = axes.index("t")
    x = Term(_timeless(ctx, call.tensor("input"), time), axes, "input")
    outputs: list[Value] = []
    units: list[Value] = []
    for number, layer in enumerate(_layers(call, projected)):
        starts = [_state(ctx, s, number) for s in states]
        output, hidden = _run(ctx, x, layer, starts, GATES[call.op])
        outputs.append(output)
        units.append(hidden)
        if len(outputs) % directions == 0:
            both = joined(ctx, outputs[-directions:], 1)
            shape = (*both.shape[:time], x.value.shape[time], *both.shape[time:])
            x = Term(Value(shape, tuple(np.expand_dims(a, time) for a in both.arrays)), axes)
    assert isinstance(call.out, list)
    ends = [_stacked(ctx, parts, s) for parts, s in zip((outputs, units), call.out[1:])]
    return [Value(call.out[0], x.value.arrays), *ends]


def _keep_projection(dense: Call, slim: Call) -> Rewrite:
    """Torch tells an LSTM with projections by the widths of its two states.

    Raises:
        PlanError: They would become equal.
    """
    before, after = (call.args["hx"] for call in (dense, slim))
    assert isinstance(before, list) and isinstance(after, list)
    if before[0].shape[2] != before[1].shape[2] and after[0].shape[2] == after[1].shape[2]:
        raise PlanError(
            f"an LSTM's projection and its hidden state would both keep {after[0].shape[2]} units",
            op=dense.op,
            advice="torch then takes the projection for none: keep one unit more or less of either",
        )
    return Rewrite()


# --- cells -------------------------------------------------------------------------------------


def _cell(ctx: Context, call: Call) -> Output:
    """One step of one layer."""
    raw = call.args["hx"]
    states = [v for v in raw if isinstance(v, Value)] if isinstance(raw, list) else [call.tensor("hx")]
    biases = tuple(v for n in ("b_ih", "b_hh") if (v := call.optional(n)) is not None)
    layer = Layer(Weight(call.tensor("w_ih"), "w_ih"), Weight(call.tensor("w_hh"), "w_hh"), biases)
    # An LSTM's output and its cells have the same units; a GRU mixes its state into the next one.
    starts = [states[0], *states]
    output, units = _run(ctx, Term(call.tensor("input"), "bi", "input"), layer, starts, GATES[call.op])
    return [output, units] if isinstance(call.out, list) else output


RULES = (
    OpRule(("aten::lstm",), _sequence, _keep_projection, stacked=True),
    OpRule(("aten::gru", "aten::rnn_tanh", "aten::rnn_relu"), _sequence, stacked=True),
    OpRule(("aten::lstm_cell", "aten::gru_cell", "aten::rnn_tanh_cell", "aten::rnn_relu_cell"), _cell),
)
