"""One cluster of layout constraints: which items may go together without breaking any of them.

Two ways to shrink a matrix of heads x width: drop whole rows, or drop equally many cells of
every row.  Both end in *bundles*, sets of items that go as one, such that any choice of bundles
leaves every layout rectangular.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.labels import BoolArray, FloatArray, IntArray, components
from fxprune.planning.repair import repair_bundles

__all__ = ["Cluster", "ItemBlock", "Served", "serve_inside", "serve_whole"]


@dataclass(frozen=True, eq=False)
class ItemBlock:
    """A layout constraint over the items of a cluster, as ``types.Block`` is over units."""

    rows: IntArray
    cells: IntArray
    columns: IntArray | None
    node: str


@dataclass(frozen=True, eq=False)
class Cluster:
    """Items connected through layout constraints.

    Attributes:
        blocks: Constraints over items ``0 .. m - 1``.
        frozen: bool[m], items that must stay.
        score: float64[m], sum of the scores of the item's units.
        weight: float64[m], number of scored units of the item (0 for a virtual one).
    """

    blocks: tuple[ItemBlock, ...]
    frozen: BoolArray
    score: FloatArray
    weight: FloatArray


@dataclass(frozen=True, eq=False)
class Served:
    """How a cluster may shrink.

    Attributes:
        bundle: int64[m], bundle of each item: its smallest item.
        removable: bool[m], whether the item's bundle may go.
        stuck: Nodes of the constraints for which no consistent bundles were found.
    """

    bundle: IntArray
    removable: BoolArray
    stuck: tuple[str, ...] = ()


class _Merger:
    """Items merged so far; the label of a bundle is its smallest item.

    Merging goes by pointers to smaller labels: layouts are shallow (a row and its cells), for which a
    couple of rounds suffice and a general graph search would spend its time on setting up.
    """

    def __init__(self, size: int) -> None:
        self.bundle = np.arange(size, dtype=np.int64)

    def tie(self, left: IntArray, right: IntArray) -> None:
        """Merge the bundles of items position by position (shapes broadcast)."""
        left, right = np.broadcast_arrays(self.bundle[left], self.bundle[right])
        left, right = left.reshape(-1), right.reshape(-1)
        while (left != right).any():
            low = np.minimum(left, right)
            np.minimum.at(self.bundle, left, low)
            np.minimum.at(self.bundle, right, low)
            shorter = self.bundle[self.bundle]
            while (shorter != self.bundle).any():
                self.bundle, shorter = shorter, shorter[shorter]
            left, right = self.bundle[left], self.bundle[right]

    @property
    def merged(self) -> BoolArray:
        """bool[m]: the item shares its bundle with another."""
        return np.asarray(np.bincount(self.bundle)[self.bundle] > 1)


def serve_whole(cluster: Cluster) -> Served | None:
    """Bundles that take rows whole: the finest rows first, then whatever must die with them.

    Args:
        cluster: The constraints.

    Returns:
        None where removing one row would drag all others along (one key head that serves every
        query head, a shuffle between two grouped convolutions).
    """
    merger = _Merger(len(cluster.frozen))
    open_blocks = set(range(len(cluster.blocks)))
    taken = np.zeros(0, np.int64)  # rows that go whole

    def fineness(index: int) -> tuple[int, int]:
        """The finest rows first; of equally many those with more cells, which take the others along."""
        return -len(np.unique(cluster.blocks[index].rows)), -cluster.blocks[index].cells.shape[1]

    for index in sorted(open_blocks, key=fineness):
        block = cluster.blocks[index]
        if index not in open_blocks or len(np.unique(block.rows)) < 2 or merger.merged[block.cells].any():
            continue
        trial = _Merger(len(cluster.frozen))
        trial.bundle = merger.bundle.copy()
        trial.tie(block.rows[:, None], block.cells)
        settled = _drag(cluster.blocks, open_blocks, trial)
        # Coarser rows may not pull finer ones together; the finest must not be all of one piece.
        if len(np.unique(trial.bundle[taken])) == len(np.unique(merger.bundle[taken])):
            merger, open_blocks = trial, open_blocks - settled
            taken = np.concatenate([taken, block.rows])
        if len(np.unique(merger.bundle[taken])) < 2:
            return None
    if not taken.size:
        return None
    # Where the rows of a layout stay, its columns may still go: with the rows of another that take all their cells.
    for index in open_blocks:
        block = cluster.blocks[index]
        if block.columns is not None and not merger.merged[block.rows].any():
            merger.tie(block.columns, block.cells)
    # Rows of a layout that stays open, and columns of one that does not, live as long as the layout does.
    removable = np.ones(len(cluster.frozen), bool)
    for block in cluster.blocks:
        stays = [block.rows] if block.columns is None else [block.rows, block.columns]
        for items in stays:
            removable[items[~merger.merged[items]]] = False
    rest = [cluster.blocks[b] for b in sorted(open_blocks)]
    return _serve(cluster, rest, merger, removable)


def _drag(blocks: Sequence[ItemBlock], open_blocks: set[int], merger: _Merger) -> set[int]:
    """Merge what dies with the rows taken so far; return the blocks that are thereby settled."""
    settled: set[int] = set()
    while True:
        before = merger.bundle.copy()
        merged = merger.merged
        for index in sorted(open_blocks - settled):
            block = blocks[index]
            cells = merger.bundle[block.cells]
            # Up: a row whose cells die together dies with them.  Down: a row that dies takes its cells.
            up = (cells == cells[:, :1]).all(axis=1)
            down = merged[block.rows]
            if (up | down).any():
                merger.tie(block.rows[up], block.cells[up, 0])
                merger.tie(block.rows[down, None], block.cells[down])
            if (up | down).all():
                settled.add(index)
        if (merger.bundle == before).all():
            return settled


def serve_inside(cluster: Cluster) -> Served:
    """Bundles that take equally many cells of every row; no row dies.

    Args:
        cluster: The constraints.
    """
    merger = _Merger(len(cluster.frozen))
    removable = np.ones(len(cluster.frozen), bool)
    for block in cluster.blocks:
        if block.columns is not None:
            merger.tie(block.columns, block.cells)
    for block in cluster.blocks:
        removable &= ~np.isin(merger.bundle, merger.bundle[block.rows])
    return _serve(cluster, [b for b in cluster.blocks if b.columns is None], merger, removable)


def _serve(cluster: Cluster, blocks: Sequence[ItemBlock], merger: _Merger, removable: BoolArray) -> Served:
    """Merge bundles until every constraint in ``blocks`` is respected by each of them."""
    for block in blocks:
        if block.columns is not None:
            merger.tie(block.columns, block.cells)
    removable = ~np.isin(merger.bundle, merger.bundle[cluster.frozen | ~removable])
    equal = [b for b in blocks if b.columns is None]
    stuck: list[str] = []
    for family in _families(equal, merger.bundle):
        ranked, fine = _rank_family(cluster, family, merger.bundle, removable)
        if not fine:
            cells = [block.cells for block in family]
            score = _mean_score(cluster, merger.bundle)
            ranked = repair_bundles(cells, merger.bundle, removable, score) or ranked
        if ranked is None:
            stuck.extend(block.node for block in family)
            for block in family:
                removable = removable & ~np.isin(merger.bundle, merger.bundle[block.cells])
            continue
        pairs, dropped = ranked
        removable = removable & ~np.isin(merger.bundle, dropped)
        merger.tie(*pairs)
    return Served(merger.bundle, removable, tuple(dict.fromkeys(stuck)))


Ranked = tuple[tuple[IntArray, IntArray], IntArray]
"""Pairs of bundles to merge, and bundles that must stay; the label of a bundle is its smallest item."""


def _families(blocks: Sequence[ItemBlock], bundle: IntArray) -> Iterable[list[ItemBlock]]:
    """Constraints connected through their cells, finest (fewest cells a row) first."""
    if not blocks:
        return []
    n_bundles = int(bundle.max()) + 1
    left = np.concatenate([np.full(block.cells.size, n_bundles + k) for k, block in enumerate(blocks)])
    right = np.concatenate([bundle[block.cells].reshape(-1) for block in blocks])
    label = components(n_bundles + len(blocks), left, right)[n_bundles:]
    families: dict[int, list[ItemBlock]] = {}
    for k in sorted(range(len(blocks)), key=lambda k: blocks[k].cells.shape[1]):
        families.setdefault(int(label[k]), []).append(blocks[k])
    return families.values()


def _mean_score(cluster: Cluster, bundle: IntArray) -> FloatArray:
    """Mean score of each bundle; bundles without scored units count as average."""
    total = np.bincount(bundle, cluster.score)
    weight = np.bincount(bundle, cluster.weight)
    return np.where(weight > 0, total / np.maximum(weight, 1), 1.0)


def _rank_family(
    cluster: Cluster, family: Sequence[ItemBlock], bundle: IntArray, removable: BoolArray
) -> tuple[Ranked | None, bool]:
    """Serve the finest layout by rank; the coarser ones usually follow by themselves.

    Returns:
        What to merge, None if a layout cannot be served by rank; and False if some bundles of one layout
        suit the next as they are and others had to be merged for it: they cross, and smaller bundles exist.
    """
    size = int(bundle.max()) + 1
    merger = _Merger(size)
    stays = np.zeros(size, bool)
    stays[bundle[~removable]] = True
    score = np.bincount(bundle, cluster.score, size).astype(np.float64)
    weight = np.bincount(bundle, cluster.weight, size).astype(np.float64)
    inner = Cluster((), stays, score, weight)
    fine = True
    for block in family:
        cells = bundle[block.cells]
        if _balanced(merger.bundle[cells], merger.bundle[stays]):
            continue
        ranked = _rank(merger.bundle[cells], _mean_score(inner, merger.bundle), merger.bundle[stays])
        if ranked is None:
            return None, False
        pairs, dropped = ranked
        alike = _shared_alike(merger.bundle[cells])
        fine = fine and not (merger.merged[alike].any() and merger.merged[np.concatenate(pairs)].any())
        stays |= np.isin(merger.bundle, dropped)
        merger.tie(*pairs)
    if not all(_balanced(merger.bundle[bundle[b.cells]], merger.bundle[stays]) for b in family):
        return None, False
    return ((np.arange(size), merger.bundle), np.flatnonzero(stays)), fine


def _balanced(cells: IntArray, stays: IntArray) -> bool:
    """Whether every bundle that may go occurs equally often in all rows."""
    rows = np.sort(np.where(np.isin(cells, stays), -1, cells), axis=1)
    return bool((rows == rows[0]).all())


def _rank(cells: IntArray, score: FloatArray, stays: IntArray) -> Ranked | None:
    """Merge the j-th lowest bundle of every row, for all j at once.

    Args:
        cells: int64[h, d], bundle at each cell.
        score: float64[n_bundles].
        stays: Bundles that must stay.

    Returns:
        None unless the rows are disjoint, apart from bundles that all rows share alike.
    """
    rows = np.unique(np.sort(cells, axis=1), axis=0)
    shared = _shared_alike(rows)
    private = ~np.isin(rows, shared)
    rows = rows[private].reshape(len(rows), -1)
    fresh = np.concatenate([np.ones((len(rows), 1), bool), np.diff(rows, axis=1) > 0], axis=1)
    widths = fresh.sum(axis=1)
    if np.ptp(widths) > 0:
        return None
    distinct = rows[fresh].reshape(len(rows), -1)
    times = rows.shape[1] // max(distinct.shape[1], 1)
    if len(np.unique(distinct)) < distinct.size or not np.array_equal(
        rows, np.repeat(distinct, times, axis=1)
    ):
        return None
    stay = np.isin(distinct, stays)
    order = np.argsort(np.where(stay, np.inf, score[distinct]), axis=1, kind="stable")
    ranked = np.take_along_axis(distinct, order, axis=1)
    depth = int((~stay).sum(axis=1).min())
    left, right = np.broadcast_arrays(ranked[:1, :depth], ranked[1:, :depth])
    return (left.reshape(-1), right.reshape(-1)), ranked[:, depth:].reshape(-1)


def _shared_alike(rows: IntArray) -> IntArray:
    """Bundles that occur in every row, equally often."""
    n_bundles = int(rows.max()) + 1
    keys = rows + n_bundles * np.arange(len(rows))[:, None]
    distinct, times = np.unique(keys, return_counts=True)
    bundles = distinct % n_bundles
    present = np.bincount(bundles, minlength=n_bundles) == len(rows)
    most = np.zeros(n_bundles, np.int64)
    np.maximum.at(most, bundles, times)
    total = np.bincount(bundles, times, n_bundles)
    return np.flatnonzero(present & (total == most * len(rows)))
