"""What a plan says about itself: how far from the budget it is, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxprune.coupling.groups import Coupling
from fxprune.errors import PlanError
from fxprune.labels import BoolArray, FloatArray
from fxprune.planning.choice import Frozen
from fxprune.planning.solve import EXCESS, MISS, Solution
from fxprune.plans import Budget

__all__ = ["gap_notes", "local_note", "nothing_to_prune"]

_WORDS = {"macs": "MACs", "params": "parameters", "latency": "time, as predicted,"}
UNEVEN = 0.05
"""Share of a group's units from which on it is said that groups do not keep the same."""

_LEAST = 5e-4  # share of the cost; what is less would be printed as 0.0 %


def gap_notes(
    coupling: Coupling, frozen: Frozen, budget: Budget, solution: Solution, step: int
) -> tuple[str, ...]:
    """How far the plan is from the budget, if that is noticeable, and why."""
    if not solution.dense:
        return (f"there are no {budget.quantity} here to budget",)
    reached = solution.value / solution.dense
    words = _WORDS.get(budget.quantity, budget.quantity)
    stated = f"keeps {100 * reached:.1f} % of the {words} where {100 * budget.fraction:.1f} % was asked"
    if reached > budget.fraction + EXCESS:
        steps = f", in steps of {step}" if step > 1 else ""
        return (
            f"{stated}: everything that may go is at its minimum{steps}{_shares(coupling, frozen, budget, solution)}",
        )
    if budget.fraction - reached <= MISS:
        return ()
    if not solution.by_choice:
        return (f"{stated}: ratios= alone remove that much",)
    if step > 1:
        return (f"{stated}: widths move in steps of {step}, align=1 comes closer",)
    return (f"{stated}: what may go comes in larger pieces",)


def local_note(
    coupling: Coupling, frozen: Frozen, ratios: FloatArray, keep: BoolArray, step: int
) -> tuple[str, ...]:
    """Where groups do not keep the equal share that ``scope="local"`` stands for, and why.

    Args:
        coupling: Groups.
        frozen: Those that must stay.
        ratios: float64[n_groups], NaN where the budget decides.
        keep: bool[n_units], the plan.
        step: Of widths.
    """
    decides = zip(coupling.groups, frozen.why, np.isnan(ratios), strict=True)
    free = [group for group, why, left in decides if left and not why and len(group.units) > 1]
    shares = [float(keep[group.units].mean()) for group in free]
    # A group of four units cannot keep half and an eighth.
    uneven = [
        s for s, g in zip(shares, free, strict=True) if abs(s - np.median(shares)) > UNEVEN + 1 / len(g.units)
    ]
    if not uneven:
        return ()
    why = (
        f"widths move in steps of {step} (align=1 comes closer)"
        if step > 1
        else "what may go comes in larger pieces"
    )
    return (
        f"scope='local': groups keep {100 * min(shares):.0f} to {100 * max(shares):.0f} % of their units, not all the same share: {why}",
    )


def _shares(coupling: Coupling, frozen: Frozen, budget: Budget, solution: Solution, most: int = 4) -> str:
    """The groups that must stay, or mostly so, and what share of the cost would go with each."""
    quantity = budget.quantity if budget.quantity in ("macs", "params") else "params"
    dense = getattr(coupling.cost.dense, quantity)
    shares = []
    for group, why in zip(coupling.groups, frozen.why, strict=True):
        why = why or ("held by a layout" if solution.held[group.units].any() else "")
        if why:
            keep = np.ones(coupling.n_units, bool)
            keep[group.units] = False
            share = 1 - getattr(coupling.cost.cost(keep), quantity) / max(dense, 1)
            shares += [(share, group.name, why)] if share >= _LEAST else []
    shares.sort(reverse=True)
    words = _WORDS[quantity]
    listed = ", ".join(
        f"'{name}' ({why}, {100 * share:.1f} % of the {words})" for share, name, why in shares[:most]
    )
    return f"; groups that must stay: {listed}" if listed else ""


def nothing_to_prune(coupling: Coupling, frozen: Frozen, notes: Sequence[str]) -> PlanError:
    """The error for a model in which no unit may go."""
    counts = {why: frozen.why.count(why) for why in ("pinned", "protected", "unscored") if why in frozen.why}
    stated = ", ".join(f"{count} {why}" for why, count in counts.items()) or "none at all"
    reason = next((str(g.pinned) for g in coupling.groups if g.pinned is not None), "")
    return PlanError(
        f"nothing in this model may go: of {len(coupling.groups)} groups {stated}"
        + (f"; the first pin: {reason}" if reason else "")
        + "".join(f"; {note}" for note in notes),
        advice="look at `fxprune inspect`, and drop protect= or only= if they are too wide",
    )
