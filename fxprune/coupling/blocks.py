"""The laws of a keep mask: every layout stays rectangular, and every operator keeps the positions it needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxprune.coupling.groups import AtLeast, Block
from fxprune.labels import BoolArray, IntArray

__all__ = ["breach", "close", "scarce"]


def close(blocks: Sequence[Block], keep: BoolArray) -> BoolArray:
    """Let death spread over rows, columns and cells until nothing changes.

    A dead row or column takes its cells along; a row or column without a living cell is dead.
    Only these implications are followed: a mask that breaks an equal count still breaks it.

    Args:
        blocks: Layout constraints.
        keep: bool[n_units].

    Returns:
        bool[n_units], a subset of ``keep``.
    """
    keep = keep.copy()
    alive = -1
    # Nested layouts (heads of key groups) need one more sweep per level; the mask only shrinks.
    while alive != (alive := int(keep.sum())):
        for block in blocks:
            _sweep(block, keep)
    return keep


def _sweep(block: Block, keep: BoolArray) -> None:
    cells = keep[block.cells] & keep[block.rows][:, None]
    if block.columns is not None:
        cells &= keep[block.columns]
        keep[block.columns[~cells.any(axis=0)]] = False
    keep[block.cells[~cells]] = False
    keep[block.rows[~cells.any(axis=1)]] = False


def breach(block: Block, keep: BoolArray) -> str:
    """How a mask breaks the law of a block: one clause, or an empty string if it does not.

    Args:
        block: The constraint.
        keep: bool[n_units], closed by ``close``.
    """
    cells = keep[block.cells]
    counts = cells.sum(axis=1)
    alive = counts > 0
    if block.columns is not None:
        wanted = keep[block.rows][:, None] & keep[block.columns]
        if (cells != wanted).any():
            row, column = np.argwhere(cells != wanted)[0]
            return (
                f"position {column} is {'kept' if cells[row, column] else 'removed'} in row {row} "
                "and not in the others, but all rows must keep the same positions"
            )
    if alive.any() and np.ptp(counts[alive]) > 0:
        return f"its {len(counts)} rows would keep {_listed(counts)} of {cells.shape[1]}, but must keep equally many (or none)"
    if (keep[block.rows] != alive).any():
        row = int(np.flatnonzero(keep[block.rows] != alive)[0])
        return f"row {row} is marked {'kept' if keep[block.rows[row]] else 'removed'} but keeps {counts[row]} positions"
    return ""


def scarce(need: AtLeast, keep: BoolArray) -> IntArray:
    """The rows in which an operator would find too few positions: int64[n], those that die whole are none.

    Args:
        need: What the operator asks for.
        keep: bool[n_units], closed by ``close``.

    Example:
        >>> need = AtLeast(np.arange(6).reshape(2, 3), 2, "std")
        >>> scarce(need, np.array([True, False, False, True, True, False])).tolist()
        [0]
    """
    counts = keep[need.units].sum(axis=1)
    return np.flatnonzero((counts > 0) & (counts < need.count))


def _listed(counts: IntArray, most: int = 8) -> str:
    text = ", ".join(map(str, counts[:most]))
    return text + (", ..." if len(counts) > most else "")
