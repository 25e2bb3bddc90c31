"""Steering: a method's strength follows a straight line from the whole model to the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fxprune.errors import PlanError
from fxprune.recipe import Steer
from fxprune.regularizers import GroupRegularizer
from fxprune.types import Budget

__all__ = ["Steering"]

_LIMITS = (1e-4, 1e4)


@dataclass(frozen=True, eq=False)
class Steering:
    """Adapts the strength of a method to what it would remove by itself, and stops it at the budget.

    What the method would keep now is compared with a line that falls from 1 to the budget during the first
    part of the phase.  The logarithm of the strength changes in proportion to the difference: an integral
    controller.  As soon as the budget is met the method finishes: what goes is zero from then on, the
    penalty is over, and the rest of the phase trains what stays.  Both are part of the method's state, so
    there is nothing else to save.

    Attributes:
        method: The method; it makes exact zeros or decides by a threshold.
        budget: Fraction to keep of MACs or parameters.
        how: When and how much.
        steps: Of the phase.

    References:
        Ours: published strengths belong to other nets and schedules; this makes methods comparable at equal cost.
    """

    method: GroupRegularizer
    budget: Budget
    how: Steer
    steps: int

    def kept(self) -> float:
        """Fraction of the budgeted quantity that the method's own decision keeps; every process has to ask."""
        try:
            made = self.method.plan()
        except PlanError:
            return 1.0  # nothing would go
        quantity = "params" if self.budget.quantity == "params" else "macs"
        return float(getattr(made.predicted, quantity) / max(getattr(made.dense, quantity), 1))

    def line(self, step: int) -> float:
        """What should be kept after that many steps."""
        done = min(step / (self.how.until * self.steps), 1.0)
        return 1 - done * (1 - self.budget.fraction)

    def after(self, step: int) -> None:
        """Adapt the strength, or finish, if it is time to."""
        if step % self.how.every or self.method.finished:
            return
        kept = self.kept()
        if kept <= self.budget.fraction:
            self.method.finish()
            return
        error = (kept - self.line(step)) / max(1 - self.budget.fraction, 1e-6)
        elapsed = self.how.every / (self.how.until * self.steps)
        factor = math.exp(self.how.gain * elapsed * min(max(error, -1.0), 1.0))
        self.method.strength = min(max(self.method.strength * factor, _LIMITS[0]), _LIMITS[1])
