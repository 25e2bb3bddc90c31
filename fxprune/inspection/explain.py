"""What is tied to what, by which op, and why a channel cannot go.

The dependency graph has one node per axis of a parameter or buffer and one edge per tie that an
op makes between two of them.  Everything here reads the coupling; nothing decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import networkx as nx
import numpy as np

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling, Group, Pin, Tie
from fxprune.errors import FxpruneError
from fxprune.escaping import terminal
from fxprune.graph.trace import Trace
from fxprune.inspection.ties import ties_of
from fxprune.plans import Axis, Plan, WidthRow
from fxprune.resizing.resolve import keep_mask
from fxprune.support.briefly import brief
from fxprune.support.words import near

__all__ = [
    "Explanation",
    "GroupRow",
    "WidthRow",
    "dependency_graph",
    "explain",
    "group_table",
    "width_table",
]

_Below = Mapping[Axis, Mapping[Axis, Tie]]
_ADVICE: Mapping[str, str] = {
    "input": "nothing; the callers of the model decide this width",
    "output": "nothing inside the model; its users rely on this width",
    "contract": "the op fixes this width; rewrite the source line if it need not be so",
    "data": "the source line ties these channels to positions of the data; pruning would change the task",
    "size": "the data decide a size here; a size from the shapes or a plain number would free these channels",
    "unknown": "no rule of fxprune fits this call; write the line with common ops, or add an OpRule",
}


def dependency_graph(trace: Trace) -> nx.MultiGraph[Axis]:
    """The ties between tensor axes as a networkx graph.

    Nodes are ``(tensor name, dim)`` with the attributes ``tensor``, ``dim``, ``size``, ``group``
    (names, joined by commas where one axis holds several) and ``pinned`` (the reason or an empty
    text).  A name in angle brackets stands for an axis that no tensor has (padding, the rows of
    heads); its size is 0.  Edges carry ``op``, ``node`` and ``source``; two axes tied by two ops have two edges.

    Args:
        trace: What ``fxprune.trace`` returned.

    Returns:
        A graph to analyse, or to hand to ``fxprune.inspection.graph_files.write_graph``.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> graph = fxprune.dependency_graph(fxprune.trace(net, torch.zeros(1, 3)))
        >>> ("2.weight", 1) in nx.node_connected_component(graph, ("0.weight", 0))
        True
    """
    coupling = analyse(trace).coupling
    owners = _owners(coupling)
    graph: nx.MultiGraph[Axis] = nx.MultiGraph()
    for axis, units in coupling.axes.items():
        groups = owners.get(axis, ())
        graph.add_node(
            axis,
            tensor=axis[0],
            dim=axis[1],
            size=len(units),
            group=", ".join(group.name for group in groups),
            pinned="; ".join(dict.fromkeys(str(group.pinned) for group in groups if group.pinned)),
        )
    for tie in ties_of(analyse(trace)):
        for axis in (tie.a, tie.b):
            if axis not in graph:
                graph.add_node(axis, tensor=axis[0], dim=axis[1], size=0, group="", pinned="")
        graph.add_edge(tie.a, tie.b, op=tie.op, node=tie.node, source=tie.source)
    return graph


def _owners(coupling: Coupling) -> dict[Axis, tuple[Group, ...]]:
    owners: dict[Axis, tuple[Group, ...]] = {}
    for group in coupling.groups:
        for axis in group.members:
            owners[axis] = (*owners.get(axis, ()), group)
    return owners


# --- explain ---------------------------------------------------------------------------------


@brief
@dataclass(frozen=True, eq=False)
class Explanation:
    """Why one axis is pruned with others, or why it cannot be.  ``str()`` of it is for reading.

    Attributes:
        axis: The axis asked about.
        size: Its length.
        groups: The groups that live on it; several where a padded shortcut ties only part of it.
        pins: Why units of it cannot go; empty if all can.
        chains: For each axis tied to it, the ties that lead there, nearest first.
    """

    axis: Axis
    size: int
    groups: tuple[Group, ...]
    pins: tuple[Pin, ...]
    chains: Mapping[Axis, tuple[Tie, ...]]

    def __str__(self) -> str:
        return terminal("\n".join(_text(self)))

    def as_json(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "tensor": self.axis[0],
            "dim": self.axis[1],
            "size": self.size,
            "groups": [group.name for group in self.groups],
            "pins": [asdict(pin) for pin in self.pins],
            "tied": [
                {"tensor": tensor, "dim": dim, "ties": [asdict(tie) for tie in chain]}
                for (tensor, dim), chain in self.chains.items()
            ],
        }


def explain(trace: Trace, tensor: str, *, dim: int | None = None) -> Explanation:
    """The group an axis belongs to and the ties that make it one, or why it is pinned.

    Args:
        trace: What ``fxprune.trace`` returned.
        tensor: Dotted name of a parameter or buffer, of a group, or of a module that has parameters or buffers (its
            first one is meant then).
        dim: Which of its dimensions, by default 0, or where a group's units are made; negative counts from the end.

    Raises:
        FxpruneError: No such tensor, group or module, or no such dimension.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> why = fxprune.explain(fxprune.trace(net, torch.zeros(1, 3)), "0.weight")
        >>> [tie.op for tie in why.chains["2.weight", 1]]
        ['aten.linear.default']
    """
    coupling = analyse(trace).coupling
    named = _named(trace, coupling, tensor, dim)
    axis, size = _find(trace, *named)
    groups = _owners(coupling).get(axis, ())
    pins = tuple(dict.fromkeys(group.pinned for group in groups if group.pinned))
    if not groups:
        pins = (Pin("no channel lives along this dimension: the op that uses the tensor fixes its extent"),)
    return Explanation(axis, size, groups, pins, _chains(ties_of(analyse(trace)), axis, groups))


def _named(trace: Trace, coupling: Coupling, name: str, dim: int | None) -> Axis:
    """The axis that is meant: of a tensor, of a module's first tensor, or where a group's units are made."""
    tensors = dict.fromkeys([*trace.aliases, *(tensor for tensor, _ in coupling.axes)])
    if name in tensors:
        return name, dim or 0
    groups = {group.name: group for group in coupling.groups}
    modules: dict[str, str] = {}
    for tensor in tensors:
        modules.setdefault(tensor.rpartition(".")[0], tensor)
    if name in groups and dim is None:
        group = groups[name]
        return (*group.producers, *group.members)[0]
    if name in modules and name:
        return modules[name], dim or 0
    if name in groups:
        raise FxpruneError(
            f"'{name}' is a group, whose axes are given", advice="leave the dimension out, or name a tensor"
        )
    inside = [tensor for tensor in tensors if name and tensor.startswith(f"{name}.")]
    some = inside or list(tensors)
    listed = f"its tensors are {', '.join(some[:6])}{', ...' * (len(some) > 6)}"
    if inside:
        raise FxpruneError(
            f"'{name}' is a module without tensors of its own", advice=f"name a part of it: {listed}"
        )
    raise FxpruneError(
        f"the model has no tensor, group or module '{name}'",
        tensor=name,
        advice=near(name, [*tensors, *groups, *modules], otherwise=listed),
    )


def _find(trace: Trace, tensor: str, dim: int) -> tuple[Axis, int]:
    """The axis under the name the coupling knows it by, and its length."""
    shape = trace.tensor(tensor).shape
    if not -len(shape) <= dim < len(shape):
        raise FxpruneError(
            f"{tensor} has {len(shape)} dimension{'s' * (len(shape) != 1)}, there is no dim {dim}",
            tensor=tensor,
            advice=f"its dimensions are 0 to {len(shape) - 1}" if shape else "a scalar has no channels",
        )
    return (trace.aliases.get(tensor, tensor), dim % len(shape)), shape[dim]


def _chains(ties: Sequence[Tie], start: Axis, groups: tuple[Group, ...]) -> dict[Axis, tuple[Tie, ...]]:
    """Shortest paths of ties from an axis to every other member of its groups."""
    members = {member for group in groups for member in group.members}
    around: dict[Axis, list[tuple[Axis, Tie]]] = {}
    for tie in ties:
        around.setdefault(tie.a, []).append((tie.b, tie))
        around.setdefault(tie.b, []).append((tie.a, tie))
    chains: dict[Axis, tuple[Tie, ...]] = {start: ()}
    front = [start]
    for here in front:  # grows while it is walked: breadth first
        for there, tie in around.get(here, ()):
            passable = there in members or there[0].startswith("<")
            if passable and there not in chains:
                chains[there] = (*chains[here], tie)
                front.append(there)
    del chains[start]
    return {axis: chain for axis, chain in chains.items() if axis in members}


def _text(why: Explanation) -> Iterator[str]:
    yield f"{_name(why.axis)} has {why.size} positions"
    for pin in why.pins:
        yield f"  cannot be pruned: {pin.reason}"
        where = f"{pin.op} '{pin.node}'" if pin.op and pin.node else pin.op or pin.node
        yield from (f"    {label}: {text}" for label, text in (("by", where), ("source", pin.source)) if text)
        yield f"    what to do: {_ADVICE[pin.kind]}"
    for group in why.groups:
        yield f"  group '{group.name}': {_summary(group)}"
    if why.chains:
        yield f"  tied to {len(why.chains)} other {'axis' if len(why.chains) == 1 else 'axes'}:"
        yield from ("  " + line for line in _tree(why))


def _summary(group: Group) -> str:
    """Width, exactness and layout in words."""
    axes = f"{len(group.members)} {'axis' if len(group.members) == 1 else 'axes'}"
    words = [f"{group.width} unit{'s' * (group.width != 1)} on {axes}"]
    if group.pinned is None:
        words.append("removing equals zeroing" if group.exact else "statistics see the removal (inexact)")
    words += [
        f"laid out {block.cells.shape[0]}x{block.cells.shape[1]} by '{block.node}'" for block in group.blocks
    ]
    return ", ".join(words)


def _tree(why: Explanation) -> Iterator[str]:
    """The chains as a tree: each axis below the one through which it is tied."""
    below: dict[Axis, dict[Axis, Tie]] = {}
    for chain in why.chains.values():
        here = why.axis
        for tie in chain:
            there = tie.b if tie.a == here else tie.a
            below.setdefault(here, {})[there] = tie
            here = there
    yield _name(why.axis)
    stack = _branches(below, why.axis, "")
    while stack:
        label, tie, axis, indent, last = stack.pop()
        source = f" at {tie.source}" if tie.source else ""
        yield f"{indent}{'└─' if last else '├─'} {label}   {tie.op} '{tie.node}'{source}"
        stack += _branches(below, axis, indent + ("   " if last else "│  "))


def _branches(below: _Below, parent: Axis, indent: str) -> list[tuple[str, Tie, Axis, str, bool]]:
    """What hangs below an axis, last first, as a stack wants it.

    Tensors of one module tied by one op and leading nowhere further share a line: the weight,
    bias and statistics of a batch norm.
    """
    lines: dict[object, list[tuple[Axis, Tie]]] = {}
    for axis, tie in below.get(parent, {}).items():
        key = axis if axis in below else (axis[0].rpartition(".")[0], axis[1], tie.node)
        lines.setdefault(key, []).append((axis, tie))
    labels = [(_names([axis for axis, _ in held]), held[0][1], held[0][0]) for held in lines.values()]
    return [(*entry, indent, k == 0) for k, entry in enumerate(reversed(labels))]


def _names(axes: Sequence[Axis]) -> str:
    """``bn1.{weight, bias}[0]`` for the same axis of several tensors of one module."""
    if len(axes) == 1:
        return _name(axes[0])
    module = axes[0][0].rpartition(".")[0]
    leaves = ", ".join(tensor.rpartition(".")[2] for tensor, _ in axes)
    return f"{module}{'.' * bool(module)}{{{leaves}}}[{axes[0][1]}]"


def _name(axis: Axis) -> str:
    return f"{axis[0]}[{axis[1]}]"


# --- table -----------------------------------------------------------------------------------


@brief
@dataclass(frozen=True, eq=False)
class GroupRow:
    """One group for a table.

    Attributes:
        name: The group's.
        width: Units.
        members: Every ``(tensor name, dim)`` it occupies.
        params_share: Part of the model's parameters that would go if all its units went.
        macs_share: The same for multiply-accumulates.
        exact: Removing units equals zeroing them.
        blocks: Layouts that must stay rectangular, as ``12x64``.
        pinned: Why it cannot go, or None.
    """

    name: str
    width: int
    members: tuple[Axis, ...]
    params_share: float
    macs_share: float
    exact: bool
    blocks: tuple[str, ...]
    pinned: Pin | None

    def as_json(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "width": self.width,
            "members": [{"tensor": tensor, "dim": dim} for tensor, dim in self.members],
            "params_share": round(self.params_share, 6),
            "macs_share": round(self.macs_share, 6),
            "exact": self.exact,
            "blocks": list(self.blocks),
            "pinned": self.pinned and asdict(self.pinned),
        }


def group_table(trace: Trace) -> tuple[GroupRow, ...]:
    """Every group with its width, its members and its share of the model's cost.

    Shares of different groups overlap: a weight between two groups counts for both.

    Args:
        trace: What ``fxprune.trace`` returned.
    """
    coupling = analyse(trace).coupling
    dense = coupling.cost.dense
    rows = []
    for group in coupling.groups:
        keep = np.ones(coupling.n_units, bool)
        keep[group.units] = False
        left = coupling.cost.cost(keep)
        rows.append(
            GroupRow(
                name=group.name,
                width=group.width,
                members=group.members,
                params_share=1 - left.params / max(dense.params, 1),
                macs_share=1 - left.macs / max(dense.macs, 1),
                exact=group.exact,
                blocks=tuple(dict.fromkeys("x".join(map(str, block.cells.shape)) for block in group.blocks)),
                pinned=group.pinned,
            )
        )
    return tuple(rows)


def width_table(trace: Trace, plan: Plan) -> tuple[WidthRow, ...]:
    """Widths before and after, for every group that could be pruned.

    Args:
        trace: The model's.
        plan: Made for this model.

    Raises:
        PlanError: The plan was made for another model, or contradicts itself.
    """
    analysis = analyse(trace)
    return analysis.coupling.widths(keep_mask(analysis, plan))
