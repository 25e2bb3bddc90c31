"""What methods on coupling groups share: the decisions and their effect, state and report.

A method sees its units as *atoms* (a unit, or a bundle that layouts tie together) through a
``GroupView``.  It supplies a penalty, what happens after the optimizer's step, and which atoms it
keeps; the rest lives here.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.labels import FloatArray, IntArray
from fxprune.planning.options import PlanOptions
from fxprune.plans import Budget, Plan
from fxprune.regularizers.clock import Clock
from fxprune.regularizers.decisions import Learned, cut_by, plan_for
from fxprune.regularizers.options import PerGroup, Scale, choose, per_family
from fxprune.regularizers.protocol import Regularizer, Report, State
from fxprune.regularizers.terms.layout import Members, TermLayout, row_layout
from fxprune.regularizers.terms.view import GroupView, rank_within

__all__ = ["GroupRegularizer"]


class GroupRegularizer(Regularizer):
    """Base of methods that act on coupling groups.

    Args:
        model: The model in training; wrappers are looked through.
        groups: Its coupling groups; pinned ones are left alone, so you may pass all.
        members: Which tensors count as part of a unit.
        votes: One norm per producer instead of one over all of them.
        keep_at_least: Atoms that stay in every group whatever the method says.
        only: Names of tensors, if not all count that ``members`` asks for.

    Attributes:
        view: The parameters of the units.
        strength: Multiplies every penalty coefficient; set it to warm up or to control sparsity.
        steps: Number of ``step()`` calls so far.
    """

    steerable = True

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        members: Members = "producers",
        votes: bool = False,
        keep_at_least: int = 1,
        only: AbstractSet[str] | None = None,
    ) -> None:
        choose("members", members, ("rows", "producers", "all"))
        if keep_at_least < 1:
            raise PlanError(f"keep_at_least={keep_at_least} would empty a layer", advice="keep at least 1")
        self.groups = tuple(groups)
        self._model = model
        self._keep_at_least = keep_at_least
        owner, layout = row_layout(
            model, groups, members=members, votes=votes, keep_at_least=keep_at_least, only=only
        )
        self._rows = layout
        self._attach(owner, layout)

    def _attach(self, owner: nn.Module, layout: TermLayout) -> None:
        """Build the view and everything that has its size."""
        if not layout.slots:
            raise PlanError(
                "the method can act on none of the groups: all are pinned, frozen, too narrow or without "
                "the parameters it looks at",
                advice="look at each group's .pinned and .members, and at requires_grad of its parameters",
            )
        self._owner = owner
        self.view = GroupView(owner, layout)
        self.strength = 1.0
        self.steps = 0
        self._finished: Tensor | None = None
        self._reference = self.view.layer_mean(self.view.sums(2).sqrt())
        self._last_penalty: Tensor | None = None
        self._mask_view: GroupView | None = None
        self._clock = Clock()

    # What a method supplies ------------------------------------------------------------------

    def _penalty(self) -> Tensor:
        """The differentiable penalty of the moment."""
        return torch.zeros((), device=self.view.device, dtype=self.view.dtype)

    def _step(self) -> None:
        """What happens after the optimizer's step, without gradients."""

    @abc.abstractmethod
    def _alive(self) -> Tensor:
        """bool[n_atoms], what the method would keep now."""

    @abc.abstractmethod
    def _importance(self) -> Tensor:
        """float[n_atoms], higher is kept first; comparable over families."""

    @abc.abstractmethod
    def _own_state(self) -> State:
        """Tensors of the method, by name."""

    @abc.abstractmethod
    def _load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``_own_state`` gave."""

    def _details(self) -> Mapping[str, float]:
        """Quantities of the method for its report."""
        return {}

    # Protocol --------------------------------------------------------------------------------

    def penalty(self) -> Tensor:
        """The term to add to the loss: float[], differentiable; zero for methods that act in ``step``."""
        with self._clock.running(is_step=False):
            if self._finished is not None:
                return torch.zeros((), device=self.view.device, dtype=self.view.dtype)
            value = self._penalty()
            if value.requires_grad:
                self._last_penalty = value.detach()
            return value

    def step(self) -> None:
        """What happens after the optimizer's step; call it once per step, before the scheduler's."""
        with self._clock.running(is_step=True), torch.no_grad():
            self.steps += 1
            if self._finished is None:
                self._step()
            else:
                self._zero(~self._finished)

    @torch.no_grad()
    def alive(self) -> Tensor:
        """bool[n_atoms], what stays: the method's decision, but ``keep_at_least`` atoms in every group."""
        if self._finished is not None:
            return self._finished
        alive = self._alive()
        short = self.view.family_count(alive) < self._keep_at_least
        if bool(short.any()):
            place = rank_within(self.view.atom_family, -self._importance())
            alive = alive | (short[self.view.atom_family] & (place < self._keep_at_least))
        return alive

    def finish(self, plan: Plan | None = None) -> None:
        """Take the decisions for good: what goes is set to zero now and after every later step.

        From here on ``penalty()`` is zero: this is masked fine-tuning.  Every parameter slice of
        the units that go is zeroed: producers, affine parameters and the consumers' inputs.

        Args:
            plan: Take this decision instead of the method's own: one that spends a budget in the order the
                method learned, such as ``plan(budget)`` gives.

        Raises:
            PlanError: The groups carry no trace that a plan could be read with.
        """
        if self._finished is None:
            self._finished = self.alive() if plan is None else self._left_by(plan)
        self._zero(~self._finished)

    def _left_by(self, plan: Plan) -> Tensor:
        """bool[n_atoms], those of which a plan keeps anything."""
        unit_atom = self._rows.unit_atom
        stays = unit_atom >= 0
        stays[cut_by(self.groups, plan)] = False
        alive = torch.zeros(len(self.view.atom_family), dtype=torch.bool)
        alive[torch.from_numpy(unit_atom[stays])] = True
        return alive.to(self.view.device)

    @property
    def finished(self) -> bool:
        """Whether the decisions are taken for good."""
        return self._finished is not None

    def removed_units(self) -> IntArray:
        """Ids (in the coupling) of the units that would go now, ascending."""
        alive = self.alive().cpu().numpy()
        atom = self._rows.unit_atom
        return np.flatnonzero((atom >= 0) & ~alive[np.maximum(atom, 0)])

    @torch.no_grad()
    def scores(self) -> FloatArray:
        """Importance of every unit, float64[units]; NaN for those the method may not remove."""
        value = np.append(self._importance().double().cpu().numpy(), np.nan)
        return np.asarray(value[self._rows.unit_atom])

    def plan(self, budget: Budget | None = None, options: PlanOptions | None = None) -> Plan:
        """What the method decided, as a plan for ``slim``.

        Args:
            budget: Spend this budget in the order the method learned, where its own decision is not of
                the size wanted.
            options: How the budget is spent.

        Raises:
            PlanError: The groups carry no trace, or the planner refuses.
        """
        learned = None if budget is None else Learned(self.scores())
        return plan_for(self.groups, self.removed_units(), learned, budget, options)

    def report(self) -> Report:
        """Quantities to watch; reading them waits for the device."""
        return Report(
            method=self.name,
            steps=self.steps,
            zero_share=float((~self.alive()).double().mean()),
            penalty=float("nan") if self._last_penalty is None else float(self._last_penalty),
            overhead_ms=self._clock.milliseconds,
            overhead=self._clock.share,
            details=self._details(),
        )

    def state_dict(self) -> State:
        """Everything that a bit-equal continuation needs, apart from the model and the optimizer."""
        shape = [len(self.view.layout.slots), self.view.layout.n_terms, self.view.layout.n_atoms]
        state = {
            "method": torch.tensor(list(self.name.encode()), dtype=torch.uint8),
            "shape": torch.tensor(shape),
            "steps": torch.tensor(self.steps),
            "strength": torch.tensor(self.strength, dtype=torch.float64),
            "reference": self._reference.clone(),
        }
        if self._finished is not None:
            state["finished"] = self._finished.clone()
        return state | {f"own.{key}": value.clone() for key, value in self._own_state().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            PlanError: The state is of another method or of other groups.
        """
        mine = self.state_dict()
        for key in ("method", "shape"):
            if key not in state or not torch.equal(state[key].cpu(), mine[key]):
                raise PlanError(
                    f"this state does not belong to {self.name} on these groups ({key} differs)",
                    advice="make the method with the same model, groups and options as before",
                )
        device = self.view.device
        self.steps = int(state["steps"])
        self.strength = float(state["strength"])
        self._reference = state["reference"].to(device, copy=True)
        self._finished = state["finished"].to(device, copy=True) if "finished" in state else None
        own = {k.removeprefix("own."): v for k, v in state.items() if k.startswith("own.")}
        self._load_own_state({k: v.to(device, copy=True) for k, v in own.items()})

    # Helpers for methods ---------------------------------------------------------------------

    def _beside_family(self, norms: Tensor, asked: Tensor) -> Tensor:
        """What is left of every atom, beside what is left of its whole family: float[n_atoms].

        ``norms / asked``, averaged over an atom's terms (producers that vote are several), and divided by how far
        the family's mean has fallen since the method was made.  Weights
        before a normalisation may shrink together at no cost to the loss, so a layer that became smaller as a
        whole has not lost importance, and what lost more than its layer has.

        Args:
            norms: float[n_terms].
            asked: float[n_terms], what the method holds against them.
        """
        least = torch.finfo(asked.dtype).tiny ** 0.5
        asked = asked.clamp(min=least)
        terms = self.view.per_atom(torch.ones_like(norms))
        now, before = (self.view.per_atom(size / asked) / terms for size in (norms, self._reference))
        family = self.view.atom_family
        zero = now.new_zeros(len(self.view.layout.families))
        fallen = zero.index_add(0, family, now) / zero.index_add(0, family, before).clamp(min=least)
        return now / fallen.clamp(min=1e-6)[family]

    def _zero(self, dead: Tensor) -> None:
        """Set every parameter slice of dead atoms to zero, in place."""
        if self._mask_view is None:
            owner, layout = row_layout(
                self._model, self.groups, members="all", keep_at_least=self._keep_at_least, frozen=True
            )
            self._mask_view = GroupView(owner, layout)
        self._mask_view.scale_(self._by_unit(~dead, self._mask_view.layout))

    def _by_unit(self, atoms: Tensor, layout: TermLayout) -> Tensor:
        """A mask over atoms of this method as factors over the terms of another layout of the same units."""
        both = (self._rows.unit_atom >= 0) & (layout.unit_atom >= 0)
        there = torch.from_numpy(layout.unit_atom[both]).to(atoms.device)
        here = torch.from_numpy(self._rows.unit_atom[both]).to(atoms.device)
        values = torch.ones(layout.n_atoms, dtype=self.view.dtype, device=atoms.device)
        values[there] = atoms.to(self.view.dtype)[here]
        return values[torch.from_numpy(layout.term_atom).to(atoms.device)]

    def _coefficients(self, value: PerGroup, scale: Scale, *, what: str, power: int = 1) -> Tensor:
        """A strength per term: float[n_terms].

        Args:
            value: By family.
            scale: How to make it fit terms of different size.
            what: The option's name, for messages.
            power: 1 for penalties on norms, 2 for penalties on squared norms or counts.
        """
        by_family = torch.from_numpy(per_family(value, self.view.layout, what=what))
        terms = by_family.to(self.view.device, self.view.dtype)[self.view.atom_family][self.view.term_atom]
        size = {"none": torch.ones_like(terms), "size": self.view.term_size.sqrt(), "norm": self._reference}
        choose("scale", scale, size)
        return terms * size[scale] ** power
