"""From units to atoms: sets of units that may go together, whatever else goes.

Whichever atoms are removed, every block stays rectangular; so the search above this module need not know
about layouts.  Atoms made of the same groups in the same numbers cost the same: they form a *stream*,
from which the lowest scores go first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fxprune.coupling.groups import Block, Coupling
from fxprune.labels import BoolArray, FloatArray, IntArray, components
from fxprune.planning.layout import Cluster, ItemBlock, Served, serve_inside, serve_whole

__all__ = ["Atoms", "Mode", "make_atoms"]

Mode = Literal["auto", "whole", "inside"]

FEWEST_ROWS = 4
"""With ``blocks="auto"`` whole rows (heads, groups) go from this many on: a quarter is a fine enough step."""


@dataclass(frozen=True, eq=False)
class Atoms:
    """A partition of the removable units.

    Attributes:
        of_unit: int64[n_units], the atom of each unit, -1 where it cannot go.
        score: float64[n_atoms], mean score of the atom's units.
        stream: int64[n_atoms], atoms of one stream cost the same.
        notes: Constraints for which no atoms were found.
    """

    of_unit: IntArray
    score: FloatArray
    stream: IntArray
    notes: tuple[str, ...]

    @property
    def n_streams(self) -> int:
        """Number of streams."""
        return int(self.stream.max(initial=-1)) + 1


def make_atoms(
    coupling: Coupling,
    score: FloatArray,
    frozen: BoolArray,
    *,
    mode: Mode = "auto",
    ties: Sequence[tuple[IntArray, IntArray]] = (),
) -> Atoms:
    """Partition what may go into atoms.

    Args:
        coupling: Units, groups and blocks.
        score: float64[n_units], NaN where a unit has none; those of virtual units are not looked at.
        frozen: bool[n_units], units that must stay.
        mode: Whether whole rows of a layout go, or as many cells of every row.
        ties: Pairs of units that must go together beside what the coupling says.

    Returns:
        Atoms; bundles without any score are left out.
    """
    item = _ties(coupling.blocks, coupling.n_units, ties)
    n_items = int(item.max(initial=-1)) + 1
    real = np.zeros(coupling.n_units, bool)
    for group in coupling.groups:
        real[group.units] = True
    score = np.where(real, score, np.nan)
    scored = ~np.isnan(score)
    cluster = Cluster(
        blocks=tuple(_over_items(block, item) for block in coupling.blocks),
        frozen=np.bincount(item[frozen], minlength=n_items) > 0,
        score=np.bincount(item[scored], score[scored], n_items).astype(np.float64),
        weight=np.bincount(item[scored], minlength=n_items).astype(np.float64),
    )
    served = _serve_all(cluster, mode)
    # Without a score nobody can say when a bundle should go: it stays.
    removable = served.removable & _any(cluster.weight > 0, served.bundle)
    return _atoms(coupling, score, served.bundle[item], removable[item], served)


def _any(flag: BoolArray, bundle: IntArray) -> BoolArray:
    """Whether the bundle of each item holds a flagged item."""
    return np.asarray(np.bincount(bundle[flag], minlength=int(bundle.max(initial=-1)) + 1) > 0)[bundle]


def _ties(blocks: tuple[Block, ...], n_units: int, ties: Sequence[tuple[IntArray, IntArray]]) -> IntArray:
    """Items: units merged where a row has a single cell (a depthwise convolution), level by level."""
    left = [one for one, _ in ties]
    right = [other for _, other in ties]
    item = np.arange(n_units, dtype=np.int64)
    if ties:
        item = components(n_units, np.concatenate(left), np.concatenate(right))
    while True:
        n_edges = len(left)
        for block in blocks:
            cells = item[block.cells]
            single = (cells == cells[:, :1]).all(axis=1) & (item[block.rows] != cells[:, 0])
            if single.any():
                left.append(block.rows[single])
                right.append(block.cells[single, 0])
        if len(left) == n_edges:
            return item
        item = components(n_units, np.concatenate(left), np.concatenate(right))


def _over_items(block: Block, item: IntArray) -> ItemBlock:
    columns = None if block.columns is None else item[block.columns]
    return ItemBlock(item[block.rows], item[block.cells], columns, block.node)


def _is_live(block: ItemBlock) -> bool:
    """Some row holds different items: there is something to keep equal."""
    return bool((block.cells != block.cells[:, :1]).any())


def _serve_all(cluster: Cluster, mode: Mode) -> Served:
    """Serve every connected cluster of live layouts on its own; free items are bundles by themselves."""
    n_items = len(cluster.frozen)
    live = [block for block in cluster.blocks if _is_live(block)]
    members = [_items(block) for block in live]
    bundle = np.arange(n_items, dtype=np.int64)
    removable = ~cluster.frozen
    for block in cluster.blocks:
        if block.columns is not None and not _is_live(block):
            removable[block.columns] = False  # the only column lives as long as any row
    stuck: list[str] = []
    if live:
        left = np.concatenate([np.full(len(m), n_items + k) for k, m in enumerate(members)])
        label = components(n_items + len(live), left, np.concatenate(members))[n_items:]
        for one in np.unique(label):
            chosen = np.flatnonzero(label == one)
            items = np.unique(np.concatenate([members[k] for k in chosen]))
            served = _serve_one(_sub_cluster(cluster, [live[k] for k in chosen], items), mode)
            bundle[items] = items[served.bundle]
            removable[items] = served.removable
            stuck.extend(served.stuck)
    return Served(bundle, removable, tuple(stuck))


def _items(block: ItemBlock) -> IntArray:
    columns = [] if block.columns is None else [block.columns]
    return np.concatenate([block.rows, block.cells.reshape(-1), *columns])


def _sub_cluster(cluster: Cluster, blocks: list[ItemBlock], items: IntArray) -> Cluster:
    """The cluster of some blocks alone, items renumbered ``0 .. len(items) - 1``."""

    def local(index: IntArray) -> IntArray:
        return np.searchsorted(items, index)

    own = tuple(
        ItemBlock(local(b.rows), local(b.cells), None if b.columns is None else local(b.columns), b.node)
        for b in blocks
    )
    return Cluster(own, cluster.frozen[items], cluster.score[items], cluster.weight[items])


def _serve_one(cluster: Cluster, mode: Mode) -> Served:
    """Serve a cluster in the wanted way, or in the other one if that leaves nothing to remove."""
    rows = max(len(np.unique(block.rows)) for block in cluster.blocks)
    if mode == "whole" or (mode == "auto" and rows >= FEWEST_ROWS):
        served = serve_whole(cluster)
        served = serve_inside(cluster) if served is None or not served.removable.any() else served
    else:
        served = serve_inside(cluster)
        served = served if served.removable.any() else serve_whole(cluster) or served
    if served.stuck or served.removable.any() or cluster.frozen.all():
        return served
    return replace(served, stuck=tuple(block.node for block in cluster.blocks))


def _atoms(
    coupling: Coupling, score: FloatArray, bundle: IntArray, removable: BoolArray, served: Served
) -> Atoms:
    """Number the atoms by their first unit and sort them into streams."""
    units = np.flatnonzero(removable)
    _, first, inverse = np.unique(bundle[units], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    of_unit = np.full(coupling.n_units, -1, np.int64)
    of_unit[units] = rank[inverse.reshape(-1)]
    n_atoms = len(first)
    scored = units[~np.isnan(score[units])]
    total = np.bincount(of_unit[scored], score[scored], n_atoms)
    weight = np.bincount(of_unit[scored], minlength=n_atoms)
    notes = tuple(
        f"no removal keeps the layout of '{node}' rectangular, so the channels it touches are left whole"
        for node in dict.fromkeys(served.stuck)
    )
    return Atoms(of_unit, total / np.maximum(weight, 1), _streams(coupling, of_unit, n_atoms), notes)


def _streams(coupling: Coupling, of_unit: IntArray, n_atoms: int) -> IntArray:
    """Atoms that count alike: the same groups, and the same positions in every form of the cost.

    Compared through sums of random 64-bit marks: exact sorting of signatures would dominate the plan.
    """
    random = np.random.default_rng(0)
    marks = random.integers(0, 2**62, len(coupling.groups) + 1, np.int64)
    forms = coupling.cost.forms
    mark = np.asarray(forms.T @ random.integers(0, 2**62, forms.shape[0], np.int64))
    for number, group in enumerate(coupling.groups):
        mark[group.units] += marks[number]
    signature = np.zeros(n_atoms, np.int64)
    units = np.flatnonzero(of_unit >= 0)
    np.add.at(signature, of_unit[units], mark[units])
    _, first, stream = np.unique(signature, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[stream.reshape(-1)]
