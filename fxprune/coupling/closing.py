"""Closing: ties become units, layouts become blocks, and what must stay is pinned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxprune import labels
from fxprune.coupling.groups import Block, Pin
from fxprune.coupling.walk import UNMADE, Walk
from fxprune.labels import BoolArray, IntArray, varying
from fxprune.ops.base import Value

__all__ = ["Closed", "close_over", "flags", "joined"]


@dataclass(frozen=True, eq=False)
class Closed:
    """Units, and what holds of them.

    Attributes:
        units: int64[n_labels], the unit of every label.
        n_units: Number of units.
        blocks: Layouts over units, each once.
        pin_of: int64[n_units], for every unit the number of the first of the walk's pins that holds it, or -1.
        blurred: bool[n_units], units whose removal changes others.
    """

    units: IntArray
    n_units: int
    blocks: list[Block]
    pin_of: IntArray
    blurred: BoolArray


def close_over(walk: Walk) -> Closed:
    """Close what the rules said; the walk registers the layouts that no rule asked for, and the last pins."""
    _register_layouts(walk)
    units = _close(walk)
    n_units = int(units.max(initial=-1)) + 1
    blocks = _blocks(walk, units)
    _pin_idle(walk, units, n_units, blocks)
    _pin_nameless(walk, units, n_units, blocks)
    blurred = flags(walk.blurred, units, n_units)
    _pin_padding(walk, units, n_units, blurred)
    pin_of = _pins(walk, units, n_units, blocks)
    for block in blocks:
        blurred[block.cells[blurred[block.rows]]] = True
    left = [b for b in blocks if (pin_of[b.cells] < 0).any()]
    return Closed(units, n_units, left, pin_of, blurred)


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
    for layout in walk.layouts:
        for cells, rows in layout.levels():
            if cells.shape[1] == 1:
                left.append(rows)
                right.append(cells[:, 0])
        if layout.columns is not None and layout.cells.size == layout.cells.shape[-1]:
            left.append(layout.columns)
            right.append(layout.cells.ravel())
    while True:
        units = labels.components(walk.size, joined(left), joined(right))
        more = _equal_rows(walk, units)
        if not len(more):
            return units
        left.append(more[:, 0])
        right.append(more[:, 1])


def joined(arrays: list[IntArray]) -> IntArray:
    """One array of several, or of none."""
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _equal_rows(walk: Walk, units: IntArray) -> IntArray:
    """Pairs of labels that are one unit but not yet tied: rows of equal cells, a row and its only unit."""
    first: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    for layout in walk.layouts:
        for cells, rows in layout.levels():
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
    blocks: dict[tuple[tuple[int, ...], bytes, bytes], Block] = {}
    for layout in walk.layouts:
        for level, (cells, rows) in enumerate(layout.levels()):
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
            blocks.setdefault((block.cells.shape, block.cells.tobytes(), ties), block)
    return list(blocks.values())


def flags(arrays: list[IntArray], units: IntArray, n_units: int) -> BoolArray:
    """bool[n_units], the units of some labels."""
    marked = np.zeros(n_units, bool)
    marked[units[joined(arrays)]] = True
    return marked


def _pin_idle(walk: Walk, units: IntArray, n_units: int, blocks: list[Block]) -> None:
    """Units that no layer makes or reads stay: rows of a position table beyond the example's length, say."""
    busy = flags([*walk.produced_labels, *walk.consumed_labels], units, n_units)
    for arrays in walk.consumed.values():
        for _, consumed in arrays:
            busy[units[np.concatenate([a.ravel() for a in consumed])]] = True
    for block in blocks:
        for part in (block.cells.ravel(), block.rows, block.columns):
            if part is not None:
                busy[part] = True
    own = flags(list(walk.axes.values()), units, n_units)
    idle = np.flatnonzero((own & ~busy)[units])
    if len(idle):
        walk.pins.append(
            (idle, Pin("no layer makes or reads these units on the example inputs", kind="data"))
        )


def _pin_padding(walk: Walk, units: IntArray, n_units: int, blurred: BoolArray) -> None:
    """Padding that meets no unit of a layer stays where positions are counted, averaged or ranked.

    What reads it further on could let it go, but nothing that is computed up to there says which positions are left.
    """
    produced = flags(walk.produced_labels, units, n_units)
    padding = np.flatnonzero((flags(walk.padded, units, n_units) & blurred & ~produced)[units])
    if len(padding):
        walk.pins.append((padding, Pin(UNMADE, kind="data")))


def _pin_nameless(walk: Walk, units: IntArray, n_units: int, blocks: list[Block]) -> None:
    """Positions that occupy no tensor stay (padding that never meets a parameter): a plan could not name them.

    Rows and columns of layouts, and cells that have both, need no name: they go with what they belong to.
    """
    named = flags([*walk.axes.values(), *(a for a, _ in walk.pins)], units, n_units)
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
