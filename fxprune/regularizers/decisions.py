"""From what a method decided to a plan: exactly that, or a budget spent in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Group
from fxprune.criteria.base import Need, Normalise, View
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import FloatArray, IntArray
from fxprune.planning.options import PlanOptions
from fxprune.planning.plan import plan_units
from fxprune.planning.spend import spend
from fxprune.plans import Budget, Plan

__all__ = ["Learned", "cut_by", "no_plan_of_channels", "plan_for", "trace_of"]


@dataclass(frozen=True, eq=False)
class Learned:
    """Importance that a method learned, as a criterion for the planner.

    Attributes:
        units: float64[n_units], NaN for units the method may not remove.
    """

    units: FloatArray

    name = "learned"
    needs = frozenset[Need]()
    normalise: Normalise = "none"

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        padded = np.full(view.coupling.n_units, np.nan)
        padded[: len(self.units)] = self.units
        return padded


def trace_of(groups: Sequence[Group]) -> Trace:
    """The trace the groups were found in.

    Raises:
        PlanError: They carry none.
    """
    trace = groups[0].trace if groups else None
    if trace is None:
        raise PlanError(
            "these groups carry no trace to plan with", advice="use the groups of fxprune.couple(trace)"
        )
    return trace


def no_plan_of_channels(plan: Plan | None, what: str) -> None:
    """For ``finish`` of methods that take no decision but their own.

    Raises:
        PlanError: There is a plan.
    """
    if plan is not None:
        raise PlanError(f"{what} are not decided by a plan of channels", advice="call finish() without one")


def cut_by(groups: Sequence[Group], plan: Plan) -> IntArray:
    """Ids (in the coupling) of the units that a plan without structures cuts, ascending.

    Args:
        groups: Groups made by ``couple``.
        plan: Made for their trace.

    Raises:
        PlanError: The groups carry no trace.
    """
    axes = analyse(trace_of(groups)).coupling.axes
    cut = [np.delete(axes[axis], list(kept)) for axis, kept in plan.kept.items() if axis in axes]
    return np.unique(np.concatenate(cut)) if cut else np.zeros(0, np.int64)


def plan_for(
    groups: Sequence[Group],
    removed: IntArray,
    learned: Learned | None = None,
    budget: Budget | None = None,
    options: PlanOptions | None = None,
) -> Plan:
    """The plan that cuts units, or that spends a budget in the order a method learned.

    Args:
        groups: Groups made by ``couple``.
        removed: Unit ids; not looked at with a budget.
        learned: Importance, needed with a budget.
        budget: Fraction to keep.
        options: How it is spent.

    Returns:
        A plan for ``slim``.

    Raises:
        PlanError: The groups carry no trace, or the planner refuses.
    """
    trace = trace_of(groups)
    if budget is not None:
        if learned is None:
            raise PlanError(
                "this method ranks nothing that a budget could be spent on",
                advice="call plan() without a budget",
            )
        return spend(trace, budget, options or PlanOptions(), criterion=learned)
    keep = np.ones(analyse(trace).coupling.n_units, bool)
    keep[removed] = False
    return plan_units(trace, keep)
