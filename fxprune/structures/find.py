"""Structures above channels, found on the traced graph: residual branches and concat branches.

A structure is what only one operand of a join computes.  Dominators of the reversed graph say which nodes
those are: every path from them to the output passes the operand.  Where the join adds, and its other operand
is an identity or a shortcut past the structure, the structure is a *residual* branch (all that a residual
block computes); where it concatenates, a *branch*.  No module class or name is looked at, except to name what was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import fx

from fxprune.coupling.analysis import Analysis
from fxprune.coupling.blocks import breach, close
from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling
from fxprune.errors import PlanError
from fxprune.graph.dataflow import DataFlow, written
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, IntArray, varying
from fxprune.ops import qualified_name
from fxprune.ops.base import Value
from fxprune.ops.joining import CONCATENATIONS
from fxprune.ops.named import ADD, SUMS
from fxprune.structures.naming import named
from fxprune.support.briefly import brief
from fxprune.support.memo import once

__all__ = ["Structure", "choose_structures", "find_structures"]

# Most weighted operators on a shortcut: one projection.
PROJECTIONS = 1


@brief
@dataclass(frozen=True, eq=False)
class Structure:
    """A part of the model that can be cut whole.

    Attributes:
        name: The module path its nodes share, made unique.
        kind: ``"residual"`` (its result is added to a shortcut) or ``"branch"`` (it is concatenated).
        output: The node whose result is joined.
        nodes: What only this structure computes, in the order of the graph; ``output`` is the last.
        parameters: Names of the parameters that only these nodes read.
        joins: The addition, or the concatenations.
        units: int64[n], for a branch the units (in the coupling) that go with it: its channels at the joins.
        removable: Cutting it is possible.
        reason: Why not.
    """

    name: str
    kind: Literal["residual", "branch"]
    output: fx.Node
    nodes: tuple[fx.Node, ...]
    parameters: tuple[str, ...]
    joins: tuple[fx.Node, ...]
    units: IntArray
    removable: bool = True
    reason: str = ""


@once
def find_structures(trace: Trace) -> tuple[Structure, ...]:
    """Find residual and concat branches.

    Args:
        trace: A traced model.

    Returns:
        Every structure that has weights, in the order of the graph; nested ones too.  Computed once.

    Example:
        >>> import torch, fxprune
        >>> from torchvision.models import resnet18
        >>> found = find_structures(fxprune.trace(resnet18(), torch.zeros(1, 3, 32, 32)))
        >>> [s.name for s in found][:3], len(found), {s.kind for s in found}
        (['layer1.0', 'layer1.1', 'layer2.0'], 8, {'residual'})

    References:
        Cooper, Harvey and Kennedy, A simple, fast dominance algorithm, 2001 (as networkx has it).
        Lin et al., Towards optimal structured CNN pruning via generative adversarial learning, CVPR 2019,
        for which structures are worth cutting.
    """
    data = DataFlow(trace)
    structures = [*_residuals(data), *_branches(trace, data)]
    order = {node: k for k, node in enumerate(trace.graph.graph.nodes)}
    structures.sort(key=lambda s: order[s.output])
    names = named([(s.nodes, s.parameters) for s in structures], trace)
    return tuple(_checked(trace, data, replace(s, name=n)) for s, n in zip(structures, names, strict=True))


def choose_structures(trace: Trace, names: Sequence[str]) -> tuple[Structure, ...]:
    """The structures of these names, in the order of the graph.

    Raises:
        PlanError: There is no such structure, or it cannot be removed.
    """
    structures = {s.name: s for s in find_structures(trace)}
    for name in names:
        if name not in structures:
            raise PlanError(
                f"the model has no structure '{name}'",
                advice=f"its structures: {', '.join(structures) or 'none'}",
            )
        if not structures[name].removable:
            raise PlanError(
                f"structure '{name}' cannot be removed: {structures[name].reason}",
                node=structures[name].output.name,
                advice="take it out of the plan",
            )
    return tuple(s for s in structures.values() if s.name in set(names))


# --- residual branches -------------------------------------------------------------------------------


def _residuals(data: DataFlow) -> Iterator[Structure]:
    for node in data.nodes:
        operands = _summands(node)
        if operands is None or not all(o in data for o in operands) or operands[0] is operands[1]:
            continue
        for branch, other in (operands, operands[::-1]):
            private = data.private(branch)
            if data.users(branch) != [node] or not data.weights(private):
                continue
            length = _shortcut(data, private, other)
            if length is not None and data.distance(private, branch) > length:
                structure = _structure(data, "residual", branch, private, (node,))
                yield (
                    replace(structure, removable=False, reason=why)
                    if (why := _scaled(node, branch))
                    else structure
                )


def _summands(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The two tensors an addition or subtraction joins."""
    if qualified_name(node.target) not in SUMS:
        return None
    first, second = (*node.args, *node.kwargs.values())[:2]
    return (first, second) if isinstance(first, fx.Node) and isinstance(second, fx.Node) else None


def _scaled(node: fx.Node, branch: fx.Node) -> str:
    """Why the sum without this operand is not just its other operand."""
    plain = qualified_name(node.target) == ADD and node.kwargs.get("alpha", 1) == 1
    return "" if plain or branch is not node.args[0] else "the other operand of the sum is scaled there"


def _shortcut(data: DataFlow, private: frozenset[fx.Node], other: fx.Node) -> int | None:
    """How many weighted operators the other operand takes from the fork; None if it is no shortcut."""
    forks = data.boundary(private)
    return data.steps_back(other, forks, most=PROJECTIONS)


# --- concat branches ---------------------------------------------------------------------------------


def _branches(trace: Trace, data: DataFlow) -> Iterator[Structure]:
    seen: set[fx.Node] = set()
    analysis = analyse(trace)
    for node in data.nodes:
        if qualified_name(node.target) not in CONCATENATIONS:
            continue
        for operand in dict.fromkeys(node.all_input_nodes):
            if operand in seen or operand not in data:
                continue
            seen.add(operand)
            joins = data.users(operand)
            private = data.private(operand)
            if all(qualified_name(j.target) in CONCATENATIONS for j in joins) and data.weights(private):
                structure = _structure(data, "branch", operand, private, tuple(joins))
                yield replace(structure, units=_joined_units(analysis, operand, joins))


def _joined_units(analysis: Analysis, output: fx.Node, joins: Sequence[fx.Node]) -> IntArray:
    """Units along the concatenated axis; none where it carries none, or where the joins differ."""
    value = analysis.values.get(output)
    dims = {analysis.calls[j].integer("dim") % max(len(analysis.calls[j].shape), 1) for j in joins}
    if not isinstance(value, Value) or len(dims) != 1:
        return np.zeros(0, np.int64)
    (dim,) = dims
    arrays = [a for a in value.arrays if varying(a) == (dim,)]
    return np.unique(analysis.units(arrays[0])) if len(arrays) == 1 else np.zeros(0, np.int64)


# --- what both share ---------------------------------------------------------------------------------


def _structure(
    data: DataFlow,
    kind: Literal["residual", "branch"],
    output: fx.Node,
    private: frozenset[fx.Node],
    joins: tuple[fx.Node, ...],
) -> Structure:
    nodes = tuple(n for n in data.nodes if n in private)
    return Structure("", kind, output, nodes, data.parameters(private), joins, np.zeros(0, np.int64))


def _checked(trace: Trace, data: DataFlow, structure: Structure) -> Structure:
    """Say why a structure cannot go, if it cannot."""
    reason = structure.reason or _common_problem(trace, structure)
    if not reason:
        added = structure.kind == "residual"
        reason = _residual_problem(trace, structure) if added else _branch_problem(trace, data, structure)
    return replace(structure, removable=not reason, reason=reason)


def _common_problem(trace: Trace, structure: Structure) -> str:
    if trace.kind == "recorded":
        return "the model had to be recorded, and a recorded graph cannot be rewritten"
    private = set(structure.nodes)
    for node in structure.nodes:
        target = written(node)
        if target is not None and target not in private:
            return f"'{node.name}' writes into a tensor that others read"
    return ""


def _residual_problem(trace: Trace, structure: Structure) -> str:
    (join,) = structure.joins
    operands = _summands(join)
    assert operands is not None
    other = operands[1] if operands[0] is structure.output else operands[0]
    shapes = [tuple(n.meta["val"].shape) for n in (other, join)]
    types = [n.meta["val"].dtype for n in (other, join)]
    if shapes[0] != shapes[1] or types[0] != types[1]:
        return "the other operand of the sum is of another shape or type"
    target = written(join)
    if target is not None and target not in structure.nodes:
        order = list(trace.graph.graph.nodes)
        if set(target.users) & set(order[order.index(join) + 1 :]):
            return "the sum is written into a tensor that is read again"
    return ""


def _branch_problem(trace: Trace, data: DataFlow, structure: Structure) -> str:
    """Its channels must be free, made nowhere else, and leave something everywhere."""
    coupling = analyse(trace).coupling
    for join in structure.joins:
        if all(operand is structure.output for operand in join.args[0]):  # type: ignore[union-attr]
            return "nothing else is concatenated with it"
    if not len(structure.units):
        return "what it adds to the concatenation carries no units (positions, samples)"
    gone = np.zeros(coupling.n_units, bool)
    gone[structure.units] = True
    own = data.tensors(set(structure.nodes))
    for group in coupling.groups:
        if gone[group.units].any():
            if group.pinned is not None:
                return f"its channels are pinned: {group.pinned}"
            elsewhere = [name for name, _ in group.producers if name not in own]
            if elsewhere:
                return f"its channels are tied with those that '{elsewhere[0]}' makes"
    if coupling.pinned[structure.units].any():
        return "rows of a layout it belongs to are pinned"
    return _layout_problem(coupling, own, gone)


def _layout_problem(coupling: Coupling, own: Set[str], gone: BoolArray) -> str:
    """What else would break or have to go, if these units went."""
    keep = close(coupling.blocks, ~gone)
    for block in coupling.blocks:
        problem = breach(block, keep)
        if problem:
            return f"the layout at '{block.node}' would not stay rectangular: {problem}"
    for (name, _), units in coupling.axes.items():
        lost = ~keep[units]
        if name in own or not lost.any():
            continue
        if lost.all():
            return f"nothing would be left of '{name}'"
        if not gone[units[lost]].all():
            return f"other channels of '{name}' would have to go as well"
    return ""
