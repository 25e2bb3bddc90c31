"""L1 norm of all weights of a unit."""

from __future__ import annotations

from dataclasses import dataclass

from fxprune.criteria.base import Members, Need, Normalise, View
from fxprune.labels import FloatArray

__all__ = ["L1"]


@dataclass(frozen=True)
class L1:
    """Sum of absolute weights, ``I(u) = sum over w in unit u of |w|``.

    The weights of a unit are its slices of the producers (rows of a convolution) and, with
    ``members="all"``, of the consumers (columns of the next one): what is removed with it.  Biases and
    normalisation are not counted.

    Args:
        members: ``"all"`` or ``"producers"``.
        normalise: ``"mean"`` divides by the group's mean.

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1: ``s_j = sum |F_ij|``.
        Deviations: consumers count as well, as in Fang et al. (CVPR 2023), equation 4 with p = 1; the
        paper's ``members="producers"`` and layer-wise order are options (``scope="local"``).
    """

    members: Members = "all"
    normalise: Normalise = "mean"

    name = "l1"
    needs = frozenset[Need]()

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        import torch

        return view.sums(self.members, torch.abs)
