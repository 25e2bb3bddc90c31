"""The dense and the slim graph side by side: node by node over all chunks, so that a layer that has changed is felt by those behind it.

A value lives until its last reader has run.  What both graphs hold at most is known from one chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxprune.graph.values import Calls
from fxprune.labels import BoolArray
from fxprune.ops.base import Value
from fxprune.resizing.resolve import Resolution

__all__ = ["Lockstep", "Pair", "Side"]

Chunk = Sequence[object]
"""What one call passes, flat."""


class Side:
    """One of the two graphs, being run.

    Args:
        calls: The graph, and what it reads.

    Attributes:
        values: Of every node that has readers left the value for each chunk.
        peak: Most bytes that were held at once.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        last: dict[fx.Node, fx.Node] = {}
        for node in calls.graph.nodes:
            last.update(dict.fromkeys(node.all_input_nodes, node))
        self._ends: dict[fx.Node, list[fx.Node]] = {}
        for node, reader in last.items():
            self._ends.setdefault(reader, []).append(node)
        self.begin(())

    def begin(self, chunks: Sequence[Chunk]) -> None:
        """Take the inputs."""
        self.values: dict[fx.Node, list[object]] = {}
        self.peak, self._held, self._storages = 0, 0, Counter[int]()
        # Inputs may be written into.
        own = [pytree.tree_map_only(Tensor, Tensor.clone, list(chunk)) for chunk in chunks]
        inputs = (n for n in self.calls.graph.nodes if n.op == "placeholder")
        for k, node in enumerate(inputs):
            self._hold(node, [chunk[k] for chunk in own])
        self._chunks = range(len(chunks))

    def run(self, node: fx.Node) -> None:
        """Compute a node for every chunk."""
        if node.op == "output":
            self.values[node] = [self.arguments(node, k)[0][0] for k in self._chunks]
        elif node.op == "call_function":
            self._hold(node, [self.call(node, k) for k in self._chunks])
        for over in self._ends.get(node, ()):
            self._release(self.values.pop(over, ()))

    def call(self, node: fx.Node, k: int, instead: Mapping[fx.Node, object] | None = None) -> object:
        """What a node makes of a chunk, with other values in the place of some operands."""
        args, kwargs = self.arguments(node, k, instead)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def arguments(
        self, node: fx.Node, k: int, instead: Mapping[fx.Node, object] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a node is called with for a chunk, with other values in the place of some."""
        given = instead or {}

        def value(operand: fx.Node) -> Any:
            return given[operand] if operand in given else self.value(operand, k)

        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        return args, kwargs

    def value(self, node: fx.Node, k: int) -> object:
        """What a node makes of a chunk."""
        if node.op == "get_attr":
            return self.calls.tensors[str(node.target)]
        return self.values[node][k]

    def outputs(self, chunks: int) -> list[Tensor]:
        """The tensors that the first chunks make the graph return, those of all chunks together."""
        end = next(n for n in self.calls.graph.nodes if n.op == "output")
        leaves = [pytree.tree_leaves(self.values[end][k]) for k in range(chunks)]
        every = [[leaf for leaf in one if isinstance(leaf, Tensor)] for one in leaves]
        return [torch.cat([t if t.ndim else t[None] for t in parts]) for parts in zip(*every, strict=True)]

    def _hold(self, node: fx.Node, values: list[object]) -> None:
        self.values[node] = values
        for storage in _storages(values):
            self._held += storage.nbytes() * (not self._storages[storage.data_ptr()])
            self._storages[storage.data_ptr()] += 1
        self.peak = max(self.peak, self._held)

    def _release(self, values: Sequence[object]) -> None:
        for storage in _storages(values):
            self._storages[storage.data_ptr()] -= 1
            self._held -= storage.nbytes() * (not self._storages[storage.data_ptr()])


def _storages(values: Sequence[object]) -> list[torch.UntypedStorage]:
    return [t.untyped_storage() for t in pytree.tree_leaves(list(values)) if isinstance(t, Tensor)]


@dataclass(frozen=True, eq=False)
class Pair:
    """A node of the slim graph and the one of the dense graph that it comes from.

    Attributes:
        node: In the slim graph; its operands are there, its own value is not yet.
        twin: In the dense graph, already computed.
        step: The run.
    """

    node: fx.Node
    twin: fx.Node
    step: Lockstep

    def target(self, k: int) -> Tensor | None:
        """What the dense node makes of a chunk, at the positions that are left; None if they form no block."""
        return self.step.left_of(self.twin, k)

    def changed(self, operand: fx.Node) -> bool:
        """Whether an operand differs from what is left of the dense one."""
        return self.step.changed(operand)

    def behind(self, operand: fx.Node) -> bool:
        """Whether an operand differs from the dense one, be it that some of it is gone."""
        return self.step.changed(operand) or (operand.op != "get_attr" and self.step.shrunk(operand))


class Lockstep:
    """Both graphs.

    Args:
        dense: Of the dense model.
        slim: Of the slim one; nodes that are in both have equal names.
        resolution: What is left of the dense one.
    """

    def __init__(self, dense: Calls, slim: Calls, resolution: Resolution) -> None:
        self.dense, self.slim = Side(dense), Side(slim)
        self.analysis, self._keep = resolution.analysis, resolution.keep
        self._known = {n.name: n for n in resolution.analysis.values}
        self.twins = {n.name: n for n in dense.graph.nodes}
        self._changed: set[fx.Node] = set()
        self._left: dict[str, list[tuple[int, Tensor]] | None] = {}
        self.chunks = 0

    def run(self, chunks: Sequence[Chunk], visit: Callable[[Pair], None] | None = None) -> None:
        """Go through both graphs once.

        Args:
            chunks: Inputs.
            visit: Is shown every call of the slim graph that has a twin before it is computed, and may change tensors
                that the slim graph reads.
        """
        self.chunks = len(chunks)
        self._changed.clear()
        self.dense.begin(chunks)
        self.slim.begin(chunks)
        ahead, done = iter(self.dense.calls.graph.nodes), set[fx.Node]()
        for node in self.slim.calls.graph.nodes:
            twin = self.twins.get(node.name)
            while twin is not None and twin not in done:
                nearer = next(ahead)
                self.dense.run(nearer)
                done.add(nearer)
            if twin is not None and visit is not None and node.op == "call_function":
                visit(Pair(node, twin, self))
            self.slim.run(node)
            if self._differs(node, twin):
                self._changed.add(node)

    @property
    def peak(self) -> int:
        """Most bytes of values that were held."""
        return self.dense.peak + self.slim.peak

    def left_of(self, twin: fx.Node, k: int) -> Tensor | None:
        """The positions of a dense value that are left, for a chunk."""
        value = self.dense.value(twin, k)
        index = self._index(twin.name)
        if index is None or not isinstance(value, Tensor):
            return None
        for dim, chosen in index:
            value = value.index_select(dim, chosen.to(value.device))
        return value

    def _index(self, name: str) -> list[tuple[int, Tensor]] | None:
        """Along each dimension that loses some the positions of a node's result that are left."""
        if name not in self._left:
            self._left[name] = _block(self.staying(name))
        return self._left[name]

    def changed(self, operand: fx.Node) -> bool:
        """Whether a slim value differs from what is left of the dense one, in any chunk."""
        return operand in self._changed

    def staying(self, name: str) -> BoolArray | None:
        """Which positions of a node's result are left, size 1 along dimensions that do not matter; None if it is unknown."""
        node = self._known.get(name)
        held = None if node is None else self.analysis.values.get(node)
        if not isinstance(held, Value):
            return None
        masks = [self._keep[self.analysis.units(array)] for array in held.arrays]
        return (
            np.logical_and.reduce(np.broadcast_arrays(*masks)) if masks else np.ones((1,) * held.rank, bool)
        )

    def shrunk(self, operand: fx.Node) -> bool:
        """Whether positions of a slim value are gone."""
        mask = self.staying(operand.name)
        return mask is not None and not mask.all()

    def _differs(self, node: fx.Node, twin: fx.Node | None) -> bool:
        if node.op in ("get_attr", "placeholder"):
            return False
        if twin is None or not self._changed.isdisjoint(node.all_input_nodes):
            return True
        if node not in self.slim.values or twin not in self.dense.values:
            return False  # nobody reads it
        return not all(self._equal(node, twin, k) for k in range(self.chunks))

    def _equal(self, node: fx.Node, twin: fx.Node, k: int) -> bool:
        mine, wanted = self.slim.value(node, k), self.dense.value(twin, k)
        if not isinstance(mine, Tensor):
            return type(mine) is type(wanted)  # sizes; lists of tensors are read by what picks from them
        left = self.left_of(twin, k)
        return left is not None and torch.equal(mine, left)


def _block(mask: BoolArray | None) -> list[tuple[int, Tensor]] | None:
    """Along each dimension that loses some the positions that are left; None where these make no block."""
    if mask is None:
        return None
    dims = range(mask.ndim)
    alive = [mask.any(tuple(d for d in dims if d != dim)) for dim in dims]
    whole = np.ones(mask.shape, bool)
    for dim, stays in enumerate(alive):
        whole &= stays.reshape([-1 if d == dim else 1 for d in dims])
    if (whole != mask).any():
        return None
    return [
        (dim, torch.from_numpy(np.flatnonzero(stays))) for dim, stays in enumerate(alive) if not stays.all()
    ]
