"""Which channels of an ONNX graph are the same channels: what widens one tensor must widen the others.

A *stream* is a set of tensors whose second dimension is the same channels, and the places where weights make, read
or scale them.  Streams that anything touches which is not understood here (a concat, a reshape, an output of the model)
are not free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from fxprune.onnx.graph_edits import constant, integer, sizes

__all__ = ["Place", "Stream", "streams"]

_EACH = {
    *("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Clip", "Tanh", "Elu", "Gelu", "Softplus"),
    *("Identity", "Erf", "Mish", "Swish", "Celu", "Selu", "Softsign", "Neg", "Abs", "Exp"),
}
"""Operators that work on every number alone."""

_POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
_PAIRS = {"Add", "Mul", "Sub", "Div", "Max", "Min"}


@dataclass(frozen=True, eq=False)
class Place:
    """Where a weight holds channels of a stream.

    Attributes:
        node: Who uses the weight.
        position: Which input of the node it is.
        dim: Its dimension along which the channels lie.
        group: Channels that are added together: those of one group of a grouped convolution, else 1.
    """

    node: ir.Node
    position: int
    dim: int
    group: int = 1


@dataclass(eq=False)
class Stream:
    """Channels that are the same.

    Attributes:
        width: How many there are.
        places: Weights that hold them.
        values: Tensors whose second dimension they are.
        free: Everything that touches them is understood.
    """

    width: int
    places: list[Place] = field(default_factory=list)
    values: list[ir.Value] = field(default_factory=list)
    free: bool = True


class _Walk:
    """One pass over the nodes: which values have the same channels, and which weights hold them."""

    def __init__(self) -> None:
        self.parent: dict[ir.Value, ir.Value] = {}
        self.held: list[tuple[ir.Value, Place]] = []
        self.fixed: list[ir.Value] = []

    def root(self, value: ir.Value) -> ir.Value:
        self.parent.setdefault(value, value)
        while self.parent[value] is not value:
            self.parent[value] = value = self.parent[self.parent[value]]
        return value

    def same(self, *values: ir.Value) -> None:
        first, *others = map(self.root, values)
        for other in others:
            self.parent[other] = first

    def hold(self, value: ir.Value, node: ir.Node, position: int, dim: int, group: int = 1) -> None:
        self.held.append((value, Place(node, position, dim, group)))


def streams(graph: ir.Graph) -> list[Stream]:
    """All streams of a graph that some weight holds."""
    walk = _Walk()
    if any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for n in graph
        for a in n.attributes.values()
    ):
        return []  # branches and loops read values that no node names as its input
    for value in (*graph.inputs, *graph.outputs):
        walk.fixed.append(value)
    for node in graph:
        rule = _RULES.get(node.op_type, _unknown) if node.domain == "" else _unknown
        rule(walk, node)
    by_root: dict[ir.Value, Stream] = {}
    for value in list(walk.parent):
        by_root.setdefault(walk.root(value), Stream(0)).values.append(value)
    for value, place in walk.held:
        by_root[walk.root(value)].places.append(place)
    for value in walk.fixed:
        if value in walk.parent:
            by_root[walk.root(value)].free = False
    for stream in by_root.values():
        widths = {shape[1] for v in stream.values if (shape := sizes(v)) is not None and len(shape) > 1}
        known = all((s := sizes(v)) is not None and len(s) > 1 for v in stream.values)
        stream.width = next((w for w in widths if w is not None), 0)
        stream.free &= known and len(widths) == 1 and stream.width > 1 and _alone(stream.places)
    return [stream for stream in by_root.values() if stream.places]


def _alone(places: Sequence[Place]) -> bool:
    """Whether every weight is read at one place only: a shared one would have to suit all."""
    weights = [place.node.inputs[place.position] for place in places]
    return all(w is not None and len(w.uses()) == 1 for w in weights)


def _unknown(walk: _Walk, node: ir.Node) -> None:
    walk.fixed.extend(v for v in (*_data(node), *node.outputs))


def _data(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs that are no constants."""
    return (v for v in node.inputs if v is not None and constant(v) is None)


def _each(walk: _Walk, node: ir.Node) -> None:
    data = list(_data(node))
    if len(data) == 1 and data[0] is node.inputs[0]:
        walk.same(data[0], node.outputs[0])
    else:
        _unknown(walk, node)


def _pool(walk: _Walk, node: ir.Node) -> None:
    first, *others = node.outputs
    walk.same(next(_data(node)), first)
    walk.fixed.extend(others)


def _pair(walk: _Walk, node: ir.Node) -> None:
    """Of two tensors with channels; or of one and a constant, a number or one for every channel."""
    (out,) = node.outputs
    shape = sizes(out)
    if shape is None or len(shape) < 2:
        return _unknown(walk, node)
    for position, value in enumerate(node.inputs):
        assert value is not None
        own = sizes(value)
        if own is None:
            return _unknown(walk, node)
        aligned = [1] * (len(shape) - len(own)) + list(own)
        if aligned[1] == 1 and shape[1] != 1:
            if constant(value) is None:
                walk.fixed.append(value)  # one channel for all of them: not these channels
        elif constant(value) is None:
            walk.same(value, out) if len(own) == len(shape) else walk.fixed.extend((value, out))
        elif node.op_type == "Div" and position == 1:
            walk.fixed.append(out)  # zeros would be divided by
        else:
            walk.hold(walk.root(out), node, position, 1 - (len(shape) - len(own)))
    return None


def _conv(walk: _Walk, node: ir.Node) -> None:
    data, weight = node.inputs[0], constant(node.inputs[1])
    (out,) = node.outputs
    assert data is not None
    if weight is None or any(v is not None and constant(v) is None for v in node.inputs[2:]):
        return _unknown(walk, node)
    groups = integer(node, "group", 1)
    bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if groups == 1:
        walk.hold(walk.root(data), node, 1, 1)
        walk.hold(walk.root(out), node, 1, 0)
    elif weight.shape[0] == groups * weight.shape[1]:  # as many come out as go in
        walk.same(data, out)
        walk.hold(walk.root(out), node, 1, 0, weight.shape[1])
    else:
        return _unknown(walk, node)
    if bias:
        walk.hold(walk.root(out), node, 2, 0)
    return None


def _flatten(walk: _Walk, node: ir.Node) -> None:
    """Of pooled images, whose channels stay channels."""
    data = node.inputs[0]
    assert data is not None
    shape = sizes(data)
    if integer(node, "axis", 1) == 1 and shape is not None and all(s == 1 for s in shape[2:]):
        walk.same(data, node.outputs[0])
    else:
        _unknown(walk, node)


def _gemm(walk: _Walk, node: ir.Node) -> None:
    data, weight = node.inputs[0], constant(node.inputs[1])
    assert data is not None
    walk.fixed.append(node.outputs[0])
    if weight is None or integer(node, "transA", 0):
        walk.fixed.append(data)
    else:
        walk.hold(walk.root(data), node, 1, 1 if integer(node, "transB", 0) else 0)


_Rule = Callable[[_Walk, ir.Node], None]
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(_EACH, _each),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_PAIRS, _pair),
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
}
