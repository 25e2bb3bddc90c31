"""Where a graph's data flows: what an operand alone computes, what it starts from, how far that is.

Only tensors that depend on the model's inputs count as data; parameters, sizes and constants are looked
through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set

import networkx as nx
import torch
from torch import fx

from fxprune.graph.trace import Trace
from fxprune.ops import FACTORIES, rule_for

__all__ = ["DataFlow", "aliased", "mutates", "written"]


class DataFlow:
    """The data edges of a traced graph and the dominators of its reverse.

    Args:
        trace: A traced model.

    Attributes:
        nodes: Data nodes in the order of the graph, without the inputs.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._inputs: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self._users: dict[fx.Node, list[fx.Node]] = {}
        self._readers: dict[str, set[fx.Node]] = {}
        self._weighted: set[fx.Node] = set()
        self._read(trace.graph.graph)
        self.nodes = tuple(n for n in self._inputs if n.op == "call_function")
        self._children = self._post_dominators(trace.graph.graph)
        self._parameters = {n for n, _ in trace.model.named_parameters()}

    def _read(self, graph: fx.Graph) -> None:
        """Data edges, and for every tensor of the model the data nodes that read it."""
        owned: dict[fx.Node, frozenset[str]] = {}
        for node in graph.nodes:
            if node.op == "get_attr":
                name = str(node.target)
                owned[node] = frozenset({self.owner(name)})
                continue
            sources = tuple(dict.fromkeys(node.all_input_nodes))
            flowing = tuple(s for s in sources if s in self._inputs)
            names = frozenset[str]().union(*(owned.get(s, frozenset()) for s in sources))
            if node.op != "output" and not _carries_data(node, flowing):
                owned[node] = names
                continue
            for name in names:
                self._readers.setdefault(name, set()).add(node)
            for source in flowing:
                self._users[source].append(node)
            if node.op != "output":
                self._inputs[node], self._users[node] = flowing, []
                if any(_is_matrix(s) for s in sources if s not in self._inputs) and not _is_pointwise(node):
                    self._weighted.add(node)

    def _post_dominators(self, graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
        """For every node those that it immediately dominates on the way back from the output."""
        sink = graph.output_node()
        back = nx.DiGraph()
        back.add_node(sink)
        for node, users in self._users.items():
            # What is written in place and never read again still matters to somebody.
            back.add_edges_from((user, node) for user in users or ([sink] if mutates(node) else []))
        children: dict[fx.Node, list[fx.Node]] = {}
        for node, parent in nx.immediate_dominators(back, sink).items():
            if parent is not None and node is not parent:
                children.setdefault(parent, []).append(node)
        return children

    def __contains__(self, node: object) -> bool:
        return node in self._inputs

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Data nodes (or the output) that read the node."""
        return self._users[node]

    def private(self, output: fx.Node) -> frozenset[fx.Node]:
        """Nodes whose every path to the model's output passes the given one; itself too, inputs not."""
        dominated, stack = [], [output]
        while stack:
            node = stack.pop()
            dominated.append(node)
            stack.extend(self._children.get(node, ()))
        return frozenset(n for n in dominated if n.op == "call_function")

    def boundary(self, private: Set[fx.Node]) -> frozenset[fx.Node]:
        """Data from outside that the nodes read."""
        return frozenset(s for n in private for s in self._inputs[n] if s not in private)

    def owner(self, name: str) -> str:
        """The name under which a tensor is first known."""
        return self._trace.aliases.get(name, name)

    def readers(self, name: str) -> frozenset[fx.Node]:
        """Data nodes that read a tensor, directly or through computations on parameters."""
        return frozenset(self._readers.get(name, ()))

    def tensors(self, private: Set[fx.Node]) -> frozenset[str]:
        """Parameters, buffers and constants that only these nodes read."""
        return frozenset(name for name, readers in self._readers.items() if readers <= private)

    def parameters(self, private: Set[fx.Node]) -> tuple[str, ...]:
        """Parameters that only these nodes read, in the order of the model."""
        names = self.tensors(private) & self._parameters
        return tuple(n for n in self._trace.names if n in names)

    def weights(self, private: Set[fx.Node]) -> bool:
        """One of the nodes multiplies by weights that no other node reads."""
        own = set(self.parameters(private))
        return any(node in self._weighted and node in private for name in own for node in self._readers[name])

    def distance(self, private: Set[fx.Node], output: fx.Node) -> int:
        """Fewest weighted nodes between the data the nodes start from and their output."""
        steps: dict[fx.Node, int] = {}
        for node in (n for n in self.nodes if n in private):
            before = min((steps.get(s, 0) for s in self._inputs[node]), default=0)
            steps[node] = before + (node in self._weighted)
        return steps[output]

    def steps_back(self, node: fx.Node, goals: Set[fx.Node], *, most: int) -> int | None:
        """Fewest weighted nodes between any of the goals and a node, itself included.

        Args:
            node: Where the way back begins.
            goals: Where it may end.
            most: Give up beyond this many.

        Returns:
            None if no goal is that near.
        """
        queue: deque[tuple[fx.Node, int]] = deque([(node, 0)])
        seen: set[fx.Node] = set()
        while queue:
            current, steps = queue.popleft()
            if current in goals:
                return steps
            if current in seen:
                continue
            seen.add(current)
            weighted = current in self._weighted
            if steps + weighted <= most:
                # A queue with two ends keeps the nearest first: weighted steps cost one, others nothing.
                add = queue.append if weighted else queue.appendleft
                for source in self._inputs[current]:
                    add((source, steps + weighted))
        return None


def _carries_data(node: fx.Node, flowing: Sequence[fx.Node]) -> bool:
    value = node.meta.get("val")
    is_tensor = isinstance(value, torch.Tensor) or (
        isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value)
    )
    if node.op == "placeholder":
        return is_tensor
    # new_zeros and its like take a size and a type from their tensor, no data.
    return is_tensor and bool(flowing) and not _is_factory(node)


def _is_factory(node: fx.Node) -> bool:
    rule = rule_for(node.target)
    return rule is not None and rule in FACTORIES


def _is_matrix(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and sum(n != 1 for n in value.shape) > 1


def _is_pointwise(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def mutates(node: fx.Node) -> bool:
    """The call writes into one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def written(node: fx.Node) -> fx.Node | None:
    """The node whose tensor a call writes into in place, looking through views; None for most calls."""
    if not mutates(node):
        return None
    base = aliased(node, write=True)
    while base is not None and (behind := aliased(base, write=False)) is not None:
        base = behind
    return base


def aliased(node: fx.Node, *, write: bool) -> fx.Node | None:
    """The argument a call writes into, or of which its result is a view."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return None
    for argument, value in zip(schema.arguments, node.args, strict=False):
        info = argument.alias_info
        if info is not None and info.is_write == write and isinstance(value, fx.Node):
            return value
    return None
