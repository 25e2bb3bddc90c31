"""What pruned columns of convolutions add up to: dead channels, croppable kernels, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from fxprune.coupling.groups import Group
from fxprune.labels import BoolArray, IntArray
from fxprune.plans import Crop
from fxprune.regularizers.terms.layout import Slot, TermLayout

__all__ = ["Masked", "channel_dead", "crops_of", "masked_of", "units_without_columns"]


@dataclass(frozen=True)
class Masked:
    """Columns of a weight that are zero but cannot be cut: no time or space is saved on them.

    Attributes:
        tensor: Name of the convolution's weight.
        columns: Number of columns before pruning.
        pruned: Number of zero columns.
        left: Zero columns that remain after dead channels are removed and kernels cropped.
    """

    tensor: str
    columns: int
    pruned: int
    left: int


def _dead(layout: TermLayout, slot: Slot, alive: BoolArray) -> BoolArray:
    """Dead columns of a weight: bool over its kept dimensions (channel, then space)."""
    terms = layout.position_term[slot.start : slot.stop]
    known = np.append(~alive, False)  # what is no term stays
    return np.asarray(known[terms]).reshape([slot.shape[d] for d in slot.dims])


def channel_dead(layout: TermLayout, alive: BoolArray) -> dict[str, BoolArray]:
    """For each weight, the input channels all of whose columns are gone: bool[C]."""
    dead = {s.name: _dead(layout, s, alive).reshape(s.shape[s.dims[0]], -1) for s in layout.slots}
    return {name: np.asarray(columns.all(axis=1)) for name, columns in dead.items()}


def units_without_columns(groups: Sequence[Group], layout: TermLayout, alive: BoolArray) -> IntArray:
    """Units that no consumer reads any more.

    Args:
        groups: Coupling groups.
        layout: Made by ``column_layout``.
        alive: bool[n_columns].

    Returns:
        Unit ids; a unit with a consumer outside the layout is never among them.
    """
    gone = channel_dead(layout, alive)
    units = [np.zeros(0, np.int64)]
    for group in groups:
        if group.pinned is None and group.consumers and all(name in gone for name, _ in group.consumers):
            dead = [gone[axis[0]][group.indices[axis]].all(axis=1) for axis in group.consumers]
            units.append(group.units[np.logical_and.reduce(dead)])
    return np.concatenate(units)


def crops_of(layout: TermLayout, alive: BoolArray) -> tuple[Crop, ...]:
    """Kernels whose border is empty.

    Args:
        layout: Made by ``column_layout``.
        alive: bool[n_columns].
    """
    crops = []
    for slot in layout.slots:
        dead = _dead(layout, slot, alive)
        kernel = dead.shape[1:]
        if prod(kernel) == 1 or dead.all():
            continue
        ranges = [_extent(~dead, axis) for axis in range(1, dead.ndim)]
        before = tuple(first for first, _ in ranges)
        after = tuple(k - 1 - last for k, (_, last) in zip(kernel, ranges, strict=True))
        if any(before) or any(after):
            crops.append(Crop(slot.name, tuple(kernel), before, after))
    return tuple(crops)


def _extent(alive: BoolArray, axis: int) -> tuple[int, int]:
    used = np.flatnonzero(alive.any(axis=tuple(d for d in range(alive.ndim) if d != axis)))
    return int(used[0]), int(used[-1])


def masked_of(
    layout: TermLayout, alive: BoolArray, removed: dict[str, BoolArray], cropped: Sequence[Crop]
) -> tuple[Masked, ...]:
    """What stays masked in each weight.

    Args:
        layout: Made by ``column_layout``.
        alive: bool[n_columns].
        removed: For each weight bool[C], the input channels that are really cut.
        cropped: Kernels that are really cropped.
    """
    crops = {crop.tensor: crop for crop in cropped}
    masked = []
    for slot in layout.slots:
        dead = _dead(layout, slot, alive)
        left = dead[~removed[slot.name]]
        crop = crops.get(slot.name)
        if crop is not None:
            spans = zip(crop.before, crop.kernel, crop.after, strict=True)
            left = left[(slice(None), *(slice(b, k - a) for b, k, a in spans))]
        masked.append(Masked(slot.name, dead.size, int(dead.sum()), int(left.sum())))
    return tuple(masked)
