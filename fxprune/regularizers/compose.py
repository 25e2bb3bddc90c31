"""Several methods at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.labels import IntArray
from fxprune.planning.options import PlanOptions
from fxprune.plans import Budget, Plan
from fxprune.regularizers.decisions import no_plan_of_channels, plan_for
from fxprune.regularizers.protocol import Regularizer, Report, State

__all__ = ["Compose"]


class Compose(Regularizer):
    """Sum of penalties, union of removals.

    Args:
        parts: Methods on one model; their groups come from one trace.

    Attributes:
        parts: As given.
        strength: Of the first part; setting it sets that of every part.

    Raises:
        PlanError: There is none, or one learns from something else than the labels.

    Example:
        >>> import fxprune
        >>> from fxprune.regularizers import SSR, NetworkSlimming
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3)
        ... )
        >>> groups = fxprune.couple(fxprune.trace(net, torch.zeros(1, 3, 9, 9)))
        >>> reg = Compose(SSR(net, groups, lam=0.01), NetworkSlimming(net, groups, ratio=0.25))
        >>> reg.penalty().ndim
        0
    """

    name = "compose"

    def __init__(self, *parts: Regularizer) -> None:
        if not parts:
            raise PlanError("nothing to compose", advice="pass at least one regularizer")
        alone = [part.name for part in parts if part.objective is not None]
        if alone:
            raise PlanError(
                f"'{alone[0]}' has an objective of its own and learns nothing beside others",
                advice="use it alone",
            )
        self.parts = parts
        self.groups: Sequence[Group] = next((part.groups for part in parts if part.groups), ())

    @property
    def strength(self) -> float:
        """Of the first part."""
        return self.parts[0].strength

    @strength.setter
    def strength(self, value: float) -> None:
        for part in self.parts:
            part.strength = value

    @property
    def period(self) -> int:
        """Steps between moments at which a part's decision may change."""
        return min(part.period for part in self.parts)

    @property
    def finished(self) -> bool:
        """Whether every part's decisions are taken for good."""
        return all(part.finished for part in self.parts)

    def penalty(self) -> Tensor:
        """Sum of the parts' penalties."""
        return torch.stack([part.penalty() for part in self.parts]).sum()

    def step(self) -> None:
        """Every part's step, in order."""
        for part in self.parts:
            part.step()

    def finish(self, plan: Plan | None = None) -> None:
        """Take every part's decisions for good.

        Args:
            plan: Must be None.

        Raises:
            PlanError: There is a plan.
        """
        no_plan_of_channels(plan, "several methods")
        for part in self.parts:
            part.finish()

    def removed_units(self) -> IntArray:
        """Units that any part would remove; where that is a whole group, only those of the first part."""
        each = [part.removed_units() for part in self.parts]
        removed = reduce(np.union1d, each)
        for group in self.groups:
            if group.pinned is None and np.isin(group.units, removed).all():
                for own in each:
                    stays = np.setdiff1d(group.units, own)
                    if len(stays):
                        removed = np.setdiff1d(removed, stays)
                        break
        return removed

    def plan(self, budget: Budget | None = None, options: PlanOptions | None = None) -> Plan:
        """One plan for everything the parts decided.

        Args:
            budget: Goes to the first part.
            options: How the budget is spent.

        Raises:
            PlanError: The groups carry no trace, or the planner refuses.
        """
        if budget is not None:
            return self.parts[0].plan(budget, options)
        return plan_for(self.groups, self.removed_units())

    def report(self) -> Report:
        """Sums, and the parts' own details under their names."""
        reports = [part.report() for part in self.parts]
        return Report(
            method="+".join(r.method for r in reports),
            steps=max(r.steps for r in reports),
            zero_share=max(r.zero_share for r in reports),
            penalty=float(np.nansum([r.penalty for r in reports])),
            overhead_ms=sum(r.overhead_ms for r in reports),
            overhead=sum(r.overhead for r in reports),
            details={f"{r.method}.{key}": value for r in reports for key, value in r.details.items()},
        )

    def state_dict(self) -> State:
        """The parts' states under their positions."""
        return {f"{i}.{k}": v for i, part in enumerate(self.parts) for k, v in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            PlanError: The state is of other parts.
        """
        for i, part in enumerate(self.parts):
            own = {k.removeprefix(f"{i}."): v for k, v in state.items() if k.startswith(f"{i}.")}
            part.load_state_dict(own)
