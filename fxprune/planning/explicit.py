"""A keep mask becomes a plan, if every law that a mask must obey holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from fxprune.coupling.blocks import breach, close
from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling, Group
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray
from fxprune.plans import Axis, Plan
from fxprune.resizing.resolve import resolve
from fxprune.support.source_lines import source_of

__all__ = ["plan_units"]


def plan_units(trace: Trace, keep: BoolArray, *, notes: Sequence[str] = ()) -> Plan:
    """The plan that keeps exactly these units; what cannot live without the others goes as well.

    Args:
        trace: A traced model.
        keep: bool[n_units] over the units of the coupling.
        notes: What the user should know.

    Raises:
        PlanError: A unit is pinned, a layout would not stay rectangular, or a layer would be emptied.
    """
    analysis = analyse(trace)
    coupling = analysis.coupling
    if keep.shape != (coupling.n_units,) or keep.dtype != np.bool_:
        raise PlanError(
            f"a keep mask of {keep.dtype}{list(keep.shape)} does not fit {coupling.n_units} units",
            advice="make it over the units of this trace: numpy.ones(n_units, bool)",
        )
    keep = close(coupling.blocks, keep)
    _check_pins(coupling, keep)
    _check_blocks(trace, coupling, keep)
    _check_empty(coupling, keep)
    _check_names(coupling, keep)
    result = resolve(analysis, keep)
    predicted = coupling.cost.cost(keep)
    assert predicted.params == _params_of(trace, result.kept), "the cost model and the slim shapes disagree"
    return Plan(
        kept=result.kept,
        predicted=predicted,
        dense=analyse(trace.parent or trace).coupling.cost.dense,
        fingerprint=coupling.fingerprint,
        removed=trace.cuts,
        notes=tuple(notes),
        widths=coupling.widths(keep),
    )


def _check_pins(coupling: Coupling, keep: BoolArray) -> None:
    hit = coupling.pinned & ~keep
    if not hit.any():
        return
    group = next((g for g in coupling.groups if hit[g.units].any()), None)
    pin = group.pinned if group is not None else None
    name = f"group '{group.name}'" if group is not None else "a row of a layout"
    raise PlanError(
        f"{int(hit.sum())} units of {name} cannot go: {pin.reason if pin else 'it is pinned'}",
        node=pin.node if pin else "",
        op=pin.op if pin else "",
        source=pin.source if pin else "",
        tensor=_first_member(group),
        advice="leave these units in, or ask fxprune.explain (fxprune inspect --why) what they are tied to",
    )


def _first_member(group: Group | None) -> str:
    return group.members[0][0] if group is not None and group.members else ""


def _check_blocks(trace: Trace, coupling: Coupling, keep: BoolArray) -> None:
    for block in coupling.blocks:
        problem = breach(block, keep)
        if problem:
            node = next((n for n in trace.graph.graph.nodes if n.name == block.node), None)
            raise PlanError(
                f"the layout at '{block.node}' would not stay rectangular: {problem}",
                node=block.node,
                op=str(node.target) if node is not None else "",
                source=source_of(node) if node is not None else "",
                advice="remove whole rows (heads, groups), or equally many units of each row",
            )


def _check_empty(coupling: Coupling, keep: BoolArray) -> None:
    for (name, dim), units in coupling.axes.items():
        if not keep[units].any():
            group = next((g for g in coupling.groups if (name, dim) in g.indices), None)
            raise PlanError(
                f"nothing would be left of '{name}' along dimension {dim}"
                + (f" (group '{group.name}')" if group is not None else ""),
                tensor=name,
                advice="keep at least one unit of it",
            )


def _check_names(coupling: Coupling, keep: BoolArray) -> None:
    """Everything that goes occupies a tensor, or follows from what does: otherwise the plan would not say so."""
    named = np.zeros(coupling.n_units, bool)
    for units in coupling.axes.values():
        named[units] = True
    if (close(coupling.blocks, keep | ~named) != keep).any():
        raise PlanError(
            "positions would go that no tensor holds",
            advice="remove units of groups; what they imply follows",
        )


def _params_of(trace: Trace, kept: Mapping[Axis, tuple[int, ...]]) -> int:
    """Parameters of the shapes that are left."""
    total = 0
    for name, parameter in trace.model.named_parameters():
        sizes = [len(kept.get((name, d), range(n))) for d, n in enumerate(parameter.shape)]
        total += prod(sizes)
    return total
