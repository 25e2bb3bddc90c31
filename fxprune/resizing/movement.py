"""Movement on fewer positions: whether the same operator still does it, and the gather that does where it does not.

An operator that only moves positions is run on the positions themselves, once at full width and once on what is
left.  What is left of the first must be what the second makes.  Rows may keep different cells: then every row is
gathered by itself, through one index over all the dimensions that carry units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxprune import labels
from fxprune.coupling.analysis import Analysis
from fxprune.labels import BoolArray, IntArray, varying
from fxprune.ops.base import Call, Move, Value
from fxprune.support.briefly import brief

__all__ = ["Gather", "Movement", "alive_positions"]

Shape = tuple[int, ...]


@brief
@dataclass(frozen=True, eq=False)
class Gather:
    """Positions to take from some neighbouring dimensions, counted as if these were one.

    Attributes:
        start: First of the dimensions.
        stop: The one after the last.
        index: int64[...], positions in the tensor that is read; its shape takes the place of the dimensions.
        of_result: Read the (dense) result of the node instead of its first tensor argument.
    """

    start: int
    stop: int
    index: IntArray
    of_result: bool = False


def alive_positions(keep: BoolArray, units: Sequence[IntArray], k: int) -> BoolArray:
    """Which positions of array ``k`` are left: those that no array over the same dimensions loses."""
    alive = keep[units[k]]
    for other in units:
        if varying(other) == varying(units[k]):
            alive = alive & keep[other]
    return alive.ravel()


@brief
@dataclass(frozen=True, eq=False)
class Movement:
    """One call that moves the positions of its first tensor.

    Attributes:
        analysis: Labels and their layouts.
        keep: bool[n_units].
        move: What the operator does to an array.
        labelled: The call over labels.
        produced: Its result over labels.
        dense: The call over units, with its result as the argument ``result``.
        slim: The same over what is left.
    """

    analysis: Analysis
    keep: BoolArray
    move: Move
    labelled: Call
    produced: object
    dense: Call
    slim: Call

    def expressed_by(self, call: Call) -> bool:
        """Whether the slim call puts what is left where the dense one puts it, the gaps closed.

        Positions are compared, not units: a unit may sit in several places whose values differ.
        """
        before, after = self.dense.tensors()[0], self.slim.tensors()[0]
        expected, originals = _values(self.slim.args["result"]), _values(self.dense.args["result"])
        for k, array in enumerate(a for a in self.labelled.tensors()[0].arrays if varying(a)):
            places = np.arange(array.size, dtype=np.int64).reshape(array.shape)
            alive = alive_positions(self.keep, before.arrays, k)
            left = labels.filtered(places, alive, self.analysis.order(array))
            assert left is not None
            try:
                moved = _as_list(self.move(call, left, after.shape))
                dense_moved = _as_list(self.move(self.dense, places, before.shape))
                moved_labels = _as_list(self.move(self.dense, array, before.shape))
            except (IndexError, ValueError):
                return False
            for m, d, label, original, target in zip(
                moved, dense_moved, moved_labels, originals, expected, strict=True
            ):
                goal = self._left_of(d, label, original)
                if goal is not None and not np.array_equal(labels.collapse(m), labels.collapse(goal)):
                    return False
                if goal is not None and not _same_sizes(m, target):
                    return False
        return True

    def _left_of(self, places: IntArray, array: IntArray, result: Value) -> IntArray | None:
        """The places that a result should hold in the end; None if its labels were pinned on the way.

        Args:
            places: Where the positions of the operand went in the dense result.
            array: Their labels there.
            result: The dense result.
        """
        if not varying(array):  # a single position was picked, and stays
            return places
        mine = self.analysis.units(array)
        if not any(np.array_equal(a, mine) for a in result.arrays):
            return None
        # Equal labels may have collapsed where places do not.
        shape = np.broadcast_shapes(places.shape, array.shape)
        left = self._left_over(result.arrays, [self.analysis.order(array)], shape)
        assert left is not None
        return np.broadcast_to(places, shape).ravel()[left]

    def _left_over(self, units: Sequence[IntArray], orders: Sequence[Shape], shape: Shape) -> IntArray | None:
        """Positions of a grid that are left, counted over the dense grid; None if they are not rectangular.

        Args:
            units: Arrays over dimensions of the grid; those over others say nothing here.
            orders: Nestings of the dimensions, the deepest decides.
            shape: Of the grid, 1 outside of it.
        """
        alive = np.ones(shape, bool)
        axes = {d for d, n in enumerate(shape) if n > 1}
        for array in units:  # each position needs all
            if set(varying(array)) <= axes:
                alive &= self.keep[array]
        order = max(([*o] for o in orders), key=len, default=[])
        at = np.arange(alive.size, dtype=np.int64).reshape(shape)
        return labels.filtered(at, alive.ravel(), [*(d for d in varying(at) if d not in order), *order])

    # --- gathering -----------------------------------------------------------------------------

    def gather(self, fixed: int) -> Gather | str:
        """The movement as one gather, or why it is none.

        Args:
            fixed: Number of leading dimensions whose size is not known before the model runs.
        """
        result, left = self.dense.args["result"], self.slim.args["result"]
        if not isinstance(result, Value) or not isinstance(left, Value):
            return "cannot be expressed by the same operator on fewer channels"
        x = self.dense.tensors()[0]
        dims = [d for a in self.labelled.tensors()[0].arrays for d in varying(a)]
        first = min(dims)
        for start, stop in ((first, max(dims) + 1), (first, x.rank), (0, x.rank)):
            if start < fixed:
                break
            after = result.rank - (x.rank - stop)
            if self._stays_outside(x, result, start, stop):
                return self._gather_over(x, result, left, range(start, stop), range(start, after))
        return "cannot be expressed by the same operator on fewer channels"

    def _stays_outside(self, x: Value, result: Value, start: int, stop: int) -> bool:
        """Nothing moves in or out of these dimensions, and all others are left as they are."""
        shift = result.rank - x.rank
        if stop + shift <= start:
            return False
        for d in (*range(start), *range(stop, x.rank)):
            line = np.arange(x.shape[d], dtype=np.int64)
            to = d if d < start else d + shift
            moved = self._moved(labels.along(line, d, x.rank), x)
            if moved is None or not np.array_equal(moved, labels.along(line, to, result.rank)):
                return False
        moved = self._moved(_grid(x.shape, range(start, stop)), x)
        return moved is not None and set(varying(moved)) <= set(range(start, stop + shift))

    def _moved(self, array: IntArray, x: Value) -> IntArray | None:
        try:
            moved = self.move(self.dense, array, x.shape)
        except (IndexError, ValueError):
            return None
        return moved if isinstance(moved, np.ndarray) else None

    def _gather_over(self, x: Value, result: Value, left: Value, dims: range, after: range) -> Gather | str:
        order = self.analysis.order
        given = self.labelled.tensors()[0].arrays
        assert isinstance(self.produced, Value)
        produced = self.produced.arrays
        living = self._left_over(x.arrays, [order(a) for a in given], _grid(x.shape, dims).shape)
        wanted = self._left_over(
            result.arrays, [order(a) for a in produced], _grid(result.shape, after).shape
        )
        moved = self._moved(_grid(x.shape, dims), x)
        if living is None or wanted is None or moved is None:
            return "would not stay rectangular: rows lose different numbers of units"
        places = np.broadcast_to(moved, _grid(result.shape, after).shape).ravel()[wanted]
        numbers = np.full(int(np.prod([x.shape[d] for d in dims])), -1, np.int64)
        numbers[living.ravel()] = np.arange(living.size)
        index = numbers[places].reshape([places.shape[d] for d in after])
        if (index < 0).any():
            return "would read a position that is gone"
        if index.shape != tuple(left.shape[d] for d in after):
            return "would have another size than its labels say"
        return Gather(dims.start, dims.stop, index)


def _grid(shape: Shape, dims: range) -> IntArray:
    """Positions counted over some dimensions."""
    sizes = [n if d in dims else 1 for d, n in enumerate(shape)]
    return np.arange(int(np.prod(sizes)), dtype=np.int64).reshape(sizes)


def _as_list(moved: IntArray | list[IntArray]) -> list[IntArray]:
    return moved if isinstance(moved, list) else [moved]


def _values(held: object) -> list[Value]:
    return [v for v in (held if isinstance(held, list) else [held]) if isinstance(v, Value)]


def _same_sizes(array: IntArray, target: Value) -> bool:
    return all(n in (1, target.shape[d]) for d, n in enumerate(array.shape))
