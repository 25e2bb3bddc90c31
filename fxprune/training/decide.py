"""From what a method learned, or from a criterion, to a plan under the recipe's budget."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.coupling.couple import analyse
from fxprune.criteria import FROM_SAMPLES
from fxprune.criteria.named import criterion_named
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.planning.choice import freeze, ratios_of
from fxprune.planning.options import PlanOptions
from fxprune.planning.ranking import ranked
from fxprune.planning.spend import spend
from fxprune.plans import Budget, Plan
from fxprune.regularizers import Regularizer
from fxprune.training.recipe.schema import Augment
from fxprune.training.session import RunSession

__all__ = ["check_patterns", "dead_channels", "decide", "own_share"]

_WORTH_SAYING = 0.05  # share of channels
_STREAM = 9  # random numbers of the batches that criteria look at

Evidence = tuple[Tensor, Tensor]


def check_patterns(session: RunSession, trace: Trace) -> None:
    """``protect``, ``only`` and ``ratios`` of the recipe name groups of this model.

    The planner says the same, but after the sparse training.

    Args:
        session: The run.
        trace: Of the dense architecture.

    Raises:
        RecipeError: A pattern fits nothing, or two contradict each other; with the line.
    """
    options, coupling = session.recipe.plan, analyse(trace).coupling
    try:
        freeze(coupling, options.protect, options.only, np.zeros(len(coupling.pinned)))
        ratios_of(coupling, options.ratios)
    except PlanError as error:
        [option] = re.findall(r"^\w+", error.what)  # these complaints begin with the option's name
        raise session.file.error(f"plan.{option}", error.what, advice=error.advice) from error


def decide(session: RunSession, trace: Trace, method: Regularizer | None) -> Plan:
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
    if budget is None or method.finished:
        # Steering spends the budget where the method meets it: what went has been zero since then.
        method.finish()
        return method.plan()
    return method.plan(budget, options)


def _by_criterion(session: RunSession, trace: Trace, budget: Budget, options: PlanOptions) -> Plan:
    criterion = session.recipe.plan.criterion
    if criterion in FROM_SAMPLES:
        samples = [images for images, _ in _evidence(session, augmented=False)]
        return spend(trace, budget, options, criterion=ranked(trace, criterion, samples, seed=options.seed))
    data = _evidence(session) if criterion_named(criterion).needs else None
    return spend(trace, budget, options, criterion=criterion, data=data, loss=None if data is None else _loss)


def _evidence(session: RunSession, *, augmented: bool = True) -> list[Evidence]:
    """A few training batches on the CPU, the same on every process."""
    batches = replace(session.training(), rank=0, world=1)
    steps = min(session.recipe.plan.batches, batches.per_epoch)
    dtype = next(session.dense.parameters()).dtype
    how = session.recipe.data.augment if augmented else Augment()
    drawn = batches.training(_STREAM, 0, steps, how)
    return [(images.cpu().to(dtype), labels.cpu()) for images, labels in islice(drawn, steps)]


def _loss(model: nn.Module, batch: Evidence) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def dead_channels(small: nn.Module, dense: nn.Module) -> str:
    """A warning where channels that stay are zero though they were not: what has no weight and no scale learns nothing; else empty."""
    before = {
        name for name, tensor in dense.named_parameters() if tensor.ndim > 1 and bool(_alive(tensor).all())
    }
    alive = {n: _alive(tensor) for n, tensor in small.named_parameters() if n in before}
    total = sum(len(rows) for rows in alive.values())
    dead = total - sum(int(rows.sum()) for rows in alive.values())
    if dead <= _WORTH_SAYING * total:
        return ""
    worst = min(alive, key=lambda name: float(alive[name].double().mean()))
    return (
        f"{dead} of {total} channels that stay are zero ({int((~alive[worst]).sum())} of {len(alive[worst])} in {worst}): the method "
        "was stronger than the budget asked, and fine-tuning may not bring them back; a smaller strength keeps more alive"
    )


def _alive(weight: Tensor) -> Tensor:
    """Which rows of a weight are not all zero."""
    return weight.detach().flatten(1).any(1)


@torch.no_grad()
def own_share(method: Regularizer, budget: Budget | None) -> float | None:
    """Share of the budgeted cost (MACs without a budget) that a method's own decision of the moment would keep.

    Args:
        method: As it stands; every process has to ask.
        budget: What is to be kept.

    Returns:
        The share; None where the method leaves the decision to the budget.
    """
    try:
        decision = method.decision()
    except PlanError:
        return 1.0  # nothing would go
    if decision is None:
        return None
    quantity = "params" if budget is not None and budget.parts[0].quantity == "params" else "macs"
    return float(getattr(decision.predicted, quantity) / max(getattr(decision.dense, quantity), 1))
