"""Layouts: labels over several dimensions, and the labels of their rows and columns."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple, Protocol

import numpy as np

from fxprune.labels import IntArray, varying

__all__ = ["Layout", "Layouts", "Placed"]

Shape = tuple[int, ...]


class Registrar(Protocol):
    """Where new labels come from, and who is told what cannot go: the walk, at the node it has come to."""

    def fresh(self, shape: Shape) -> IntArray:
        """New labels that belong to no parameter."""

    def pin(self, arrays: Sequence[IntArray], reason: str) -> None:
        """None of these labels may go."""

    @property
    def at(self) -> str:
        """Name of the node."""


@dataclass(eq=False)
class Layout:
    """Labels over several dimensions, outermost first, and the labels of their rows and columns.

    Attributes:
        cells: int64[n1, ..., nk].
        rows: For each level but the last, labels of its rows: int64[n1], int64[n1, n2], ...
        columns: int64[nk], set when something ties a column across all rows.
        node: Where it was first seen.
    """

    cells: IntArray
    rows: list[IntArray]
    columns: IntArray | None
    node: str

    def levels(self) -> list[tuple[IntArray, IntArray]]:
        """(cells, rows) matrices of every nesting level, the finest first."""
        levels = [*self.rows, self.cells]
        return [
            (levels[k].reshape(-1, levels[k].shape[-1]), levels[k - 1].ravel())
            for k in range(len(levels) - 1, 0, -1)
        ]


class Placed(NamedTuple):
    """Where an array lies in a layout.

    Attributes:
        layout: The layout.
        axes: The varying dimensions of the array from outside in.
        numbers: For each of them int64[n], the positions in the layout.
    """

    layout: Layout
    axes: Shape
    numbers: list[IntArray]


class Layouts:
    """The layouts of one graph, each once, whichever way its arrays are turned.

    Rules register them during the walk.  Afterwards `order` only looks them up.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Shape, bytes], Layout] = {}
        self._placed: dict[int, tuple[weakref.ref[IntArray], Placed]] = {}

    def __iter__(self) -> Iterator[Layout]:
        return iter(self._known.values())

    def order(self, array: IntArray) -> Shape:
        """The varying dimensions from the outermost to the innermost, as they lie where no layout says otherwise."""
        axes = varying(array)
        if len(axes) < 2:
            return axes
        known = self._placed.get(id(array))
        if known is not None and known[0]() is array:
            return known[1].axes
        placed = self._find(*_distinct(array, axes, axes))
        return axes if placed is None else placed.axes

    def placed(self, array: IntArray, registrar: Registrar) -> Placed:
        """Where an array lies; rules ask again and again for the same ones."""
        known = self._placed.get(id(array))
        # The reference says whether this is still the array that once had this id.
        if known is None or known[0]() is not array:
            self._placed[id(array)] = known = (weakref.ref(array), self.place(array, registrar))
        return known[1]

    def place(self, array: IntArray, registrar: Registrar, nest: Sequence[int] | None = None) -> Placed:
        """Find or register the layout of an array.

        Args:
            array: Labels over some dimensions.
            registrar: Makes labels of the rows.
            nest: The dimensions from the outermost to the innermost, if they are not in their order.
        """
        cells, axes, numbers = _distinct(array, varying(array), nest)
        placed = self._find(cells, axes, numbers)
        if placed is None:
            cells = np.ascontiguousarray(cells)
            rows = [registrar.fresh(cells.shape[:level]) for level in range(1, cells.ndim)]
            placed = Placed(Layout(cells, rows, None, registrar.at), axes, numbers)
            self._known[(cells.shape, cells.tobytes())] = placed.layout
        if placed.numbers:
            self._even(placed, registrar)
        return placed

    def _find(self, cells: IntArray, axes: Shape, numbers: list[IntArray]) -> Placed | None:
        for turn in permutations(range(cells.ndim)):
            turned = np.ascontiguousarray(cells.transpose(turn))
            layout = self._known.get((turned.shape, turned.tobytes()))
            if layout is not None:
                return Placed(layout, tuple(axes[t] for t in turn), [numbers[t] for t in turn])
        return None

    def _even(self, placed: Placed, registrar: Registrar) -> None:
        """Where some columns lie in more places than others, counts say nothing: all rows must keep the same ones."""
        if placed.layout.cells.ndim > 1 and np.ptp(np.bincount(placed.numbers[-1])) > 0:
            self._columns(placed.layout, registrar)

    def _columns(self, layout: Layout, registrar: Registrar) -> IntArray:
        if layout.columns is None:
            layout.columns = registrar.fresh(layout.cells.shape[-1:])
        return layout.columns

    def project(self, array: IntArray, dims: Sequence[int], registrar: Registrar) -> IntArray:
        """Labels of rows or columns.

        Args:
            array: Labels over several dimensions.
            dims: Some of them, not all.
            registrar: Makes labels of columns that have none yet; is told of layouts that cannot be sliced.
        """
        wanted = set(dims)
        layout, order, numbers = self.placed(array, registrar)
        level = len(wanted)
        if set(order[:level]) == wanted:
            part = layout.rows[level - 1]
            used = list(range(level))
        elif wanted == {order[-1]}:
            part, used = self._columns(layout, registrar), [len(order) - 1]
        else:
            registrar.pin([array], "rows of a layout that is too irregular to slice")
            part = registrar.fresh(tuple(layout.cells.shape[order.index(d)] for d in sorted(wanted)))
            registrar.pin([part], "rows of a layout that is too irregular to slice")
            used = [order.index(d) for d in sorted(wanted)]
        part = part[np.ix_(*(numbers[k] for k in used))]
        target = [order[k] for k in used]
        part = part.transpose(np.argsort(target))
        return part.reshape([n if d in wanted else 1 for d, n in enumerate(array.shape)])


def _distinct(
    array: IntArray, axes: Shape, nest: Sequence[int] | None
) -> tuple[IntArray, Shape, list[IntArray]]:
    """An array over its varying dimensions alone, equal slices along a dimension (heads repeated for every sample) once."""
    cells = array.reshape([n for n in array.shape if n > 1])
    if nest is not None:
        axes = tuple(nest)
        cells = cells.transpose(np.argsort(np.argsort(axes)))
    numbers = []
    for d in range(cells.ndim):
        cells, number = _distinct_slices(cells, d)
        numbers.append(number)
    return cells, axes, numbers


def _distinct_slices(cells: IntArray, dim: int) -> tuple[IntArray, IntArray]:
    """Drop repeated slices along a dimension; returns what is left and each old slice's new number."""
    n = cells.shape[dim]
    lines = np.moveaxis(cells, dim, 0).reshape(n, -1)
    if len(np.unique(lines[:, 0])) == n:
        return cells, np.arange(n, dtype=np.int64)
    # Sorting whole lines is slow: sums of random multiples stand for them, and are checked.
    marks = np.random.default_rng(0).integers(1, 2**63, lines.shape[1], np.uint64)
    sums = (lines.astype(np.uint64) * marks).sum(axis=1, dtype=np.uint64)
    _, first, inverse = np.unique(sums, return_index=True, return_inverse=True)
    assert (lines == lines[first][inverse]).all(), "two lines of labels have the same sum"
    ranks = np.argsort(np.argsort(first))
    return cells.take(np.sort(first), axis=dim), ranks[inverse.ravel()].astype(np.int64)
