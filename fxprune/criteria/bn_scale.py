"""Scale of the batch norm that a unit passes through."""

from __future__ import annotations

from dataclasses import dataclass

from fxprune.criteria.base import Need, Normalise, View, slice_sums
from fxprune.labels import FloatArray

__all__ = ["BnScale"]


@dataclass(frozen=True)
class BnScale:
    """Absolute batch-norm scale, ``I(u) = sum over the batch norms of unit u of |gamma|``.

    A unit without batch norm has no score: its group is left whole, and the plan says so.

    Args:
        normalise: ``"none"`` compares scales of different layers as they are, as the paper does.

    References:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
        section 3: channels with the smallest ``|gamma|`` of the whole network go.
        Deviations: where several batch norms read one unit (a residual stream) their scales are added.
    """

    normalise: Normalise = "none"

    name = "bn_scale"
    needs = frozenset[Need]()

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units], NaN where a unit has no batch norm."""
        import torch

        axes = [axis for axis in view.coupling.axes if axis[0] in view.batch_norms]
        return view.gather(
            {(name, dim): slice_sums(view.weight(name), (dim,), torch.abs)[0] for name, dim in axes}
        )
