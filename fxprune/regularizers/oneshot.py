"""One-shot baselines with the protocol of a method: no penalty, the planner decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Group
from fxprune.criteria.base import Criterion, View
from fxprune.criteria.named import criterion_named
from fxprune.errors import PlanError
from fxprune.labels import FloatArray, IntArray
from fxprune.planning.options import PlanOptions
from fxprune.planning.spend import spend
from fxprune.plans import Budget, Plan, Scope
from fxprune.regularizers.decisions import cut_by, trace_of
from fxprune.regularizers.protocol import Regularizer, Report, State
from fxprune.regularizers.terms.layout import find_parameters
from fxprune.regularizers.terms.local import assembled

__all__ = ["Magnitude", "OneShot", "Uniform"]

DEFAULT_BUDGET = Budget(macs=0.5)


class _OfWholeWeights:
    """A criterion that sees whole weights where every process holds a part; all processes have to ask."""

    def __init__(self, criterion: Criterion) -> None:
        self._criterion = criterion
        self.name, self.needs, self.normalise = criterion.name, criterion.needs, criterion.normalise

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        return self._criterion.score(replace(view, tensor=lambda name: assembled(view.tensor(name))))


class OneShot(Regularizer):
    """A criterion and a budget; training is left alone until ``finish``.

    Args:
        model: The model in training.
        groups: Its coupling groups, made by ``couple``.
        budget: Fraction to keep.
        criterion: Name of a criterion that needs no data.
        scope: How units of different groups compete; see ``fxprune.plan``.
        seed: Of a random criterion.

    Attributes:
        criterion: Name of the criterion.
        scope: As given.
        seed: As given.

    Raises:
        PlanError: The groups carry no trace.
    """

    name = "one_shot"
    one_shot = True

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        budget: Budget = DEFAULT_BUDGET,
        criterion: str = "l1",
        scope: Scope = "global",
        seed: int = 0,
    ) -> None:
        self.groups = tuple(groups)
        self._trace = trace_of(self.groups)
        every = {group.name for group in analyse(self._trace).coupling.groups if group.pinned is None}
        mine = [group.name for group in self.groups if group.pinned is None]
        self._only = () if every <= set(mine) else tuple(mine)
        self._budget = budget
        self.criterion, self.seed = criterion, seed
        self.scope: Scope = scope
        self._owner, _ = find_parameters(model, (n for g in groups for n, _ in g.indices))
        self._device = next(self._owner.parameters()).device
        self._steps = 0
        self._finished: Plan | None = None

    def penalty(self) -> Tensor:
        """Zero."""
        return torch.zeros((), device=self._device)

    def step(self) -> None:
        """Nothing before ``finish``; then what goes is set to zero again."""
        self._steps += 1
        if self._finished is not None:
            self._zero(self._finished)

    @property
    def finished(self) -> bool:
        """Whether the decision is taken for good."""
        return self._finished is not None

    def decision(self) -> None:
        """None: the budget decides."""

    def finish(self, plan: Plan | None = None) -> None:
        """Decide now: what goes is set to zero now and after every later step.

        Args:
            plan: Take this decision instead.
        """
        if self._finished is None:
            self._finished = self.plan() if plan is None else plan
        self._zero(self._finished)

    def plan(self, budget: Budget | None = None, options: PlanOptions | None = None) -> Plan:
        """The plan for the weights of the moment, or the one of ``finish``.

        Args:
            budget: Instead of the one the method was made with.
            options: How it is spent; scope and seed are the method's own, and so are its groups if it got some only.
        """
        if self._finished is not None and budget is None:
            return self._finished
        given = options or PlanOptions()
        own = replace(given, scope=self.scope, seed=self.seed, only=self._only or given.only)
        criterion = _OfWholeWeights(criterion_named(self.criterion))
        return spend(self._trace, budget or self._budget, own, criterion=criterion)

    def _axes(self, cut: Plan) -> Mapping[tuple[str, int], Tensor]:
        """For every axis that loses something, the indices that go."""
        lost = {}
        for (name, dim), kept in cut.kept.items():
            gone = torch.ones(self._trace.tensor(name).shape[dim], dtype=torch.bool)
            gone[list(kept)] = False
            lost[name, dim] = gone.nonzero().flatten().to(self._device)
        return lost

    @torch.no_grad()
    def _zero(self, cut: Plan) -> None:
        parameters = dict(self._owner.named_parameters(remove_duplicate=False))
        for (name, dim), gone in self._axes(cut).items():
            if name in parameters:
                parameters[name].index_fill_(dim, gone, 0.0)

    def removed_units(self) -> IntArray:
        """Ids (in the coupling) of the units that would go now, ascending."""
        return cut_by(self.groups, self.plan())

    def report(self) -> Report:
        """Share of units that would go now."""
        prunable = sum(group.width for group in self.groups if group.pinned is None)
        share = len(self.removed_units()) / max(prunable, 1)
        return Report(self.name, self._steps, share, 0.0, 0.0, 0.0)

    def state_dict(self) -> State:
        """Steps, and the plan once it is taken for good."""
        state = {"steps": torch.tensor(self._steps)}
        if self._finished is not None:
            state["plan"] = torch.tensor(list(self._finished.to_json().encode()), dtype=torch.uint8)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            PlanError: The state is of another method.
        """
        if not {"steps"} <= set(state) <= {"steps", "plan"}:
            raise PlanError(
                f"this state does not belong to {self.name}", advice="load the state of the same method"
            )
        self._steps = int(state["steps"])
        text = bytes(state["plan"].tolist()).decode() if "plan" in state else ""
        self._finished = Plan.from_json(text) if text else None


class Magnitude(OneShot):
    """One-shot magnitude pruning: the lowest L1 norms go until the budget is met.

    Args:
        model: The model in training.
        groups: Its coupling groups, made by ``couple``.
        budget: Fraction to keep.
        scope: ``"global"`` or ``"local"`` (every group loses the same share).

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> reg = Magnitude(net, fxprune.couple(fxprune.trace(net, torch.zeros(1, 4))), budget=Budget(macs=0.5))
        >>> len(reg.plan().kept["0.weight", 0])
        4

    References:
        Li et al., Pruning filters for efficient ConvNets, ICLR 2017.  Deviation: norms are over whole
        coupling groups, consumers included.
    """

    name = "magnitude"

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        budget: Budget = DEFAULT_BUDGET,
        scope: Scope = "global",
    ) -> None:
        super().__init__(model, groups, budget=budget, criterion="l1", scope=scope)


class Uniform(OneShot):
    """Uniform random pruning: every group loses the same share, drawn by chance.

    Args:
        model: The model in training.
        groups: Its coupling groups, made by ``couple``.
        budget: Fraction to keep.
        seed: Of the draw.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> reg = Uniform(net, fxprune.couple(fxprune.trace(net, torch.zeros(1, 4))), budget=Budget(macs=0.5))
        >>> len(reg.plan().kept["0.weight", 0])
        4

    References:
        The baseline every method must beat at equal MACs; see Mittal et al., Recovering from random pruning, 2018.
    """

    name = "uniform"

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        budget: Budget = DEFAULT_BUDGET,
        seed: int = 0,
    ) -> None:
        super().__init__(model, groups, budget=budget, criterion="random", scope="local", seed=seed)
