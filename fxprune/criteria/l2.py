"""L2 norm of all weights of a unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxprune.criteria.base import Members, Need, Normalise, View
from fxprune.labels import FloatArray

__all__ = ["L2"]


@dataclass(frozen=True)
class L2:
    """Euclidean norm of the weights, ``I(u) = sqrt(sum over w in unit u of w^2)``.

    The weights of a unit are its slices of the producers and, with ``members="all"``, of the
    consumers.  Biases and normalisation are not counted.

    Args:
        members: ``"all"`` or ``"producers"``.
        normalise: ``"mean"`` divides by the group's mean.

    References:
        Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, equation 4 with p = 2.
        Deviations: the square root is taken (it keeps the order within a group); normalised by the
        group's mean instead of its maximum.
    """

    members: Members = "all"
    normalise: Normalise = "mean"

    name = "l2"
    needs = frozenset[Need]()

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        import torch

        return np.sqrt(view.sums(self.members, torch.square))
