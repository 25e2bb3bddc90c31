"""Plans that the user's own class can hold: what its code has as numbers is learnt from runs of it on fewer channels.

A graph of torch.export holds any plan.  The user's code may halve a tensor, or fold it by a number of heads, and then only
some plans fit.  Which, a recording of the code tells: a plan made for it is rehearsed operator by operator, what
does not fit becomes a lesson (``fxprune.planning.attempts``), and the plan that fits is carried over to the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling
from fxprune.criteria.base import Need, Normalise, View
from fxprune.errors import PlanError, SliceError, TraceError
from fxprune.graph.trace import Trace, recorded
from fxprune.labels import FloatArray
from fxprune.planning.explicit import plan_units
from fxprune.plans import Plan
from fxprune.slimming.slim import slim

__all__ = ["Given", "keeping_class"]


@dataclass(frozen=True, eq=False)
class Given:
    """Scores that are there already, as a criterion: float64[n_units]."""

    units: FloatArray
    name = "given"
    needs = frozenset[Need]()
    normalise: Normalise = "none"

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        del view
        return self.units


def keeping_class(trace: Trace, made: Plan, scores: FloatArray, plan: Callable[[Trace, Given], Plan]) -> Plan:
    """A plan that the user's class can hold.

    Args:
        trace: A traced model.
        made: A plan for it that does not ask for that; it is returned where it fits.
        scores: float64[n_units], of the trace.
        plan: Plans as ``made`` was planned, for another trace of the same model and its scores.

    Raises:
        PlanError: The code cannot be recorded, or holds numbers that no plan fits.
    """
    if trace.kind == "recorded" or _holds(trace, made):
        return made
    try:
        record = recorded(trace)
    except TraceError as error:
        raise PlanError(
            f"which plans the model's own class can hold is learnt from a run of its code, and that failed: {error.what}",
            source=error.source,
            advice="plan without keep_class",
        ) from error
    ours, theirs = analyse(trace).coupling, analyse(record).coupling
    fits = plan(record, Given(_moved(scores, ours, theirs)))
    keep = np.ones(ours.n_units, bool)
    for axis, kept in fits.kept.items():
        if axis not in ours.axes:  # a constant of the recording, which has no name in the graph
            continue
        gone = np.ones(len(ours.axes[axis]), bool)
        gone[list(kept)] = False
        keep[ours.axes[axis][gone]] = False
    result = replace(plan_units(trace, keep, notes=fits.notes), origin=made.origin)
    why = _problem(trace, result)
    if why is not None:
        raise PlanError(
            f"no plan was found that the model's own class can hold: {why.what}",
            source=why.source,
            advice="replace the hard-coded sizes by those of the tensors, or plan without keep_class: the slim model is a graph then",
        )
    return result


def _holds(trace: Trace, plan: Plan) -> bool:
    return _problem(trace, plan) is None


def _problem(trace: Trace, plan: Plan) -> SliceError | None:
    """Why the user's class cannot hold what a plan leaves."""
    try:
        slim(trace, plan, kind="module")
    except SliceError as error:
        return error
    return None


def _moved(scores: FloatArray, ours: Coupling, theirs: Coupling) -> FloatArray:
    """Scores of another coupling's units: the mean of those that lie at the same places, NaN where one has none."""
    pairs = [np.stack([theirs.axes[axis], units]) for axis, units in ours.axes.items() if axis in theirs.axes]
    there, here = np.unique(np.concatenate(pairs, 1), axis=1)
    total, count = (np.bincount(there, weights, theirs.n_units) for weights in (scores[here], None))
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)
