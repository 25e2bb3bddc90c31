"""First-order change of the loss when a unit goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxprune.criteria.base import Members, Need, Normalise, View
from fxprune.labels import FloatArray

__all__ = ["Taylor"]


@dataclass(frozen=True)
class Taylor:
    """Squared first-order Taylor term, ``I(u) = mean over batches of (sum over w in u of w * dL/dw)^2``.

    The sum runs over the unit's slices of the producers and, with ``members="all"``, of the
    consumers, before it is squared: contributions of one unit may cancel.

    Args:
        members: ``"all"`` or ``"producers"``.
        normalise: ``"none"``: the estimate is a change of one and the same loss, so it compares as it is.

    References:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equations 8 and 10
        (the sum over a structure is taken before the square, as for their gates).
        Deviations: gradients are those of the user's batches rather than of single samples; evaluated
        in evaluation mode, without updates in between.
    """

    members: Members = "all"
    normalise: Normalise = "none"

    name = "taylor"
    needs = frozenset[Need]({"gradients"})

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        products = view.evidence.products
        sums = view.gather({axis: products[axis] for axis in view.axes(self.members) if axis in products})
        return np.asarray(np.square(sums).mean(axis=0) if sums.ndim > 1 else sums)
