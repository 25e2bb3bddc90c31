"""Plan: which units go, so that a budget is met and what is left is fast.

A plan is plain data.  Its predicted cost is computed by the same exact functions that the search
uses, and is checked against the shapes that result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling
from fxprune.criteria.base import Criterion
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, IntArray
from fxprune.planning.accuracy import check_floor, smallest
from fxprune.planning.atoms import Mode
from fxprune.planning.explicit import plan_units
from fxprune.planning.options import PlanOptions
from fxprune.planning.ranking import ranked
from fxprune.planning.spend import spend
from fxprune.plans import Axis, Budget, Plan, Scope
from fxprune.recovery.calibration import kept
from fxprune.structures.cut import cut
from fxprune.structures.find import choose_structures
from fxprune.support.words import near

__all__ = ["plan", "plan_structures", "plan_units", "remove"]

Batch = TypeVar("Batch")


def plan(
    trace: Trace,
    budget: Budget | None = None,
    *,
    accuracy: float | None = None,
    criterion: str | Criterion = "l1",
    scope: Scope = "global",
    align: Literal["auto"] | int = "auto",
    keep_at_least: int = 1,
    protect: Sequence[str] = (),
    only: Sequence[str] = (),
    ratios: Mapping[str, float] | None = None,
    target: str = "onnxruntime-cpu",
    data: Iterable[Batch] | None = None,
    loss: Callable[[nn.Module, Batch], torch.Tensor] | None = None,
    blocks: Mode = "auto",
    keep_class: bool = False,
    seed: int = 0,
    calibrate: Iterable[object] | None = None,
    metric: Callable[[nn.Module], float] | None = None,
    trials: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Plan:
    """Decide which units go so that a fraction of the model's cost is kept, or so that the model stays good enough.

    The budget is met as closely from below as the steps in which widths move allow.  It is exceeded, by half a
    percent of the dense cost at most, only where the nearest plan below misses it by more than one; or where
    everything that may go is gone.  What is left open is said in the plan's notes.

    With ``accuracy`` in the place of a budget the plan is that of the smallest model, in MACs and to one percent of the dense ones, that
    is still good enough once it is recovered without labels (``fxprune.recover``): found by bisection, some seven models are
    made, recovered and judged.

    Args:
        trace: A traced model; it is not changed.
        budget: Fraction of MACs, parameters, time or channels to keep.  Channels are counted over
            the units that may go and that no ratio decides about.  Time is that of one run on the target, by a model
            of its operators; where this machine is the target up to four models are made and measured until
            it is met within 3 %.  Of several quantities each is a most: the tightest decides.
        accuracy: Least that ``metric`` may say of the recovered model.
        criterion: Importance of units: a name from ``fxprune.criteria`` or one with its own options; ``"sensitivity"`` and
            ``"reconstruction"`` look at ``calibrate`` and know what recovery can make good.
        scope: How the budget is spent, like the options down to ``target``, and ``blocks`` and ``seed``: see
            ``fxprune.planning.options.PlanOptions``.
        align: Step on which widths of convolutions end, by default the target's.
        keep_at_least: Units that every group keeps.
        protect: Groups that must stay whole: names of groups or tensors, with wildcards.
        only: If given, all other groups stay whole.
        ratios: Fraction to keep of some groups, by pattern; the other groups serve the budget.
        target: Runtime whose steps count.
        data: Batches for criteria that need them.
        loss: ``loss(model, batch)``, a scalar, for the same criteria.
        blocks: How matrices of units (heads x width, groups x channels) shrink.
        keep_class: Plan so that the user's own class can hold the slim model, where a graph would be needed else.
        seed: Of everything random.
        calibrate: Inputs without labels, as for ``fxprune.recover``: for ``accuracy`` and for criteria that look at them.
        metric: For ``accuracy``: says how good a model is, more is better.  Without it that is one less the error of the
            outputs, relative to the spread of the dense model's, on a part of ``calibrate`` that is held out.
        trials: For ``accuracy``: a file for what is known already, with which a search that was stopped goes on.  It knows the
            model, its weights and the options, not the samples or what the metric does.
        progress: For ``accuracy`` and sensitivity: told how far it is.

    Returns:
        A plan whose predicted cost is that of the slim model.

    Raises:
        PlanError: An option makes no sense, a pattern fits nothing, or nothing may go.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 10, 3))
        >>> made = plan(fxprune.trace(net, torch.zeros(1, 3, 8, 8)), Budget(params=0.51))
        >>> len(made.kept["0.weight", 0]), made.dense.params, made.predicted.params
        (32, 7562, 3786)
    """
    options = PlanOptions(
        scope=scope,
        align=align,
        keep_at_least=keep_at_least,
        protect=protect,
        only=only,
        ratios=ratios or {},
        target=target,
        blocks=blocks,
        keep_class=keep_class,
        seed=seed,
    )
    if (budget is None) == (accuracy is None):
        raise PlanError(
            "a plan needs a budget or accuracy=, one of them",
            advice="write fxprune.Budget(macs=0.5), or accuracy=0.9 with calibrate= and metric=",
        )
    batches = list(data) if accuracy is not None and data is not None else data
    samples = None if calibrate is None else kept(calibrate)
    chosen = ranked(trace, criterion, samples, seed=seed, progress=progress)

    def planned(budget: Budget) -> Plan:
        return spend(trace, budget, options, criterion=chosen, data=batches, loss=loss)

    if budget is not None:
        return planned(budget)
    floor = check_floor(accuracy, has_data=samples is not None)
    assert samples is not None
    return smallest(
        trace,
        floor,
        planned,
        calibrate=samples,
        metric=metric,
        file=None if trials is None else Path(trials),
        asked=f"{options} {getattr(criterion, 'name', criterion)}",
        tell=progress,
    )


# --- explicit removals -------------------------------------------------------------------------------


def remove(trace: Trace, removed: Mapping[Axis, Sequence[int]]) -> Plan:
    """Remove exactly the units that occupy the given positions, and all that is coupled with them.

    Args:
        trace: A traced model.
        removed: Positions to remove along axes ``(tensor name, dim)``.

    Returns:
        A plan like any other.

    Raises:
        PlanError: There is no such axis or position, a unit is pinned, a layout would not stay
            rectangular, or a layer would be emptied.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
        >>> made = fxprune.remove(fxprune.trace(net, torch.zeros(1, 3, 8, 8)), {("0.weight", 0): [1]})
        >>> made.kept["1.weight", 1]
        (0, 2, 3)
    """
    coupling = analyse(trace).coupling
    keep = np.ones(coupling.n_units, bool)
    for (name, dim), positions in removed.items():
        keep[_units_at(trace, coupling, name, dim, positions)] = False
    return plan_units(trace, keep)


def _units_at(trace: Trace, coupling: Coupling, name: str, dim: int, positions: Sequence[int]) -> IntArray:
    units = coupling.axes.get((trace.aliases.get(name, name), dim))
    if units is None:
        known = sorted({axis[0] for axis in coupling.axes})
        if name in known:
            dims = ", ".join(str(axis[1]) for axis in coupling.axes if axis[0] == name)
            advice = f"dimensions of this tensor with more than one position: {dims}"
        else:
            advice = near(name, known, otherwise="`fxprune inspect` lists tensors")
        raise PlanError(f"there is no axis ('{name}', {dim}) to remove from", tensor=name, advice=advice)
    index = np.asarray(positions, np.int64).reshape(-1)
    if index.size and (index.min() < 0 or index.max() >= len(units)):
        raise PlanError(
            f"position {int(index[(index < 0) | (index >= len(units))][0])} is outside dimension {dim} of '{name}'",
            tensor=name,
            advice=f"positions go from 0 to {len(units) - 1}",
        )
    return units[index]


def plan_structures(
    trace: Trace, names: Sequence[str], *, keep: BoolArray | None = None, notes: Sequence[str] = ()
) -> Plan:
    """Cut structures whole, and with them any units.

    Args:
        trace: A traced model.
        names: Structures to cut (``fxprune.structures.find.find_structures``).
        keep: bool[n_units] over the units of the trace; units inside a structure do not matter.
        notes: What the user should know.

    Raises:
        PlanError: A structure or a unit cannot go.

    Example:
        >>> import fxprune
        >>> from torchvision.models import resnet18
        >>> dense = fxprune.trace(resnet18(), torch.zeros(1, 3, 32, 32))
        >>> made = plan_structures(dense, ["layer4.1"])
        >>> made.removed, made.dense.params - made.predicted.params
        (('layer4.1',), 4720640)
    """
    small, dense = cut(trace, names), analyse(trace).coupling
    if small is trace:
        return plan_units(trace, np.ones(dense.n_units, bool) if keep is None else keep, notes=notes)
    coupling = analyse(small).coupling
    branches = np.ones(dense.n_units, bool)
    for structure in choose_structures(trace, names):
        branches[structure.units] = False
    left = np.ones(coupling.n_units, bool)
    for axis, units in coupling.axes.items():
        before = dense.axes.get(axis)
        if before is not None:
            # Zeros stay where a branch's place is part of a contract.
            left[units[~branches[before] & ~coupling.pinned[units]]] = False
            if keep is not None:
                left[units[~keep[before]]] = False
    return plan_units(small, left, notes=notes)
