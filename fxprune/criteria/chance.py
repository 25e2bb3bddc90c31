"""Chance: the baseline that every criterion must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxprune.criteria.base import Need, Normalise, View
from fxprune.labels import FloatArray

__all__ = ["Random"]


@dataclass(frozen=True)
class Random:
    """Independent uniform numbers from the seed of the plan; reads no weights.

    References:
        Mittal et al., "Recovering from Random Pruning", WACV 2018.  Deviations: none.
    """

    normalise: Normalise = "none"

    name = "random"
    needs = frozenset[Need]()

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units] in [0, 1)."""
        return np.random.default_rng(view.seed).random(view.coupling.n_units)
