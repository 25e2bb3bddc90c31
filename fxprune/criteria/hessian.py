"""Second-order change of the loss when a unit goes, with a diagonal Hessian."""

from __future__ import annotations

from dataclasses import dataclass

from fxprune.criteria.base import Members, Need, Normalise, View
from fxprune.labels import FloatArray

__all__ = ["Hessian"]


@dataclass(frozen=True)
class Hessian:
    """Optimal brain damage, ``I(u) = 1/2 * sum over w in u of h_w * w^2``, with ``h`` the empirical Fisher.

    At a minimum the gradient vanishes and the loss grows by ``1/2 w' H w``.  For a log-likelihood
    loss the expected Hessian is the Fisher information, whose diagonal is the mean squared
    gradient: it needs no second backward pass, is never negative, and is exact where OBD
    applies.  What it leaves out, like OBD, is the interaction of weights; ``taylor`` is the
    complement that keeps it within a unit.

    Args:
        members: ``"all"`` or ``"producers"``.
        normalise: ``"none"``: the estimate is a change of one and the same loss, so it compares as it is.

    References:
        LeCun, Denker, Solla, "Optimal Brain Damage", NIPS 1989, equations 4 and 5 (saliency ``h w^2 / 2``).
        Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, equation 6.
        Deviations: squared gradients of the user's batches instead of single samples (exact for
        batches of one; averaging within a batch lowers all values alike); saliencies of a unit are added.
    """

    members: Members = "all"
    normalise: Normalise = "none"

    name = "hessian"
    needs = frozenset[Need]({"gradients"})

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        squares = view.evidence.squares
        return 0.5 * view.gather({axis: squares[axis] for axis in view.axes(self.members) if axis in squares})
