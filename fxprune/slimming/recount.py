"""Recount: what a plan says it costs is computed again where the plan is used, and never believed.

A plan is plain data that anybody may write.  Its parameters must be right; its multiply-accumulates hold for
the inputs it was made with, and with others they become those of the others.
"""

from __future__ import annotations

from dataclasses import replace

from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.plans import Plan
from fxprune.resizing.resolve import expect, keep_mask, resolve
from fxprune.slimming.crop import less_crops
from fxprune.structures.cut import cut

__all__ = ["recounted"]


def recounted(trace: Trace, plan: Plan) -> Plan:
    """The plan with the costs that this trace gives it.

    Args:
        trace: A traced model.
        plan: Made for it, with inputs of these or other sizes.

    Returns:
        The plan itself where it was right.

    Raises:
        PlanError: The plan was made for another model, contradicts itself, or states costs that it has not.

    Example:
        >>> import torch, fxprune
        >>> from fxprune.plans import Cost
        >>> net = torch.nn.Conv2d(3, 8, 3)
        >>> traced = fxprune.trace(torch.nn.Sequential(net, torch.nn.Conv2d(8, 2, 1)), torch.zeros(1, 3, 6, 6))
        >>> made = fxprune.plan(traced, fxprune.Budget(channels=0.5))
        >>> recounted(traced, replace(made, predicted=Cost(1, 1)))
        Traceback (most recent call last):
            ...
        fxprune.errors.PlanError: the plan states 1 parameters for the slim model, it has 122
          what to do: was it edited by hand? Make plans with fxprune.plan
    """
    expect(trace, plan)
    small = cut(trace, plan.removed)
    analysis = analyse(small)
    resolution = resolve(analysis, keep_mask(analysis, plan))
    slim = less_crops(small, resolution.kept, resolution.cost, plan.crops)
    dense = analyse(trace.parent or trace).coupling.cost.dense
    _compare("dense", "parameters", plan.dense.params, dense.params)
    _compare("slim", "parameters", plan.predicted.params, slim.params)
    if plan.dense.macs == dense.macs:
        _compare("slim", "MACs", plan.predicted.macs, slim.macs)
    right = plan.predicted == slim and plan.dense == dense
    return plan if right else replace(plan, predicted=slim, dense=dense)


def _compare(model: str, quantity: str, stated: int, real: int) -> None:
    if stated != real:
        raise PlanError(
            f"the plan states {stated} {quantity} for the {model} model, it has {real}",
            advice="was it edited by hand? Make plans with fxprune.plan",
        )
