"""Graphs as plain data, so that ``torch.save(model)`` and new processes can take a slim graph along.

torch's own way writes a graph as Python code and traces that again, which loses what a slim graph knows
beyond its code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx
from torch.fx.node import map_aggregate

__all__ = ["PackedGraph", "packed"]


@dataclass(frozen=True)
class _Ref:
    """The node of that name."""

    name: str


@dataclass(frozen=True)
class _Operator:
    """An operator of torch by its name, as its object cannot be pickled."""

    name: str
    overload: str

    def found(self) -> Callable[..., object]:
        namespace, _, name = self.name.partition("::")
        operator: Callable[..., object] = getattr(getattr(getattr(torch.ops, namespace), name), self.overload)
        return operator


@dataclass(frozen=True)
class _Row:
    """A node; see ``fx.Node``."""

    op: str
    name: str
    target: object
    args: tuple[object, ...]
    kwargs: dict[str, object]


@dataclass(frozen=True)
class PackedGraph:
    """A graph without its objects.

    Attributes:
        rows: Its nodes in order.
        codegen: How arguments are nested.
    """

    rows: tuple[_Row, ...]
    codegen: object

    def unpacked(self) -> fx.Graph:
        """The graph again."""
        graph = fx.Graph()
        graph._codegen = self.codegen  # type: ignore[assignment]
        nodes: dict[str, fx.Node] = {}

        def back(argument: object) -> object:
            return nodes[argument.name] if isinstance(argument, _Ref) else argument

        for row in self.rows:
            target = row.target.found() if isinstance(row.target, _Operator) else row.target
            args, kwargs = map_aggregate((row.args, row.kwargs), back)  # type: ignore[type-var,arg-type]
            nodes[row.name] = graph.create_node(row.op, target, args, kwargs, row.name)  # type: ignore[arg-type]
        return graph


def packed(graph: fx.Graph) -> PackedGraph:
    """A graph as data that can be pickled.

    Example:
        >>> import pickle
        >>> graph = fx.symbolic_trace(torch.nn.ReLU()).graph
        >>> again = pickle.loads(pickle.dumps(packed(graph))).unpacked()
        >>> [n.op for n in again.nodes] == [n.op for n in graph.nodes]
        True
    """

    def ref(argument: object) -> object:
        return _Ref(argument.name) if isinstance(argument, fx.Node) else argument

    rows = []
    for node in graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            target = _Operator(target._schema.name, target._overloadname)
        args, kwargs = map_aggregate((node.args, node.kwargs), ref)  # type: ignore[arg-type]
        rows.append(_Row(node.op, node.name, target, args, kwargs))
    return PackedGraph(tuple(rows), graph._codegen)
