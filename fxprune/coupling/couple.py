"""Couple: close the ties that the walk found and gather units into groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fxprune import labels
from fxprune.coupling.groups import AtLeast, Block, Coupling, Group, Pin, Tie
from fxprune.coupling.steering import pin_steering
from fxprune.coupling.walk import Layout, Walk
from fxprune.errors import TraceError, UnsupportedOp
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, IntArray, varying
from fxprune.ops.base import Value
from fxprune.plans import Axis
from fxprune.support.source_lines import source_of

__all__ = ["Flow", "couple", "coupling", "flow"]


@dataclass(frozen=True, eq=False)
class Flow:
    """What the later stages need of the walk.

    Attributes:
        walk: Values, calls and layouts of every node.
        unit_of_label: int64[n_labels].
    """

    walk: Walk
    unit_of_label: IntArray

    def units(self, array: IntArray) -> IntArray:
        """Unit ids instead of labels."""
        return self.unit_of_label[array]


def couple(trace: Trace, *, strict: bool = False) -> tuple[Group, ...]:
    """Find which channels must live or die together.

    Args:
        trace: A traced model.
        strict: Raise instead of pinning where an operator has no rule.

    Returns:
        Every group that touches a parameter or buffer, pinned ones included, in the order of
        the model.

    Raises:
        UnsupportedOp: With ``strict``, an operator without a rule met prunable units.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> for group in fxprune.couple(fxprune.trace(net, torch.zeros(1, 3, 9, 9))):
        ...     if not group.pinned:
        ...         print(group.name, group.width, group.members)
        0 8 (('0.weight', 0), ('0.bias', 0), ('2.weight', 1))

    References:
        Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, names the problem; the
        label arrays used here replace its per-layer patterns.
    """
    found = coupling(trace)
    unsupported = flow(trace).walk.unsupported
    if strict and unsupported:
        node, why = unsupported[0]
        raise UnsupportedOp(
            why,
            node=node.name,
            op=str(node.target),
            source=source_of(node),
            advice="call couple without strict to pin what reaches it, or add an OpRule",
        )
    return found.groups


def coupling(trace: Trace) -> Coupling:
    """The complete coupling of a trace; computed once.

    Raises:
        TraceError: It is no trace.
    """
    if not isinstance(trace, Trace):
        raise TraceError(
            f"expected a Trace, got {type(trace).__name__}",
            advice="trace the model first: fxprune.trace(model, example_inputs)",
        )
    if "coupling" not in trace.cache:
        _analyse(trace)
    result = trace.cache["coupling"]
    assert isinstance(result, Coupling)
    return result


def flow(trace: Trace) -> Flow:
    """The walk behind the coupling of a trace; computed once."""
    coupling(trace)
    result = trace.cache["flow"]
    assert isinstance(result, Flow)
    return result


def _analyse(trace: Trace) -> None:
    walk = Walk(trace)
    walk.run(trace.graph, counting=True)
    for extra in trace.extras:
        walk.run(extra, counting=False)
    pin_steering(walk)
    _add_param_costs(walk, trace)
    _register_layouts(walk)
    units = _close(walk)
    n_units = int(units.max(initial=-1)) + 1
    blocks = _blocks(walk, units)
    _pin_idle(walk, units, n_units, blocks)
    _pin_nameless(walk, units, n_units, blocks)
    pin_of = _pins(walk, units, n_units, blocks)
    blurred = _flags(walk.blurred, units, n_units)
    for block in blocks:
        blurred[block.cells[blurred[block.rows]]] = True
    blocks = [b for b in blocks if (pin_of[b.cells] < 0).any()]
    axes = {axis: units[array] for axis, array in walk.axes.items()}
    groups = _groups(walk, trace, axes, units, n_units, blocks, pin_of, blurred)
    trace.cache["flow"] = Flow(walk, units)
    trace.cache["coupling"] = Coupling(
        groups=groups,
        blocks=tuple(blocks),
        n_units=n_units,
        pinned=pin_of >= 0,
        axes=axes,
        cost=walk.costs.build(units, samples=trace.batch),
        fingerprint=trace.fingerprint,
        at_least=tuple(AtLeast(units[rows], count, node.name) for rows, count, node in walk.needs),
    )


def _add_param_costs(walk: Walk, trace: Trace) -> None:
    """Every parameter counts once, pruned along its labelled axes."""
    for name, parameter in trace.model.named_parameters():
        dims = [d for d in range(parameter.ndim) if (name, d) in walk.axes]
        rest = parameter.numel()
        for d in dims:
            rest //= parameter.shape[d]
        walk.costs.add_params(rest, *(walk.costs.form(walk.axes[name, d]) for d in dims))


def _register_layouts(walk: Walk) -> None:
    """Every array over several dimensions must stay rectangular, even if no rule asked for its rows."""
    pinned = np.zeros(walk.size, bool)
    for array, _ in walk.pins:
        pinned[array] = True
    seen: set[int] = set()
    for node, held in walk.values.items():
        walk.node = node
        for value in held if isinstance(held, list) else [held]:
            if not isinstance(value, Value):
                continue
            for array in value.arrays:
                if id(array) not in seen and len(varying(array)) > 1:
                    seen.add(id(array))
                    if not pinned[array[array < len(pinned)]].all():
                        walk.order(array)


def _close(walk: Walk) -> IntArray:
    """Units from ties; layouts add theirs until nothing changes.

    A row of one cell is its cell, a column over one row too; a row whose cells are all one unit is that
    unit, and rows of equal cells are one row.
    """
    left = [a for a, _, _ in walk.ties]
    right = [b for _, b, _ in walk.ties]
    for layout in walk.layouts.values():
        for cells, rows in _levels(layout):
            if cells.shape[1] == 1:
                left.append(rows)
                right.append(cells[:, 0])
        if layout.columns is not None and layout.cells.size == layout.cells.shape[-1]:
            left.append(layout.columns)
            right.append(layout.cells.ravel())
    while True:
        units = labels.components(walk.size, _joined(left), _joined(right))
        more = _equal_rows(walk, units)
        if not len(more):
            return units
        left.append(more[:, 0])
        right.append(more[:, 1])


def _joined(arrays: list[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _levels(layout: Layout) -> list[tuple[IntArray, IntArray]]:
    """(cells, rows) matrices of every nesting level, the finest first."""
    levels = [*layout.rows, layout.cells]
    return [
        (levels[k].reshape(-1, levels[k].shape[-1]), levels[k - 1].ravel())
        for k in range(len(levels) - 1, 0, -1)
    ]


def _equal_rows(walk: Walk, units: IntArray) -> IntArray:
    """Pairs of labels that are one unit but not yet tied: rows of equal cells, a row and its only unit."""
    first: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    for layout in walk.layouts.values():
        for cells, rows in _levels(layout):
            ordered = np.sort(units[cells], axis=1)
            single = (ordered[:, 0] == ordered[:, -1]) & (ordered[:, 0] != units[rows])
            pairs.extend(zip(cells[single, 0].tolist(), rows[single].tolist(), strict=True))
            for key, row in zip(map(bytes, ordered), rows.tolist(), strict=True):
                other = first.setdefault(key, row)
                if units[other] != units[row]:
                    pairs.append((other, row))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _blocks(walk: Walk, units: IntArray) -> list[Block]:
    """Layouts over units, each distinct one once."""
    found: dict[tuple[tuple[int, ...], bytes, bytes], Block] = {}
    for layout in walk.layouts.values():
        for level, (cells, rows) in enumerate(_levels(layout)):
            if cells.shape[1] == 1:
                continue
            columns = layout.columns if level == 0 else None
            if columns is None and (units[cells] == units[rows][:, None]).all():
                continue  # every row is one unit: nothing can break
            # q, k and v of one head are one row unit, but v's cells must be counted as well.
            _, first = np.unique(np.column_stack([units[rows], units[cells]]), axis=0, return_index=True)
            first.sort()
            block = Block(
                rows=units[rows[first]],
                cells=units[cells[first]],
                columns=None if columns is None else units[columns],
                node=layout.node,
            )
            ties = b"" if block.columns is None else block.columns.tobytes()
            found.setdefault((block.cells.shape, block.cells.tobytes(), ties), block)
    return list(found.values())


def _flags(arrays: list[IntArray], units: IntArray, n_units: int) -> BoolArray:
    flags = np.zeros(n_units, bool)
    if arrays:
        flags[units[np.concatenate(arrays)]] = True
    return flags


def _pin_idle(walk: Walk, units: IntArray, n_units: int, blocks: list[Block]) -> None:
    """Units that no layer makes or reads stay: rows of a position table beyond the example's length, say."""
    busy = _flags([*walk.produced_labels, *walk.consumed_labels], units, n_units)
    for arrays in walk.consumed.values():
        for _, consumed in arrays:
            busy[units[np.concatenate([a.ravel() for a in consumed])]] = True
    for block in blocks:
        for part in (block.cells.ravel(), block.rows, block.columns):
            if part is not None:
                busy[part] = True
    own = _flags(list(walk.axes.values()), units, n_units)
    idle = np.flatnonzero((own & ~busy)[units])
    if len(idle):
        walk.pins.append(
            (idle, Pin("no layer makes or reads these units on the example inputs", kind="data"))
        )


def _pin_nameless(walk: Walk, units: IntArray, n_units: int, blocks: list[Block]) -> None:
    """Positions that occupy no tensor stay (padding that never meets a parameter): a plan could not name them.

    Rows and columns of layouts, and cells that have both, need no name: they go with what they belong to.
    """
    named = _flags([*walk.axes.values(), *(a for a, _ in walk.pins)], units, n_units)
    for block in blocks:
        named[block.rows] = True
        if block.columns is not None:
            named[block.columns] = named[block.cells] = True
    nameless = np.flatnonzero(~named[units])
    if len(nameless):
        walk.pins.append((nameless, Pin("padding that meets no parameter", kind="data")))


def _pins(walk: Walk, units: IntArray, n_units: int, blocks: list[Block]) -> IntArray:
    """For every unit the number of the first pin that holds it, or -1.

    A row with a cell that stays must stay, and so must that cell's column.
    """
    pin_of = np.full(n_units, -1, np.int64)
    for k in range(len(walk.pins) - 1, -1, -1):
        pin_of[units[walk.pins[k][0]]] = k
    for _ in range(4):
        before = (pin_of >= 0).sum()
        for block in blocks:
            held = pin_of[block.cells]
            for target, axis in ((block.rows, 1), (block.columns, 0)):
                if target is not None:
                    reason = held.max(axis=axis)
                    free = (pin_of[target] < 0) & (reason >= 0)
                    pin_of[target[free]] = reason[free]
            if block.columns is not None:
                fixed = (pin_of[block.rows] >= 0)[:, None] & (pin_of[block.columns] >= 0)[None]
                loose = fixed & (pin_of[block.cells] < 0)
                pin_of[block.cells[loose]] = np.broadcast_to(pin_of[block.columns], loose.shape)[loose]
        if (pin_of >= 0).sum() == before:
            break
    return pin_of


def _reason(walk: Walk, number: int) -> Pin:
    """The pin in full; source lines are looked up only for those that are shown."""
    made = walk.pins[number][1]
    if isinstance(made, Pin):
        return made
    reason, kind, node = made
    op = str(node.target) if node.op == "call_function" else node.op
    return Pin(reason, op, node.name, source_of(node), kind)


def _groups(
    walk: Walk,
    trace: Trace,
    axes: Mapping[Axis, IntArray],
    units: IntArray,
    n_units: int,
    blocks: list[Block],
    pin_of: IntArray,
    blurred: BoolArray,
) -> tuple[Group, ...]:
    """Units with the same signature: the same axes equally often, the same blocks, the same fate."""
    own = set(trace.names)
    members = [axis for axis in axes if axis[0] in own]
    group_of, n_groups = _signatures([axes[m] for m in members], n_units, blocks, pin_of, blurred)
    indices: list[dict[Axis, IntArray]] = [{} for _ in range(n_groups)]
    widths = np.bincount(group_of[group_of >= 0], minlength=n_groups)
    for axis in members:
        at = axes[axis]
        of = group_of[at]
        order = np.lexsort((at, of))
        cuts = np.flatnonzero(np.diff(of[order])) + 1
        for positions in np.split(order, cuts):
            group = int(of[positions[0]])
            indices[group][axis] = positions.reshape(widths[group], -1).astype(np.int64)
    produced = _flags(walk.produced_labels, np.arange(walk.size), walk.size)
    consumed = _flags(walk.consumed_labels, np.arange(walk.size), walk.size)
    makes = {m for m in members if produced[walk.axes[m]].any()}
    reads = {m for m in members if consumed[walk.axes[m]].any()}
    order_of_units = np.argsort(group_of, kind="stable")
    starts = np.searchsorted(group_of[order_of_units], np.arange(n_groups + 1))
    in_blocks = _blocks_of_groups(blocks, group_of, n_groups)
    pins: dict[int, Pin] = {}
    groups = []
    taken: dict[str, int] = {}
    for g in range(n_groups):
        its = order_of_units[starts[g] : starts[g + 1]]
        number = int(pin_of[its[0]])
        if number >= 0 and number not in pins:
            pins[number] = _reason(walk, number)
        producers = tuple(a for a in indices[g] if a in makes)
        groups.append(
            Group(
                name=_name(producers or tuple(indices[g]), taken),
                units=its.astype(np.int64),
                indices=indices[g],
                producers=producers,
                consumers=tuple(a for a in indices[g] if a in reads),
                exact=not blurred[its].any(),
                pinned=pins.get(number),
                blocks=tuple(in_blocks[g]),
                trace=trace,
            )
        )
    return tuple(groups)


def _signatures(
    at: list[IntArray], n_units: int, blocks: list[Block], pin_of: IntArray, blurred: BoolArray
) -> tuple[IntArray, int]:
    """Group number of every unit (-1 for units that occupy no tensor), by first appearance."""
    random = np.random.default_rng(0)
    marks = random.integers(0, 2**63, len(at) + 3 * len(blocks) + n_units + 2, np.uint64)
    totals = np.zeros(n_units, np.uint64)
    everything = _joined(at)
    owner = np.repeat(np.arange(len(at)), [len(a) for a in at])
    occupied = np.zeros(n_units, bool)
    occupied[everything] = True
    # Sums of random marks compare multisets of axes; 64 bits make a collision unthinkable.
    np.add.at(totals, everything, marks[owner] * np.uint64(3) + np.uint64(1))
    for k, block in enumerate(blocks):
        base = len(at) + 3 * k
        for part, target in enumerate((block.cells, block.rows, block.columns)):
            if target is not None:
                totals[np.unique(target)] += marks[base + part]
    totals[blurred] += marks[-1]
    held = pin_of >= 0
    totals[held] += marks[pin_of[held] + len(at) + 3 * len(blocks)] if held.any() else np.uint64(0)
    group_of = np.full(n_units, -1, np.int64)
    _, first, inverse = np.unique(totals[occupied], return_index=True, return_inverse=True)
    ranks = np.argsort(np.argsort(first))
    group_of[occupied] = ranks[inverse]
    return group_of, len(first)


def _blocks_of_groups(blocks: list[Block], group_of: IntArray, n_groups: int) -> list[list[Block]]:
    found: list[list[Block]] = [[] for _ in range(n_groups)]
    for block in blocks:
        parts = [block.cells.ravel(), block.rows, *([] if block.columns is None else [block.columns])]
        for g in np.unique(group_of[np.concatenate(parts)]):
            if g >= 0:
                found[g].append(block)
    return found


def _name(axes: tuple[Axis, ...], taken: dict[str, int]) -> str:
    """The module that makes the units; its inputs or a number where that is not unique."""
    tensor, dim = axes[0]
    name = tensor.removesuffix(".weight")
    if dim:
        name = f"{name}:{dim}"
    count = taken.get(name, 0)
    taken[name] = count + 1
    return name if not count else f"{name}#{count + 1}"


def tie_list(trace: Trace) -> tuple[Tie, ...]:
    """Every tie between two tensor axes, once, with the operator that makes it.

    Virtual axes (padding, rows of blocks) appear under their node's name in angle brackets.
    """
    walk = flow(trace).walk
    starts, names = _axis_table(walk)
    found: dict[tuple[int, int, str], Tie] = {}
    for a, b, node in walk.ties:
        left = np.searchsorted(starts, a, side="right") - 1
        right = np.searchsorted(starts, b, side="right") - 1
        for i, j in np.unique(np.stack([left, right], axis=1), axis=0):
            if i != j:
                key = (int(i), int(j), node.name)
                if key not in found:
                    found[key] = Tie(names[i], names[j], str(node.target), node.name, source_of(node))
    return tuple(found.values())


def _axis_table(walk: Walk) -> tuple[IntArray, list[Axis]]:
    """First label of every axis, real and virtual, in order."""
    entries = [(int(array[0]), axis) for axis, array in walk.axes.items()]
    entries += [(start, (f"<{name}>", k)) for k, (start, name) in enumerate(walk.virtual)]
    entries.sort(key=lambda e: e[0])
    return np.array([s for s, _ in entries], np.int64), [a for _, a in entries]
