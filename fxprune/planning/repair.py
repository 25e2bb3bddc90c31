"""Bundles for constraints that cross: seed with the lowest cell, then repair the deficits.

A channel shuffle between two grouped convolutions partitions the same channels in two ways.  Cells
that lie in the same rows of all layouts are interchangeable, so the search runs over such
*kinds* of cells, and within a kind the lowest score goes first.

Two partitions into equally many rows are a bipartite multigraph in which every row has the same degree; a
bundle is a perfect matching, which such a graph always has (König), and what is left is regular
again.  So matchings of least score use up every cell.  Anything else is repaired greedily.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from fxprune.labels import BoolArray, FloatArray, IntArray

__all__ = ["repair_bundles"]

EFFORT = 4
"""Most cells that one bundle may add per row of all its layouts."""


@dataclass(frozen=True, eq=False)
class _Kinds:
    """Interchangeable bundles.

    Attributes:
        rows: int64[kinds, n_rows], how often one bundle of the kind occurs in each row.
        starts: int64[n_blocks], first row of each layout.
        block: int64[n_rows], layout of each row.
        members: For each kind, its bundles, lowest score first.
        scores: Their scores.
    """

    rows: IntArray
    starts: IntArray
    block: IntArray
    members: list[IntArray]
    scores: list[FloatArray]

    def deficit(self, counts: IntArray) -> IntArray:
        """What each row lacks to the fullest row of its layout: int64[..., n_rows]."""
        fullest = np.maximum.reduceat(counts, self.starts, axis=-1)
        return np.asarray(fullest[..., self.block] - counts)


def repair_bundles(
    layouts: Sequence[IntArray], bundle: IntArray, removable: BoolArray, score: FloatArray
) -> tuple[tuple[IntArray, IntArray], IntArray] | None:
    """Merge bundles so that each takes equally much of every row of every layout.

    Args:
        layouts: int64[h, d] each, items at the cells.
        bundle: int64[m], bundle of each item.
        removable: bool[m].
        score: float64[n_bundles].

    Returns:
        Pairs of bundles to merge and bundles that must stay, or None if nothing may go.
    """
    stays = np.unique(bundle[~removable])
    kinds = _kinds([bundle[cells] for cells in layouts], stays, score)
    taken = np.zeros(len(kinds.members), np.int64)
    sizes = np.array([len(m) for m in kinds.members], np.int64)
    dead = np.zeros(len(sizes), bool)
    recipes: dict[int, IntArray] = {}
    left: list[IntArray] = []
    right: list[IntArray] = []
    while (ready := np.flatnonzero((taken < sizes) & ~dead)).size:
        seed = int(min(ready, key=lambda k: kinds.scores[k][taken[k]]))
        recipe = recipes.get(seed)
        if recipe is None or (taken + recipe > sizes).any():
            recipe = _matching(kinds, seed, sizes - taken, taken)
        if recipe is None:
            recipe = _repair(kinds, seed, sizes - taken, taken)
        if recipe is None:
            dead[seed] = True
            continue
        recipes[seed] = recipe
        chosen = np.concatenate(
            [kinds.members[k][taken[k] : taken[k] + recipe[k]] for k in np.flatnonzero(recipe)]
        )
        left.append(np.full(len(chosen), chosen[0]))
        right.append(chosen)
        taken += recipe
    if not left:
        return None
    rest = [members[taken[k] :] for k, members in enumerate(kinds.members)]
    return (np.concatenate(left), np.concatenate(right)), np.concatenate([stays, *rest])


def _kinds(layouts: Sequence[IntArray], stays: IntArray, score: FloatArray) -> _Kinds:
    """Sort the bundles that may go by the rows in which they occur."""
    # Rows that hold the same bundles ask for the same thing once.
    distinct = [np.unique(np.sort(cells, axis=1), axis=0) for cells in layouts]
    heights = np.array([len(cells) for cells in distinct])
    block = np.repeat(np.arange(len(distinct)), heights)
    starts = np.concatenate([[0], np.cumsum(heights)[:-1]])
    units = np.setdiff1d(np.concatenate([cells.reshape(-1) for cells in distinct]), stays)
    position = np.full(len(score), -1, np.int64)
    position[units] = np.arange(len(units))
    rows = np.zeros((len(units) + 1, len(block)), np.int64)
    for start, cells in zip(starts, distinct, strict=True):
        np.add.at(rows, (position[cells], start + np.arange(len(cells))[:, None]), 1)
    patterns, kind = np.unique(rows[:-1], axis=0, return_inverse=True)
    order = np.lexsort((units, score[units], kind.reshape(-1)))
    cuts = np.cumsum(np.bincount(kind.reshape(-1), minlength=len(patterns)))[:-1]
    members = np.split(units[order], cuts)
    return _Kinds(patterns, starts, block, members, [score[m] for m in members])


def _matching(kinds: _Kinds, seed: int, left: IntArray, taken: IntArray) -> IntArray | None:
    """The cheapest bundle with one cell in every row of two layouts, around a seed: int64[kinds].

    Returns:
        None if there are not two layouts of equally many rows, or no such bundle.
    """
    heights = np.bincount(kinds.block)
    if len(heights) != 2 or heights[0] != heights[1] or (kinds.rows.sum(axis=1) != 2).any():
        return None
    one, other = np.split(kinds.rows, [heights[0]], axis=1)
    if not (one.any(axis=1) & other.any(axis=1)).all():
        return None
    place = one.argmax(axis=1), other.argmax(axis=1)
    ready = np.flatnonzero(left > 0)
    prices = np.array([kinds.scores[k][taken[k]] for k in ready])
    # Far more than any sum of scores, so that a full matching is preferred to a cheap one.
    barrier = 2.0 * (np.abs(prices).sum() + 1)
    price = np.full((heights[0], heights[0]), barrier)
    price[place[0][ready], place[1][ready]] = prices
    price[place[0][seed]] = barrier
    price[place[0][seed], place[1][seed]] = -barrier * heights[0]
    kind = np.full(price.shape, -1, np.int64)
    kind[place[0][ready], place[1][ready]] = ready
    chosen = kind[linear_sum_assignment(price)]
    if (chosen < 0).any() or seed not in chosen:
        return None
    return np.bincount(chosen, minlength=len(left))


def _repair(kinds: _Kinds, seed: int, left: IntArray, taken: IntArray) -> IntArray | None:
    """How many bundles of each kind make one balanced bundle around a seed.

    Returns:
        int64[kinds], or None if the deficits do not close within the effort.
    """
    recipe = np.zeros(len(left), np.int64)
    recipe[seed] = 1
    counts = kinds.rows[seed].copy()
    for _ in range(EFFORT * len(kinds.block)):
        deficit = kinds.deficit(counts)
        if not deficit.any():
            return recipe
        helps = kinds.rows[:, deficit > 0].any(axis=1)
        options = np.flatnonzero(helps & (recipe < left))
        if not options.size:
            return None
        after = kinds.deficit(counts + kinds.rows[options]).sum(axis=1)
        best = options[after == after.min()]
        choice = int(min(best, key=lambda k: kinds.scores[k][taken[k] + recipe[k]]))
        recipe[choice] += 1
        counts = counts + kinds.rows[choice]
    return None
