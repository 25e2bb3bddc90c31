"""Distance of a filter to the geometric median of its layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxprune.criteria.base import Need, Normalise, View
from fxprune.labels import FloatArray
from fxprune.plans import Axis

__all__ = ["Fpgm"]


@dataclass(frozen=True)
class Fpgm:
    """Sum of distances to the other filters, ``I(u) = sum over j of ||F_u - F_j||``.

    A filter near the geometric median of its layer can be replaced by the others.  Only producers
    have filters, so consumers do not count; the values of several producers of one unit are added.

    Args:
        normalise: ``"mean"`` divides by the group's mean.

    References:
        He et al., "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", CVPR 2019,
        equation 8 (the distance to the median is ranked by the sum of distances to all filters).
        Deviations: none within a layer; layers coupled by additions share their decision.
    """

    normalise: Normalise = "mean"

    name = "fpgm"
    needs = frozenset[Need]()

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        import torch

        values: dict[Axis, FloatArray] = {}
        for name, dim in view.axes("producers"):
            filters = view.weight(name).movedim(dim, 0).flatten(1).float()
            values[name, dim] = torch.cdist(filters, filters).sum(1).cpu().numpy().astype(np.float64)
        return view.gather(values)
