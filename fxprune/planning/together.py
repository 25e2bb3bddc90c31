"""Several budgets at once: units go in one order, so mostly the tightest budget serves the others, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from fxprune.plans import Budget, Plan

__all__ = ["all_met"]

ROUNDS = 6
"""Plans that are made again where none of the budgets serves the others."""

SPARE = 0.01
"""Share of a budget by which a plan for another one may exceed it."""


def all_met(budget: Budget, planned: Callable[[Budget], Plan], milliseconds: Callable[[Plan], float]) -> Plan:
    """A plan that meets every part of a budget.

    The parts are planned one by one, and the plan that serves all of them is taken, of several the one that keeps most
    of the work.  Where none does, the one that misses least is tightened.

    Args:
        budget: Names several quantities.
        planned: Makes a plan for one.
        milliseconds: Time that the latency model gives a plan; against the plan whose time was budgeted it says how
            long another one takes.
    """
    parts = {part.quantity: part for part in budget.parts}
    plans = {name: planned(part) for name, part in parts.items()}
    wished = milliseconds(plans["latency"]) if "latency" in plans else 1.0

    def used(plan: Plan) -> Mapping[str, float]:
        """Share of each budget that a plan takes."""
        shares = {
            name: getattr(plan.predicted, name) / max(getattr(plan.dense, name), 1) / part.fraction
            for name, part in parts.items()
            if name != "latency"
        }
        if "latency" in parts:
            shares["latency"] = milliseconds(plan) / max(wished, 1e-9)
        return shares

    fitting = [name for name, plan in plans.items() if max(used(plan).values()) <= 1 + SPARE]
    if fitting:
        name = max(fitting, key=lambda n: plans[n].predicted.macs)
        return _noted(plans[name], name, used(plans[name]))
    name = min((n for n in plans if n != "latency"), key=lambda n: max(used(plans[n]).values()))
    plan, aim = plans[name], parts[name].fraction
    for _ in range(ROUNDS):
        aim /= max(used(plan).values())
        plan = planned(Budget(**{name: aim}))
        if max(used(plan).values()) <= 1 + SPARE:
            break
    return _noted(plan, name, used(plan))


def _noted(plan: Plan, name: str, used: Mapping[str, float]) -> Plan:
    rest = ", ".join(f"{100 * share:.0f} % of the budget of {n}" for n, share in used.items() if n != name)
    return replace(plan, notes=(*plan.notes, f"of several budgets that of {name} decides; used: {rest}"))
