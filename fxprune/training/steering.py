"""Steering: a method's strength follows a straight line from the whole model to the budget, and ends there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fxprune.plans import Budget, Plan
from fxprune.regularizers import Regularizer
from fxprune.training.decide import own_share
from fxprune.training.recipe.schema import Steer

__all__ = ["Steering"]


@dataclass(frozen=True, eq=False)
class Steering:
    """Adapts the strength of a method to what it would remove by itself, and ends it at the budget.

    What the method would keep now is compared with a line that falls from 1 to the budget during the first part of
    the phase.  The strength is ``exp(gain * lag)``, where the lag is the distance above the line as a share of what
    is to go: a proportional controller, so a method that has begun to let go is held back at once, however long it
    took to begin.  Nothing is done between moments at which the method's decision may change.

    As soon as the method's own decision meets the budget or jumps past it, and at the end of the line in any case,
    the budget is spent in the order the method has learned, and the method finishes with exactly that: what goes is
    zero from then on, the penalty is over, and the rest of the phase trains what stays.  So neither a jump nor a
    strength that is far off costs more than the budget.  Strength and decision are part of the method's state;
    there is nothing else to save.

    Attributes:
        method: A steerable method; it makes exact zeros or decides by a threshold.
        budget: Fraction to keep of MACs or parameters.
        spend: The plan that spends the budget in the method's order.
        how: When and how much.
        steps: Of the phase.
        told: Is told how many steps were done when the budget was spent, and what the method's own decision kept
            just before.

    References:
        Ours: published strengths belong to other nets and schedules; this makes methods comparable at equal cost.
    """

    method: Regularizer
    budget: Budget
    spend: Callable[[], Plan]
    how: Steer
    steps: int
    told: Callable[[int, float], None] = lambda _step, _kept: None

    def kept(self) -> float:
        """Fraction of the budgeted quantity that the method's own decision keeps; every process has to ask."""
        share = own_share(self.method, self.budget)
        assert share is not None, "a steerable method decides by itself"
        return share

    def line(self, step: int) -> float:
        """What should be kept after that many steps."""
        done = min(step / (self.how.until * self.steps), 1.0)
        return 1 - done * (1 - self.budget.fraction)

    def after(self, step: int) -> None:
        """Adapt the strength, or finish, if it is time to."""
        period = self.method.period
        over = step >= self.how.until * self.steps
        if self.method.finished or (not over and step % (-(-self.how.every // period) * period)):
            return
        kept = self.kept()
        if over or kept <= self.budget.fraction:
            self.method.finish(self.spend())
            self.told(step, kept)
            return
        lag = (kept - self.line(step)) / max(1 - self.budget.fraction, 1e-6)
        self.method.strength = math.exp(self.how.gain * min(max(lag, -1.0), 1.0))
