"""From a criterion and a budget to a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from fxprune import targets
from fxprune.coupling.analysis import Analysis
from fxprune.coupling.couple import analyse
from fxprune.criteria.base import Criterion
from fxprune.criteria.score import score
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.ops.contract import CONVOLUTIONS
from fxprune.planning.attempts import Attempts, Lessons, Way, ways_to
from fxprune.planning.choice import freeze, ratios_of
from fxprune.planning.latency import latency_model
from fxprune.planning.notes import gap_notes, local_note, nothing_to_prune
from fxprune.planning.options import PlanOptions
from fxprune.planning.origin import origin
from fxprune.planning.own_class import keeping_class
from fxprune.planning.problem import Width
from fxprune.planning.solve import Options, Solution, solve
from fxprune.planning.steps import fitting_step, halves, importance_kept, steps_note
from fxprune.planning.timing import meet
from fxprune.planning.together import all_met
from fxprune.plans import Budget, Plan
from fxprune.resizing.resolve import keep_mask
from fxprune.support.process import no_garbage

__all__ = ["spend"]

Batch = TypeVar("Batch")


def spend(
    trace: Trace,
    budget: Budget,
    options: PlanOptions,
    *,
    criterion: str | Criterion = "l1",
    data: Iterable[Batch] | None = None,
    loss: Callable[[nn.Module, Batch], torch.Tensor] | None = None,
) -> Plan:
    """`plan` with its options in one piece.

    Args:
        trace: A traced model.
        budget: Fraction to keep.
        options: How it is spent.
        criterion: Importance of units.
        data: Batches for criteria that need them.
        loss: For the same criteria.

    Raises:
        PlanError: The budget is none, a pattern fits nothing, or nothing may go.
    """
    _check_budget(budget)
    analysis = analyse(trace)
    coupling = analysis.coupling
    scores = score(trace, criterion, data=data, loss=loss, seed=options.seed)
    frozen = freeze(coupling, options.protect, options.only, scores.units)
    decided = ratios_of(coupling, options.ratios)

    target = targets.get(options.target)
    quantities = {part.quantity for part in budget.parts}
    # Where no width is better than another nothing is known of the target's time.
    timed = "latency" in quantities or ("macs" in quantities and target.channel_step > 1)
    latency = latency_model(analysis, target, batch=target.batch) if timed else None

    asked = budget

    @no_garbage()
    def planned(budget: Budget) -> Plan:
        def choose(way: Way, lessons: Lessons) -> Solution:
            how = Options(
                scope=options.scope,
                blocks=way.blocks,
                keep_at_least=options.keep_at_least,
                widths=_widths(analysis, way.step),
                ratios=decided,
                ties=lessons.ties,
                latency=latency,
            )
            return solve(coupling, scores.units, lessons.stays, budget, how)

        # Where the steps are the target's and one of them asks too much of this model, a finer one will do.
        steps = halves(options.step) if options.align == "auto" else [options.step, 1]
        trials = {step: choose(Way(options.blocks, step), Lessons(frozen.units)) for step in steps}
        kept = {step: importance_kept(scores.units, trial.keep) for step, trial in trials.items()}
        step = fitting_step(kept) if options.align == "auto" else options.step
        best = Attempts(trace, budget, scores.units, choose).run(
            ways_to(coupling, options.blocks, step, other_steps=options.align == "auto"),
            Lessons(frozen.units),
        )
        if not best.solution.n_atoms and budget.fraction < 1:
            raise nothing_to_prune(coupling, frozen, best.solution.notes)
        gap = gap_notes(coupling, frozen, budget, best.solution, best.way.step)
        # For as much time any widths keep less: they are slower.
        counted = budget.quantity in ("macs", "params") or best.way.step < options.step
        if not gap and counted and best.way.blocks == options.blocks:
            gap = steps_note(kept, best.way.step, options.step)
        if options.scope == "local":
            gap = (*gap, *local_note(coupling, frozen, decided, best.solution.keep, best.way.step))
        how = origin(asked, criterion, options, target, best.way.step)
        return replace(best.plan, notes=(*scores.notes, *best.notes, *best.solution.notes, *gap), origin=how)

    def spent(budget: Budget) -> Plan:
        return meet(trace, budget, planned, target) if budget.quantity == "latency" else planned(budget)

    def milliseconds(plan: Plan) -> float:
        return latency.milliseconds(keep_mask(analysis, plan)) if latency is not None else 0.0

    made = spent(budget) if len(quantities) == 1 else all_met(budget, spent, milliseconds)
    if not options.keep_class:
        return made
    again = replace(options, keep_class=False)
    return keeping_class(trace, made, scores.units, lambda t, given: spend(t, budget, again, criterion=given))


def _check_budget(budget: Budget) -> None:
    if not isinstance(budget, Budget):  # a number, most likely
        raise PlanError(f"{budget!r} is no budget", advice="write fxprune.Budget(macs=0.5) to keep half")


def _widths(analysis: Analysis, step: int) -> list[Width]:
    """Axes along which convolutions make channels, and one group of each grouped convolution."""
    if step == 1:
        return []
    trace, coupling = analysis.trace, analysis.coupling
    groups: dict[str, int] = {}
    for node, call in analysis.calls.items():
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        if call.op in CONVOLUTIONS and getattr(weight, "op", "") == "get_attr":
            name = str(getattr(weight, "target", ""))
            groups[trace.aliases.get(name, name)] = call.integer("groups", 1)
    widths: list[Width] = []
    # Weights that are computed first (standardised, say) are found by their rank.
    for axis in dict.fromkeys(axis for group in coupling.groups for axis in group.producers):
        if trace.tensor(axis[0]).ndim < 3:
            continue
        units, count = coupling.axes[axis], groups.get(axis[0], 1)
        widths.append(Width(units, step))
        if axis[1] == 0 and 1 < count < len(units):
            widths.append(Width(units[: len(units) // count], step))
    return widths
