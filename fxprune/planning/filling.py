"""What an export and a runtime make of a traced graph: channels that can be filled up to whole blocks, nodes that are run.

The widths follow the rules of ``fxprune.onnx.channels``, which decide on the file's own nodes what the padding pass may widen: a stream of
channels is free if only convolutions, operators on every number alone, pools and sums touch it.  A layer norm, a concat, a transposed
convolution, rows made of images or an output of the model fix it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from fxprune.coupling.analysis import Analysis
from fxprune.ops.base import Call, Value
from fxprune.ops.contract import CONVOLUTIONS
from fxprune.ops.sweeps import BATCH_NORM, CHANNELWISE, PAIRS

__all__ = ["fillable", "run_nodes"]

_IMAGE = 4  # dimensions of a tensor with channels and pixels


def run_nodes(analysis: Analysis) -> set[fx.Node]:
    """Nodes that hang on the model's inputs: everything else is computed once, when a file is made or loaded."""
    live: set[fx.Node] = set()
    for node in analysis.trace.graph.graph.nodes:
        if node.op == "placeholder" or any(n in live for n in node.all_input_nodes):
            live.add(node)
    return live


class _Streams:
    """Nodes whose second dimension is the same channels, and those that cannot be widened."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.parent: dict[fx.Node, fx.Node] = {}
        self.fixed: list[fx.Node] = []

    def root(self, node: fx.Node) -> fx.Node:
        self.parent.setdefault(node, node)
        while self.parent[node] is not node:
            self.parent[node] = node = self.parent[self.parent[node]]
        return node

    def same(self, one: fx.Node, other: fx.Node) -> None:
        self.parent[self.root(one)] = self.root(other)

    def channels(self, node: fx.Node) -> int:
        """Of an image; 0 if it is none."""
        value = self.analysis.values.get(node)
        return value.shape[1] if isinstance(value, Value) and len(value.shape) == _IMAGE else 0


def fillable(analysis: Analysis) -> set[fx.Node]:
    """Nodes that make images whose channels an export may fill up to whole blocks."""
    live = run_nodes(analysis)
    streams = _Streams(analysis)
    for node in analysis.trace.graph.graph.nodes:
        if node not in live:
            continue
        data = [n for n in node.all_input_nodes if n in live]
        call = analysis.calls.get(node)
        if call is None or not _understood(streams, node, call, data):
            streams.fixed += [node, *data]
    fixed = {streams.root(node) for node in streams.fixed}
    return {node for node in streams.parent if streams.channels(node) and streams.root(node) not in fixed}


def _understood(streams: _Streams, node: fx.Node, call: Call, data: Sequence[fx.Node]) -> bool:
    """Note what a node's channels are; whether it leaves them free to be widened."""
    if call.op in CONVOLUTIONS:
        return _convolution(streams, node, call, data)
    if not streams.channels(node):
        return False
    if call.op == BATCH_NORM:  # a convolution takes it in; after anything else it is run
        before = streams.analysis.calls.get(data[0])
        if before is None or before.op not in CONVOLUTIONS:
            return False
    if (call.op in CHANNELWISE and len(data) == 1) or call.op in PAIRS:
        for value in data:
            if streams.channels(value) != streams.channels(node):
                return False
            streams.same(node, value)
        return True
    return False


def _convolution(streams: _Streams, node: fx.Node, call: Call, data: Sequence[fx.Node]) -> bool:
    if "transpose" in call.op or len(data) != 1:
        return False
    groups = call.integer("groups", 1)
    if groups > 1:
        if streams.channels(node) != streams.channels(data[0]):
            return False
        streams.same(node, data[0])
    streams.root(node)
    streams.root(data[0])
    return True
