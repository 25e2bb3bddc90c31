"""``protect``, ``only`` and ``ratios`` applied to groups: what must stay, and what a ratio decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.coupling.groups import Coupling
from fxprune.errors import PlanError
from fxprune.labels import BoolArray, FloatArray
from fxprune.planning.patterns import matching

__all__ = ["Frozen", "freeze", "ratios_of"]


@dataclass(frozen=True)
class Frozen:
    """Groups that must stay, and why.

    Attributes:
        why: For each group ``""`` (free), ``"pinned"``, ``"protected"`` or ``"unscored"``.
        units: bool[n_units].
    """

    why: tuple[str, ...]
    units: BoolArray


def freeze(coupling: Coupling, protect: Sequence[str], only: Sequence[str], scores: FloatArray) -> Frozen:
    """Find the groups that must stay.

    A group that no layer makes or reads (a table of biases per head) may go without a score of its own:
    with the heads it belongs to.

    Args:
        coupling: Units and groups.
        protect: Patterns of groups that must stay.
        only: Patterns of the groups that may go; empty for all.
        scores: float64[n_units], NaN where a unit has none.

    Raises:
        PlanError: A pattern fits nothing.
    """
    groups = coupling.groups
    protected = {number for pattern in protect for number in matching(groups, pattern, "protect")}
    if only:
        chosen = {number for pattern in only for number in matching(groups, pattern, "only")}
        protected |= set(range(len(groups))) - chosen
    units = coupling.pinned.copy()
    why = []
    for number, group in enumerate(groups):
        reason = ""
        if group.pinned is not None or coupling.pinned[group.units].any():
            reason = "pinned"
        elif number in protected:
            reason = "protected"
        elif np.isnan(scores[group.units]).any() and (group.producers or group.consumers):
            reason = "unscored"
        if reason:
            units[group.units] = True
        why.append(reason)
    return Frozen(tuple(why), units)


def ratios_of(coupling: Coupling, ratios: Mapping[str, float]) -> FloatArray:
    """Fraction that each group keeps, NaN where the budget decides: float64[n_groups].

    Raises:
        PlanError: No fraction, a pattern that fits nothing, or two that contradict each other.
    """
    result = np.full(len(coupling.groups), np.nan)
    for pattern, fraction in ratios.items():
        if not _is_fraction(fraction):
            raise PlanError(
                f"ratios[{pattern!r}]={fraction!r} is not a fraction to keep in (0, 1]",
                advice="0.25 keeps a quarter of the group",
            )
        for number in matching(coupling.groups, pattern, "ratios"):
            if not np.isnan(result[number]) and result[number] != fraction:
                raise PlanError(
                    f"ratios ask for {result[number]:g} and {fraction:g} of group '{coupling.groups[number].name}'",
                    advice="make the patterns disjoint",
                )
            result[number] = fraction
    return result


def _is_fraction(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 < value <= 1
