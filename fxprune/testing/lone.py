"""One operator call as a model of its own: pruned, and compared with brute force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from unittest import mock

import numpy as np
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling
from fxprune.coupling.walk import Walk
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, IntArray, nested_shape
from fxprune.ops.base import Value
from fxprune.planning.plan import plan_units
from fxprune.plans import Plan
from fxprune.proof.oracle import Oracle
from fxprune.resizing.resolve import Resolution, keep_mask, resolve
from fxprune.slimming.slim import slim
from fxprune.testing.samples.base import Operand, Sample

__all__ = ["Lone", "disturb", "left", "lone", "plans", "slimmed", "tensors", "zeroed"]


def _unpinned(self: Walk, node: fx.Node) -> None:
    """The outputs of a single call are no contract."""


def _busy(*_: object) -> None:
    """Nor need a layer make or read the units of a single call."""


@dataclass(frozen=True)
class Lone:
    """A traced model that is one operator call.

    Attributes:
        trace: The trace; its outputs are not pinned.
        names: Names of the labelled operands, in order.
        results: Nodes of the tensors that the call returns.
    """

    trace: Trace
    names: tuple[str, ...]
    results: tuple[fx.Node, ...]

    @property
    def coupling(self) -> Coupling:
        """Its coupling."""
        return analyse(self.trace).coupling

    @property
    def doubted(self) -> str:
        """Why the walk does not believe the rule of the call; empty if it does."""
        return next((why for _, why in analyse(self.trace).unsupported), "")

    def free(self) -> str:
        """As ``Sample.free``."""
        said = []
        for name in self.names:
            axes = [(dim, self.coupling.axes[at, dim]) for at, dim in self.coupling.axes if at == name]
            dims = "".join(str(dim) for dim, units in axes if not self.coupling.pinned[units].all())
            said.append(dims or "-")
        return " ".join(said)


@contextmanager
def lone(sample: Sample) -> Iterator[Lone]:
    """The model of a sample; while it is looked at, neither outputs nor idle units stay."""
    with (
        mock.patch.object(Walk, "_pin_outputs", _unpinned),
        mock.patch("fxprune.coupling.closing._pin_idle", _busy),
    ):
        yield _modelled(sample)


def _modelled(sample: Sample) -> Lone:
    torch.manual_seed(0)
    root, graph = nn.Module(), fx.Graph()
    inputs: list[torch.Tensor] = []
    names: list[str] = []

    def node_of(operand: Operand) -> fx.Node:
        tensor = operand.make()
        if not operand.labelled:
            node = graph.placeholder(f"x{len(inputs)}")
            inputs.append(tensor)
        else:
            names.append(f"t{len(names)}")
            if tensor.is_floating_point() or tensor.is_complex():
                root.register_parameter(names[-1], nn.Parameter(tensor, requires_grad=False))
            else:
                root.register_buffer(names[-1], tensor)
            node = graph.get_attr(names[-1])
        node.meta["val"] = tensor
        return node

    def placed(argument: object, *, labelled: bool) -> object:
        if isinstance(argument, (list, tuple)):
            return [placed(a, labelled=labelled) for a in argument]
        wanted = isinstance(argument, Operand) and argument.labelled == labelled
        return node_of(argument) if wanted else argument  # type: ignore[arg-type]

    # Placeholders stand first in a graph.
    given = [placed(placed(a, labelled=False), labelled=True) for a in sample.args]
    named = {k: placed(placed(v, labelled=False), labelled=True) for k, v in sample.kwargs}
    nodes = _called(graph, sample.target, given, named)
    module = fx.GraphModule(root, graph)
    traced = Trace(root.eval(), tuple(inputs), {}, module, "export", False, 1)
    # The graph was copied into the module: find its nodes again by name.
    by_name = {n.name: n for n in traced.graph.graph.nodes}
    results = tuple(by_name[n.name] for n in nodes if isinstance(n.meta["val"], torch.Tensor))
    return Lone(traced, tuple(names), results)


def _called(
    graph: fx.Graph, target: torch._ops.OpOverload, args: list[object], kwargs: dict[str, object]
) -> list[fx.Node]:
    """Nodes of the call's results, which are the graph's."""
    call = graph.call_function(target, tuple(args), kwargs)  # type: ignore[arg-type]
    value = partial(fx.map_arg, fn=lambda n: n.meta["val"])
    result = target(*value(call.args), **value(call.kwargs))
    call.meta["val"] = result
    nodes = [call]
    if isinstance(result, (tuple, list)):
        nodes = []
        for k, part in enumerate(result):
            item = graph.call_function(_getitem, (call, k))
            item.meta["val"] = part
            nodes.append(item)
    graph.output(tuple(nodes))
    return nodes


def _getitem(sequence: list[object], index: int) -> object:
    return sequence[index]


_getitem.__name__ = "getitem"


def _masks(one: Lone, seed: int) -> Iterator[BoolArray]:
    """Single units, random sets of units, rows, columns and random cells of blocks."""
    coupling = one.coupling
    rng = np.random.default_rng(seed)
    on_axes = np.unique(np.concatenate([*coupling.axes.values(), np.zeros(0, np.int64)]))
    free = on_axes[~coupling.pinned[on_axes]]

    def without(units: IntArray | int) -> BoolArray:
        keep = np.ones(coupling.n_units, bool)
        keep[units] = False
        return keep

    for unit in rng.permutation(free)[:5]:
        yield without(unit)
    for _ in range(3 if len(free) > 1 else 0):
        yield without(rng.choice(free, rng.integers(1, len(free)), replace=False))
    for block in coupling.blocks[:6]:
        h, d = block.cells.shape
        if h > 1:
            yield without(block.cells[rng.integers(h)])
        if d > 1:
            yield without(
                block.cells[:, rng.integers(d)] if block.columns is None else block.columns[rng.integers(d)]
            )


def plans(one: Lone, seed: int = 0) -> list[Plan]:
    """The plans that these masks allow."""
    allowed = []
    for keep in _masks(one, seed):
        try:
            allowed.append(plan_units(one.trace, keep))
        except PlanError:
            continue
    return allowed


def tensors(result: object) -> list[torch.Tensor]:
    """Every tensor of a result."""
    return [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]


def _left(trace: Trace, plan: Plan) -> Resolution:
    analysis = analyse(trace)
    return resolve(analysis, keep_mask(analysis, plan))


def zeroed(one: Lone, plan: Plan) -> tuple[Oracle, list[torch.Tensor]]:
    """What the oracle says the dense call gives, dead positions included."""
    oracle = Oracle(_left(one.trace, plan), torch.float64)
    with torch.no_grad():
        return oracle, tensors(oracle.run(*one.trace.args))


def left(one: Lone, oracle: Oracle, results: list[torch.Tensor]) -> list[torch.Tensor]:
    """What is left of results by their labels."""
    held = [analyse(one.trace).values[n] for n in one.results]
    return [_compressed(oracle, r, v) for r, v in zip(results, held, strict=True) if isinstance(v, Value)]


def _compressed(oracle: Oracle, tensor: torch.Tensor, value: Value) -> torch.Tensor:
    for order, mask in _lines(oracle, value):
        rest = [d for d in range(tensor.ndim) if d not in order]
        moved = tensor.permute([*order, *rest])
        sizes = nested_shape(mask)
        assert sizes is not None
        kept = moved[torch.from_numpy(mask)].reshape([*sizes, *moved.shape[len(order) :]])
        tensor = kept.permute(np.argsort([*order, *rest]).tolist())
    return tensor


def _lines(oracle: Oracle, value: Value) -> list[tuple[list[int], BoolArray]]:
    """For each set of labelled dimensions, outermost first, the mask of what is left."""
    lines: dict[tuple[int, ...], BoolArray] = {}
    for array in value.arrays:
        order = oracle.analysis.order(array)
        if order:
            moved = array.transpose([*order, *(d for d in range(array.ndim) if d not in order)])
            mask = oracle.resolution.keep[
                oracle.analysis.units(moved.reshape([array.shape[d] for d in order]))
            ]
            lines[order] = lines[order] & mask if order in lines else mask
    return [(list(order), mask) for order, mask in lines.items()]


def slimmed(one: Lone, plan: Plan) -> list[torch.Tensor]:
    """What the operator gives on what is left of its operands."""
    with torch.no_grad():
        return tensors(slim(one.trace, plan, kind="graph")(*one.trace.args))


def dead(one: Lone, plan: Plan, name: str) -> torch.Tensor:
    """Positions of a labelled operand that are gone."""
    tensor = one.trace.tensor(name)
    gone = torch.zeros(tensor.shape, dtype=torch.bool)
    for (at, dim), index in plan.kept.items():
        if at == name:
            lost = torch.ones(tensor.shape[dim], dtype=torch.bool)
            lost[list(index)] = False
            gone |= lost.reshape([-1 if d == dim else 1 for d in range(tensor.ndim)])
    return gone


def disturb(one: Lone, plan: Plan) -> None:
    """Change whatever the removed positions hold."""
    for name in one.names:
        tensor = one.trace.tensor(name)
        if tensor.is_floating_point() or tensor.is_complex():
            gone = dead(one, plan, name)
            tensor.data[gone] = 3 * tensor.data[gone] + 1
