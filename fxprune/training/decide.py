"""From what a method learned, or from a criterion, to a plan under the recipe's budget."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.criteria.score import criterion_named
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.planning.options import PlanOptions
from fxprune.planning.plan import spend
from fxprune.plans import Budget, Plan
from fxprune.regularizers import GroupRegularizer, Regularizer
from fxprune.regularizers.decisions import Learned
from fxprune.regularizers.oneshot import OneShot
from fxprune.training.session import Session

__all__ = ["decide", "in_order", "own_decision"]

_STREAM = 9  # random numbers of the batches that criteria look at

Evidence = tuple[Tensor, Tensor]


def decide(session: Session, trace: Trace, method: Regularizer | None) -> Plan:
    """The plan of a run.

    With a budget, units go in the order the method learned until the budget is met; without, or where the
    method has finished, its own decision is the plan.

    Args:
        session: The run.
        trace: Of the dense architecture on the CPU, with the weights of the moment.
        method: The regularizer, None to prune by the recipe's criterion.

    Raises:
        PlanError: The planner refuses.
    """
    options = session.recipe.plan.options(session.recipe.seed)
    budget = None if session.recipe.budget is None else session.recipe.budget.budget()
    if method is None:
        assert budget is not None, "the recipe was checked"
        return _by_criterion(session, trace, budget, options)
    if budget is None or (isinstance(method, GroupRegularizer) and method.finished):
        # Steering spends the budget where the method meets it: what went has been zero since then.
        method.finish()
        return method.plan()
    if isinstance(method, OneShot):
        own = replace(options, seed=method.seed, scope=method.scope)
        return spend(trace, budget, own, criterion=method.criterion)
    # Columns have no order of channels.
    if isinstance(method, GroupRegularizer) and method.name != "increg_columns":
        return in_order(trace, budget, method, options)
    return method.plan(budget, options)


def in_order(trace: Trace, budget: Budget, method: GroupRegularizer, options: PlanOptions) -> Plan:
    """A budget spent in the order that a method has learned so far.

    Raises:
        PlanError: The planner refuses.
    """
    return spend(trace, budget, options, criterion=Learned(method.scores()))


def _by_criterion(session: Session, trace: Trace, budget: Budget, options: PlanOptions) -> Plan:
    criterion = session.recipe.plan.criterion
    data = _evidence(session) if criterion_named(criterion).needs else None
    return spend(trace, budget, options, criterion=criterion, data=data, loss=None if data is None else _loss)


def _evidence(session: Session) -> list[Evidence]:
    """A few training batches on the CPU, the same on every process."""
    batches = session.training()
    steps = min(session.recipe.plan.batches, batches.per_epoch)
    dtype = next(session.dense.parameters()).dtype
    drawn = batches.training(_STREAM, 0, steps, session.recipe.data.augment)
    return [(images.cpu().to(dtype), labels.cpu()) for images, labels in islice(drawn, steps)]


def _loss(model: nn.Module, batch: Evidence) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


@torch.no_grad()
def own_decision(method: Regularizer | None) -> float | None:
    """Share of the MACs that the method's own decision keeps; None without one."""
    if method is None or isinstance(method, OneShot) or not isinstance(method, GroupRegularizer):
        return None
    try:
        made = method.plan()
    except PlanError:
        return 1.0  # nothing would go
    return made.predicted.macs / max(made.dense.macs, 1)
