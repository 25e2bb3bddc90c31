"""From masks to decisions: what stays, the weights it leaves, and the plan."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, FloatArray, IntArray
from fxprune.planning.plan import plan_structures
from fxprune.plans import Budget, Plan
from fxprune.regularizers.decisions import Learned
from fxprune.regularizers.gal.masks import Masks
from fxprune.structures.cut import cut

__all__ = ["alive_masks", "channels_left", "decided", "fold_", "silence_", "spend_on_structures"]


def alive_masks(masks: Masks, values: FloatArray) -> BoolArray:
    """Masks whose structure or channel stays: those above zero, and the best where nothing would be left.

    Args:
        masks: The masks.
        values: float64[n].

    Returns:
        bool[n].
    """
    alive = values > 0
    for family in np.unique(masks.family[masks.family >= 0]):
        members = np.flatnonzero(masks.family == family)
        if not alive[members].any():
            alive[members[values[members].argmax()]] = True
    return _with_operands(masks, values, alive)


def _with_operands(masks: Masks, values: FloatArray, alive: BoolArray) -> BoolArray:
    """Every concatenation keeps an operand: of those that would all go, the one with the largest mask."""
    alive = alive.copy()
    entry = {s.output: k for k, s in enumerate(masks.structures) if s.kind == "branch"}
    for join in dict.fromkeys(j for s in masks.structures if s.kind == "branch" for j in s.joins):
        operands = [o for o in join.args[0] if isinstance(o, fx.Node)]  # type: ignore[union-attr]
        entries = [entry.get(o, -1) for o in operands]
        if min(entries) >= 0 and not alive[entries].any():
            alive[max(entries, key=lambda k: values[k])] = True
    return alive


@torch.no_grad()
def fold_(model: nn.Module, masks: Masks, factors: Tensor) -> None:
    """Multiply factors into the parameters that masks stand for, in place.

    Args:
        model: The model whose parameters the masks' names mean.
        masks: The masks.
        factors: float[n], not negative.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for entry, names in masks.wholes.items():
        for name in names:
            parameters[name].mul_(factors[entry].to(parameters[name].dtype))
    padded = torch.cat([factors, factors.new_ones(1)])
    for fold in masks.slices:
        name, dim = fold.axis
        entries = torch.from_numpy(fold.entries).to(factors.device)
        line = padded[entries].prod(0).to(parameters[name].dtype)
        shape = [len(line) if d == dim else 1 for d in range(parameters[name].ndim)]
        parameters[name].mul_(line.reshape(shape))


@torch.no_grad()
def silence_(model: nn.Module, trace: Trace, masks: Masks, alive: BoolArray, units: IntArray) -> None:
    """Set every parameter of removed structures, and every slice of removed units, to zero in place.

    Args:
        model: The model whose parameters the trace's names mean.
        trace: Its trace.
        masks: The masks.
        alive: bool[n], masks whose structure or channel stays.
        units: Ids of the units that went.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for structure, stays in zip(masks.structures, alive):
        for name in () if stays else structure.parameters:
            parameters[name].zero_()
    gone = np.zeros(analyse(trace).coupling.n_units, bool)
    gone[units] = True
    for (name, dim), at in analyse(trace).coupling.axes.items():
        if name in parameters and gone[at].any():
            index = torch.from_numpy(np.flatnonzero(gone[at])).to(parameters[name].device)
            parameters[name].index_fill_(dim, index, 0)


def decided(trace: Trace, masks: Masks, alive: BoolArray) -> Plan:
    """The plan that cuts what has no mask left.

    Args:
        trace: The dense model's trace.
        masks: The masks.
        alive: bool[n], what stays.

    Raises:
        PlanError: Nothing is left of a layer.
    """
    keep = np.ones(analyse(trace).coupling.n_units, bool)
    keep[(masks.units >= 0) & ~alive[masks.units]] = False
    names = [s.name for s, stays in zip(masks.structures, alive) if not stays]
    return plan_structures(trace, names, keep=keep)


def spend_on_structures(
    trace: Trace, masks: Masks, alive: BoolArray, values: FloatArray, budget: Budget
) -> Plan:
    """Cut further structures, the smallest masks first, until the budget is met.

    Args:
        trace: The dense model's trace.
        masks: The masks.
        alive: bool[n], what the method keeps; the others go in any case.
        values: float64[n], the masks: lower goes first.
        budget: Fraction to keep.

    Raises:
        PlanError: The budget cannot be spent.
    """
    other = [part.quantity for part in budget.parts if part.quantity not in ("macs", "params")]
    if other:
        raise PlanError(
            f"a budget of {other[0]} cannot be spent on whole structures",
            advice="use macs= or params=",
        )
    dense = analyse(trace).coupling.cost.dense
    targets = {part.quantity: part.fraction * getattr(dense, part.quantity) for part in budget.parts}

    def met(plan: Plan) -> bool:
        return all(getattr(plan.predicted, quantity) <= most for quantity, most in targets.items())

    candidates = sorted(np.flatnonzero(alive), key=lambda k: values[k])
    low, high = 0, len(candidates)
    while low < high:  # cost falls with every further cut
        middle = (low + high) // 2
        if met(_without(trace, masks, alive, values, candidates[:middle])):
            high = middle
        else:
            low = middle + 1
    plan = _without(trace, masks, alive, values, candidates[:low])
    if not met(plan):
        raise PlanError(
            f"cutting every structure still leaves more than {budget}",
            advice='mask channels as well: on=("block", "channel")',
        )
    return plan


def _without(
    trace: Trace, masks: Masks, alive: BoolArray, values: FloatArray, further: list[np.intp]
) -> Plan:
    left = alive.copy()
    left[further] = False
    return decided(trace, masks, _with_operands(masks, values, left))


def channels_left(
    trace: Trace, masks: Masks, alive: BoolArray, values: FloatArray, budget: Budget
) -> tuple[Trace, Budget | None, Learned]:
    """What a planner has to do once the structures with a zero mask are cut.

    Args:
        trace: The dense model's trace.
        masks: The masks.
        alive: bool[n], what the method keeps; structures that do not stay go in any case.
        values: float64[n], the masks: lower goes first.
        budget: Fraction to keep.

    Returns:
        The trace that is left, the budget in its terms (None where it is met), and the order of its channels.
    """
    small = cut(trace, [s.name for s, stays in zip(masks.structures, alive) if not stays])
    dense, coupling = analyse(trace).coupling, analyse(small).coupling
    fractions = {part.quantity: part.fraction for part in budget.parts}
    for quantity in {"macs", "params"} & fractions.keys():
        fractions[quantity] *= getattr(dense.cost.dense, quantity) / getattr(coupling.cost.dense, quantity)
    left = None if min(fractions.values()) >= 1 else Budget(**{q: min(f, 1.0) for q, f in fractions.items()})
    scores = np.full(coupling.n_units, np.nan)
    for axis, units in coupling.axes.items():
        before = dense.axes.get(axis)
        if before is not None:
            masked = masks.units[before] >= 0
            scores[units[masked]] = values[masks.units[before[masked]]]
    return small, left, Learned(scores)
