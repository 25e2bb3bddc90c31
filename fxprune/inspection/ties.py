"""Ties: which operator makes which two tensor axes share their units."""

from __future__ import annotations

import numpy as np

from fxprune.coupling.analysis import Analysis
from fxprune.coupling.groups import Tie
from fxprune.labels import IntArray
from fxprune.plans import Axis
from fxprune.support.source_lines import source_of

__all__ = ["ties_of"]


def ties_of(analysis: Analysis) -> tuple[Tie, ...]:
    """Every tie between two tensor axes, once, with the operator that makes it.

    Virtual axes (padding, rows of blocks) appear under their node's name in angle brackets.
    """
    starts, names = _axis_table(analysis)
    ties: dict[tuple[int, int, str], Tie] = {}
    for a, b, node in analysis.ties:
        left = np.searchsorted(starts, a, side="right") - 1
        right = np.searchsorted(starts, b, side="right") - 1
        for i, j in np.unique(np.stack([left, right], axis=1), axis=0):
            key = (int(i), int(j), node.name)
            if i != j and key not in ties:
                ties[key] = Tie(names[i], names[j], str(node.target), node.name, source_of(node))
    return tuple(ties.values())


def _axis_table(analysis: Analysis) -> tuple[IntArray, list[Axis]]:
    """First label of every axis, real and virtual, in order."""
    entries = [(int(labels[0]), axis) for axis, labels in analysis.labels.items()]
    entries += [(start, (f"<{name}>", k)) for k, (start, name) in enumerate(analysis.virtual)]
    entries.sort(key=lambda e: e[0])
    return np.array([s for s, _ in entries], np.int64), [a for _, a in entries]
