"""How strongly a unit responds to the user's data."""

from __future__ import annotations

from dataclasses import dataclass

from fxprune.criteria.base import Need, Normalise, View
from fxprune.labels import FloatArray

__all__ = ["Activation"]


@dataclass(frozen=True)
class Activation:
    """Mean absolute output of the layers that make a unit, over samples and positions.

    ``I(u) = mean over batches, samples and positions of |y_u|``, with ``y`` the output of the convolution or
    linear layer before normalisation and activation; added over the producers of a unit.

    Args:
        normalise: ``"mean"`` divides by the group's mean.

    References:
        Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
        ICLR 2017, section 2.2 (criterion "activation", mean).
        Deviations: measured before the nonlinearity, absolute, so that it is defined for any
        activation function; batches count alike, whatever their size.
    """

    normalise: Normalise = "mean"

    name = "activation"
    needs = frozenset[Need]({"activations"})

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        return view.gather(view.evidence.activations)
