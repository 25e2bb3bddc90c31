"""What a method is: the protocol that training loops and recipes speak, and nothing they need besides it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from fxprune.coupling.groups import Group
from fxprune.graph.trace import ExampleInputs
from fxprune.labels import IntArray
from fxprune.planning.options import PlanOptions
from fxprune.plans import Budget, Plan

__all__ = ["Objective", "Regularizer", "Report", "State"]

State = dict[str, Tensor]
"""State of a method: tensors by name, fit for ``torch.save`` and for safetensors."""

Objective = Callable[[ExampleInputs], Tensor]
"""A batch of inputs to the loss on it, float[], differentiable."""


@dataclass(frozen=True)
class Report:
    """Quantities to watch during training.

    Attributes:
        method: Name of the method.
        steps: Number of ``step()`` calls.
        zero_share: Share of the units it may remove that would go now, in [0, 1].
        penalty: Last value of the penalty; NaN before the first.
        overhead_ms: Mean time a step spends in ``penalty()`` and ``step()``, milliseconds.  Their share
            of the backward pass is not in it, nor what a device still does after they return.
        overhead: The same as a share of the time between steps, in [0, 1]; 0 before two steps.
        details: Quantities of the method (residuals, factors, ...).
    """

    method: str
    steps: int
    zero_share: float
    penalty: float
    overhead_ms: float
    overhead: float
    details: Mapping[str, float] = field(default_factory=dict)


class Regularizer(abc.ABC):
    """The protocol: three lines in a training loop, then a plan.

    ::

        loss = task_loss + reg.penalty()
        loss.backward(); optimizer.step(); reg.step()
        ...
        plan = reg.plan()

    Methods that act on coupling groups derive from ``GroupRegularizer``; those that act on other
    structures (masks on branches and blocks) from this class.  Whatever else a training loop or a recipe
    asks of a method has a default here, so one of your own can do all that those of fxprune can.

    Recipes make a method as ``Method(model, groups, **options)``.  Options are the keyword parameters of
    ``__init__``, checked against their annotations; ``lr`` gets the optimizer and ``budget`` the recipe's
    budget where a method asks for them.

    Attributes:
        name: Of the method.
        one_shot: The method decides by a budget at once: it needs a budget, and no epochs to act in.
        steerable: The method's decision can be led to a budget: it follows ``strength``, may change every
            ``period`` steps, and ``finish`` takes a plan.
        spends: Quantities whose budgets ``plan`` can spend; a budget of several is all of them.
        groups: Coupling groups of the model, all or some.
        strength: Multiplies every penalty coefficient; set it to warm up or to control sparsity.
        student: What stands for the model until the decisions are taken, where that is not the model itself.
    """

    name = "regularizer"
    one_shot: ClassVar[bool] = False
    steerable: bool = False
    spends: ClassVar[frozenset[str]] = frozenset({"macs", "params", "channels", "latency"})
    groups: Sequence[Group]
    strength: float = 1.0
    student: nn.Module | None = None

    @property
    def objective(self) -> Objective | None:
        """The loss to minimise instead of the labels' (``penalty()`` is added to both); None: the labels'."""
        return None

    @property
    def period(self) -> int:
        """Steps between moments at which the method's decision may change."""
        return 1

    @property
    @abc.abstractmethod
    def finished(self) -> bool:
        """Whether the decisions are taken for good."""

    @abc.abstractmethod
    def penalty(self) -> Tensor:
        """The term to add to the loss: float[], differentiable; zero for methods that act in ``step``."""

    @abc.abstractmethod
    def step(self) -> None:
        """What happens after the optimizer's step; call it once per step, before the scheduler's."""

    @abc.abstractmethod
    def finish(self, plan: Plan | None = None) -> None:
        """Take the decisions for good: what goes is set to zero now and after every later step.

        Args:
            plan: Take this decision instead of the method's own: one that spends a budget in the order the
                method learned, such as ``plan(budget)`` gives.

        Raises:
            PlanError: The method takes no decision but its own.
        """

    @abc.abstractmethod
    def plan(self, budget: Budget | None = None, options: PlanOptions | None = None) -> Plan:
        """What the method decided, as a plan for ``slim``; or a budget spent in the order it learned.

        Args:
            budget: Spend this budget in the order the method learned, where its own decision is not of
                the size wanted.
            options: How the budget is spent.

        Raises:
            PlanError: The groups carry no trace, or the planner refuses.
        """

    def decision(self) -> Plan | None:
        """What would go by the method's own decision of the moment, which is not taken; None if a budget decides.

        Raises:
            PlanError: Nothing would go, or the groups carry no trace.
        """
        return self.plan()

    @abc.abstractmethod
    def removed_units(self) -> IntArray:
        """Ids (in the coupling) of the units that would go now, ascending."""

    @abc.abstractmethod
    def report(self) -> Report:
        """Quantities to watch; reading them waits for the device."""

    @abc.abstractmethod
    def state_dict(self) -> State:
        """Everything that a bit-equal continuation needs, apart from the model and the optimizer."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            PlanError: The state is of another method or of other groups.
        """
