"""Grouping: units with the same signature are a group, with a name and the indices of its members."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fxprune.coupling.closing import Closed, flags, joined
from fxprune.coupling.groups import Block, Group, Pin
from fxprune.coupling.walk import Walk
from fxprune.labels import BoolArray, IntArray
from fxprune.plans import Axis
from fxprune.support.source_lines import source_of

__all__ = ["groups_of"]


def groups_of(walk: Walk, closed: Closed, axes: Mapping[Axis, IntArray]) -> tuple[Group, ...]:
    """Units with the same signature: the same axes equally often, the same blocks, the same fate.

    Args:
        walk: What the rules said.
        closed: The units it came to.
        axes: For every axis int64[n], the units along it.

    Returns:
        Every group that occupies a tensor of the model, in the order of the model.
    """
    own = set(walk.trace.names)
    members = {axis: units for axis, units in axes.items() if axis[0] in own}
    group_of, n_groups = _signatures(list(members.values()), closed)
    indices = _indices(members, group_of, n_groups)
    makes, reads = (
        {m for m in members if marked[walk.axes[m]].any()}
        for marked in (_marked(walk.produced_labels, walk), _marked(walk.consumed_labels, walk))
    )
    order = np.argsort(group_of, kind="stable")
    starts = np.searchsorted(group_of[order], np.arange(n_groups + 1))
    in_blocks = _blocks_of_groups(closed.blocks, group_of, n_groups)
    pins: dict[int, Pin] = {}
    groups = []
    taken: dict[str, int] = {}
    for g in range(n_groups):
        units = order[starts[g] : starts[g + 1]].astype(np.int64)
        number = int(closed.pin_of[units[0]])
        if number >= 0 and number not in pins:
            pins[number] = _reason(walk, number)
        producers = tuple(a for a in indices[g] if a in makes)
        groups.append(
            Group(
                name=_name(producers or tuple(indices[g]), taken),
                units=units,
                indices=indices[g],
                producers=producers,
                consumers=tuple(a for a in indices[g] if a in reads),
                exact=not closed.blurred[units].any(),
                pinned=pins.get(number),
                blocks=tuple(in_blocks[g]),
                trace=walk.trace,
            )
        )
    return tuple(groups)


def _marked(labels: list[IntArray], walk: Walk) -> BoolArray:
    return flags(labels, np.arange(walk.size), walk.size)


def _indices(
    members: Mapping[Axis, IntArray], group_of: IntArray, n_groups: int
) -> list[dict[Axis, IntArray]]:
    """For every group the positions of its units along each of its axes: int64[width, repeats]."""
    indices: list[dict[Axis, IntArray]] = [{} for _ in range(n_groups)]
    widths = np.bincount(group_of[group_of >= 0], minlength=n_groups)
    for axis, at in members.items():
        of = group_of[at]
        if (of == of[0]).all():  # most axes are of one group
            group = int(of[0])
            indices[group][axis] = np.argsort(at, kind="stable").reshape(widths[group], -1)
            continue
        order = np.lexsort((at, of))
        cuts = np.flatnonzero(np.diff(of[order])) + 1
        for positions in np.split(order, cuts):
            group = int(of[positions[0]])
            indices[group][axis] = positions.reshape(widths[group], -1).astype(np.int64)
    return indices


def _signatures(at: list[IntArray], closed: Closed) -> tuple[IntArray, int]:
    """Group number of every unit (-1 for units that occupy no tensor), by first appearance."""
    n_units, blocks, pin_of = closed.n_units, closed.blocks, closed.pin_of
    random = np.random.default_rng(0)
    # Marks of axes, of parts of blocks, of reasons to stay (there may be more than units), of a blur.
    pins = len(at) + 3 * len(blocks)
    marks = random.integers(0, 2**63, pins + int(pin_of.max(initial=-1)) + 2, np.uint64)
    totals = np.zeros(n_units, np.uint64)
    everything = joined(at)
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
    totals[closed.blurred] += marks[-1]
    held = pin_of >= 0
    totals[held] += marks[pins + pin_of[held]]
    group_of = np.full(n_units, -1, np.int64)
    _, first, inverse = np.unique(totals[occupied], return_index=True, return_inverse=True)
    ranks = np.argsort(np.argsort(first))
    group_of[occupied] = ranks[inverse]
    return group_of, len(first)


def _blocks_of_groups(blocks: list[Block], group_of: IntArray, n_groups: int) -> list[list[Block]]:
    by_group: list[list[Block]] = [[] for _ in range(n_groups)]
    for block in blocks:
        parts = [block.cells.ravel(), block.rows, *([] if block.columns is None else [block.columns])]
        for g in np.unique(group_of[np.concatenate(parts)]):
            if g >= 0:
                by_group[g].append(block)
    return by_group


def _name(axes: tuple[Axis, ...], taken: dict[str, int]) -> str:
    """The module that makes the units; its inputs or a number where that is not unique."""
    tensor, dim = axes[0]
    name = tensor.removesuffix(".weight")
    if dim:
        name = f"{name}:{dim}"
    count = taken.get(name, 0)
    taken[name] = count + 1
    return name if not count else f"{name}#{count + 1}"


def _reason(walk: Walk, number: int) -> Pin:
    """The pin in full; source lines are looked up only for those that are shown."""
    pin = walk.pins[number][1]
    if isinstance(pin, Pin):
        return pin
    reason, kind, node = pin
    op = str(node.target) if node.op == "call_function" else node.op
    return Pin(reason, op, node.name, source_of(node), kind)
