"""What a regulariser may decide on: single units, or bundles of units that a layout ties together.

Without layout constraints every unit is an atom of its own.  Where units form a matrix that must
stay rectangular (heads x width, convolution groups x channels), the atom is a whole row with
everything that dies with it.  Where no row can go alone (one key head that serves every query head, a
channel shuffle between grouped convolutions), atoms take one cell of every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.coupling.groups import Block, Group
from fxprune.labels import BoolArray, IntArray, components
from fxprune.planning.layout import Cluster, ItemBlock, serve_inside, serve_whole

__all__ = ["Partition", "partition"]


@dataclass(frozen=True, eq=False)
class Partition:
    """Partition of units into what is decided as one.

    Attributes:
        atom: int64[units], the smallest unit of the atom each unit is in; -1 where nothing may be
            decided (pinned units, virtual units).
        family: int64[units], the smallest unit of the family; families are what is ranked,
            thresholded and kept alive together: groups, joined where they share atoms.
    """

    atom: IntArray
    family: IntArray


def partition(
    groups: Sequence[Group], *, barred: Sequence[Group] = (), pinned: BoolArray | None = None
) -> Partition:
    """Group units into atoms.

    Left out are units of pinned groups, and every bundle that holds such a unit or one that is in
    none of the given groups.

    Args:
        groups: As returned by ``couple``, or some of them.
        barred: Those among them that are to be treated as pinned.
        pinned: bool[units] of the coupling, for the rows of blocks, which are in no group.

    Returns:
        The atoms.
    """
    blocks = list({id(b): b for g in groups for b in g.blocks}.values())
    parts = [x.ravel() for b in blocks for x in _parts(b)] + [g.units for g in groups]
    n = 1 + max((int(u.max()) for u in parts if len(u)), default=-1)
    real = np.zeros(n, bool)
    free = np.zeros(n, bool)
    for block in blocks:  # virtual units: free unless the coupling says otherwise
        for axis in (block.rows, block.columns):
            if axis is not None:
                free[axis] = True
    for group in groups:
        real[group.units] = True
        free[group.units] = group.pinned is None
    for group in barred:
        free[group.units] = False
    if pinned is not None:
        free &= ~pinned[:n]
    label = np.arange(n)
    for cluster in _clusters(blocks, n):
        _serve(cluster, label, free, real)
    free &= real
    return Partition(_smallest(label, free), _smallest(_families(groups, label), free))


def _parts(block: Block) -> list[IntArray]:
    return [block.rows, block.cells] + ([] if block.columns is None else [block.columns])


def _clusters(blocks: Sequence[Block], n: int) -> list[list[Block]]:
    """Blocks that share units, directly or over others."""
    if not blocks:
        return []
    units = [np.concatenate([x.ravel() for x in _parts(b)]) for b in blocks]
    owner = [np.full(len(u), n + i) for i, u in enumerate(units)]
    label = components(n + len(blocks), np.concatenate(units), np.concatenate(owner))
    clusters: dict[int, list[Block]] = {}
    for i, block in enumerate(blocks):
        clusters.setdefault(int(label[n + i]), []).append(block)
    return list(clusters.values())


def _serve(blocks: Sequence[Block], label: IntArray, free: BoolArray, real: BoolArray) -> None:
    """Merge the units of one cluster into bundles; ``label`` and ``free`` are updated in place."""
    units = np.unique(np.concatenate([x.ravel() for b in blocks for x in _parts(b)]))

    def items(array: IntArray) -> IntArray:
        return np.searchsorted(units, array)

    cluster = Cluster(
        blocks=tuple(
            ItemBlock(items(b.rows), items(b.cells), None if b.columns is None else items(b.columns), b.node)
            for b in blocks
        ),
        frozen=~free[units],
        score=np.zeros(len(units)),
        weight=real[units].astype(np.float64),
    )
    served = serve_whole(cluster)
    if served is None or not (served.removable & real[units]).any():
        served = serve_inside(cluster)
    label[units] = units[served.bundle]
    free[units] &= served.removable


def _smallest(label: IntArray, among: BoolArray) -> IntArray:
    """Rename labels (themselves below ``len(label)``) after their smallest unit in ``among``; -1 elsewhere."""
    first = np.full(len(label), len(label))
    nodes = np.flatnonzero(among)
    np.minimum.at(first, label[nodes], nodes)
    return np.where(among, first[label], -1)


def _families(groups: Sequence[Group], label: IntArray) -> IntArray:
    """A group joins the atoms it has units in."""
    spokes = [label[g.units] for g in groups if g.width]
    if not spokes:
        return label
    hubs = np.concatenate([np.full(len(s), s[0]) for s in spokes])
    return components(len(label), np.concatenate(spokes), hubs)[label]
