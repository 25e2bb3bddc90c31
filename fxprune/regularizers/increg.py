"""IncReg: every group has its own weight decay, which grows with its unimportance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import log
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.labels import BoolArray, FloatArray, IntArray
from fxprune.planning.options import PlanOptions
from fxprune.plans import Budget, Crop, Plan
from fxprune.regularizers.base import GroupRegularizer
from fxprune.regularizers.decisions import no_plan_of_channels, plan_for, trace_of
from fxprune.regularizers.options import PerGroup, choose, per_family
from fxprune.regularizers.protocol import State
from fxprune.regularizers.terms.columns import (
    Masked,
    channel_dead,
    crops_of,
    masked_of,
    units_without_columns,
)
from fxprune.regularizers.terms.layout import Members, column_layout
from fxprune.regularizers.terms.view import energy, rank_within
from fxprune.slimming.crop import why_whole, with_crops

__all__ = ["IncReg", "exponential_increment", "linear_increment"]

SYMMETRY = 0.25
"""Height of the exponential increment's turning point, relative to its maximum (read in the released code)."""


def linear_increment(rank: Tensor, target: Tensor, count: Tensor, maximum: float) -> Tensor:
    """Equation 1: from ``+A`` at rank 0 over 0 at rank ``RG`` down to ``-A`` at rank ``G - 1``.

    ``A (1 - r / RG)`` up to RG, then ``-A (r - RG) / (G (1 - R) - 1)``.

    Args:
        rank: int64[n], 0 is the least important.
        target: float[n], RG: how many are still to go; not necessarily whole.
        count: int64[n], G: how many take part.
        maximum: A.

    Returns:
        float64[n].

    Example:
        >>> G = torch.full((5,), 5)
        >>> linear_increment(torch.arange(5), torch.full((5,), 2.0), G, 1.0).tolist()
        [1.0, 0.5, 0.0, -0.5, -1.0]

    References:
        Wang et al., Structured pruning for efficient ConvNets via incremental regularization, workshop version,
        eq. 1.  Both denominators are kept from vanishing (ours): RG at least 1e-9, G - RG - 1 at least 1e-9.
    """
    r, target = rank.double(), target.double()
    rising = 1 - r / target.clamp(min=1e-9)
    # Where nothing lies between RG and the last rank, any rank beyond RG gets the full decrease.
    falling = -(r - target) / (count.double() - target - 1).clamp(min=1e-9)
    return maximum * torch.where(r <= target, rising, falling.clamp(min=-1.0))


def exponential_increment(rank: Tensor, target: Tensor, count: Tensor, maximum: float) -> Tensor:
    """The released code's increment: steep at rank 0, flat in between, 0 exactly at ``n_p = ceil(RG)``.

    With ``u = 0.25``, ``a = ln(2 / u) / n_p`` and ``N1 = -ln(u) / a``: ``A exp(-a r)`` below N1, then
    ``2 u A - A exp(-a (2 N1 - r))``.

    Args:
        rank: int64[n], 0 is the least important.
        target: float[n], RG: how many are still to go.
        count: Not used.
        maximum: A.

    Returns:
        float64[n]; unbounded below for ranks far beyond n_p, so it is cut at ``-A`` (ours).

    Example:
        >>> delta = exponential_increment(torch.tensor([0, 6, 9]), torch.full((3,), 9.0), torch.full((3,), 20), 1.0)
        >>> [round(x, 6) for x in delta.tolist()]
        [1.0, 0.25, 0.0]

    References:
        Read in the released Caffe code; not in the workshop paper.
    """
    del count
    r, n_p = rank.double(), target.double().ceil().clamp(min=1.0)
    rate = log(2 / SYMMETRY) / n_p
    turn = -log(SYMMETRY) / rate
    below = torch.exp(-rate * r)
    above = 2 * SYMMETRY - torch.exp(-rate * (2 * turn - r))
    return maximum * torch.where(r < turn, below, above.clamp(min=-1.0))


_INCREMENTS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "linear": linear_increment,
    "exp": exponential_increment,
}


class IncReg(GroupRegularizer):
    """Incremental regularisation: ``sum_g (lam_g / 2) ||w_g||^2`` with a factor per group.

    After every step the groups of a layer are ranked by L1 norm, ranks are averaged over all steps so
    far and sorted again; the factor of the group at rank r moves by ``Delta(r)`` (``linear_increment``),
    up for the least important, down, not below 0, for the others.  A group is pruned for good when it is
    tiny or when its factor has reached the ceiling; a layer with enough pruned groups is finished
    and its factors go to 0.

    Args:
        model: The model in training.
        groups: Its coupling groups.
        ratio: Share of units (or columns) to prune, by pattern if you like.
        increment: Maximum increment A per update.  Half the original weight decay is stated in the
            paper, 2.5e-4 was read in the code; the number of updates to a factor x is about x / A.
        schedule: ``"linear"`` (equation 1) or ``"exp"`` (released code).
        removal: ``"magnitude"``: mean absolute weight below ``tiny`` (stated in the paper; that it is the
            mean is ours).  ``"ceiling"``: factor at least ``ceiling`` (released code).
        tiny: See above; 1e-6 is stated in the paper.
        ceiling: See above; 2.5 was read in the code for ImageNet nets (times 2.45 there, see References).
        scope: ``"group"``: each coupling group loses its ratio.  ``"global"``: all units are ranked
            together, by norms relative to the mean of their layer (ours).
        granularity: ``"rows"``: units, that is filters of whole coupling groups.  ``"columns"``: ``W[:, c, y, x]``
            of each convolution.  A channel all of whose columns are gone goes, and so does a border of a kernel
            that no channel uses; ``masked`` says what of the rest stays in the model as zeros.
        linear: With columns, take linear layers for convolutions with a kernel of one point.
        members: With rows, which tensors count.  The default includes the consumers: while they read a unit its
            gradient does not vanish, and a factor acting on the producers alone holds it at (gradient / factor)
            instead of taking it to zero (a small net: done after 236 steps, against never in 3,000).
        every: Steps between updates (ours; 1 is published).
        keep_at_least: Units that stay in every group.

    Raises:
        PlanError: Options that do not fit, or nothing can be pruned.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = fxprune.couple(fxprune.trace(net, torch.zeros(1, 4)))
        >>> reg = IncReg(net, groups, ratio=0.5, increment=1.0, removal="ceiling", ceiling=2.0)
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> for _ in range(9):
        ...     loss = net(torch.randn(3, 4)).square().mean() + reg.penalty()
        ...     loss.backward(); sgd.step(); reg.step(); sgd.zero_grad()
        >>> reg.report().zero_share
        0.5

    References:
        Wang et al., Structured pruning for efficient ConvNets via incremental regularization, arXiv 1804.09461 and
        1811.08390.  Deviations: ranks and factors move after the optimizer's step instead of before it; ranks
        count from the groups that remain, as in the released code; the factor on the ceiling,
        ``1 + 3 (sigmoid(k (x - 0.05)) - 0.5)``, is left to the caller.
    """

    name = "increg"

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        ratio: PerGroup = 0.5,
        increment: float = 2.5e-4,
        schedule: Literal["linear", "exp"] = "linear",
        removal: Literal["magnitude", "ceiling"] = "magnitude",
        tiny: float = 1e-6,
        ceiling: float = 2.5,
        scope: Literal["group", "global"] = "group",
        granularity: Literal["rows", "columns"] = "rows",
        linear: bool = False,
        members: Members = "all",
        every: int = 1,
        keep_at_least: int = 1,
    ) -> None:
        _check(schedule, removal, scope, granularity, increment, every)
        super().__init__(model, groups, members=members, keep_at_least=keep_at_least)
        self._columns = granularity == "columns"
        self.steerable = (
            not self._columns
        )  # columns have no order of channels that a budget could be spent in
        self.name = "increg_columns" if self._columns else "increg"
        if self._columns:
            self._attach(*column_layout(model, groups, linear=linear))
        self._delta = _INCREMENTS[schedule]
        self._increment, self._every = increment, every
        self._by_ceiling, self._tiny, self._ceiling = removal == "ceiling", tiny, ceiling
        self._size = self.view.per_atom(self.view.term_size)
        self._arrange(per_family(ratio, self.view.layout, what="ratio"), scope)

    def _arrange(self, ratio: FloatArray, scope: str) -> None:
        """Contests: sets of atoms that are ranked against one another."""
        if (ratio >= 1).any():
            raise PlanError("ratio=1 would empty a layer", advice="pass 0 <= ratio < 1")
        family, device = self.view.atom_family, self.view.device
        n_atoms = len(family)
        wanted = torch.from_numpy(ratio).to(device)
        self._global = scope == "global"
        if self._global:
            self._contest = torch.where(wanted[family] > 0, 0, 1)
            wanted = torch.stack([wanted.max(), torch.zeros_like(wanted.max())])
        else:
            self._contest = family
        width = torch.bincount(self._contest, minlength=len(wanted))
        # Not rounded: equation 1 crosses zero at RG itself.  Where it is, 1e-9 forgives the last bits of 0.3 x 10.
        self._goal = wanted * width
        self._factor = torch.zeros(n_atoms, dtype=self.view.dtype, device=device)
        self._rank_sum = torch.zeros(n_atoms, dtype=torch.float64, device=device)
        self._pruned = torch.zeros(n_atoms, dtype=torch.bool, device=device)
        self._done = self._goal < 1e-9

    # The loop --------------------------------------------------------------------------------

    def _penalty(self) -> Tensor:
        half = 0.5 * self.strength * self._factor[self.view.term_atom]
        return energy(self.view, lambda squares: ((half * squares).sum(), half))

    def _step(self) -> None:
        if self.steps % self._every == 0:
            self._advance()
        # Asking whether anything is pruned yet would wait for a device; on the CPU it saves a pass.
        if self.view.device.type != "cpu" or bool(self._pruned.any()):
            self.view.scale_((~self._pruned).to(self.view.dtype)[self.view.term_atom])

    def _counts(self, mask: Tensor) -> Tensor:
        """Marked atoms in each contest: int64[n_contests]."""
        return torch.zeros_like(self._done, dtype=torch.int64).index_add_(
            0, self._contest, mask.to(torch.int64)
        )

    def _magnitude(self, sums: Tensor) -> Tensor:
        """What atoms are ranked by: L1 norm, relative to the family's mean if all are ranked together."""
        if not self._global:
            return sums
        family = self.view.atom_family
        total = torch.zeros(len(self.view.layout.families), dtype=sums.dtype, device=sums.device)
        width = self.view.family_count(torch.ones_like(family, dtype=torch.bool))
        return sums / (total.index_add_(0, family, sums) / width).clamp(min=1e-30)[family]

    def _advance(self) -> None:
        """Rank, average, rank again, move the factors, prune."""
        live = ~self._pruned & ~self._done[self._contest]
        # Atoms that do not take part are ranked in a contest of their own.
        contest = torch.where(live, self._contest, len(self._done))
        sums = self.view.per_atom(self.view.sums(1))
        magnitude = self._magnitude(sums)
        gone = self._counts(self._pruned)[self._contest]
        # Pruned atoms stay at the left of the ranking that is averaged, as in the released code.
        self._rank_sum += torch.where(live, rank_within(contest, magnitude) + gone, 0)
        rank = rank_within(contest, self._rank_sum, magnitude)
        target = self._goal[self._contest] - gone
        delta = self._delta(rank, target, self._counts(live)[self._contest], self._increment)
        moved = (self._factor + delta.to(self._factor.dtype)).clamp(min=0)
        self._factor = torch.where(live, moved, 0)
        ripe = self._factor >= self._ceiling if self._by_ceiling else sums / self._size < self._tiny
        self._prune(ripe & live & (rank < (target - 1e-9).ceil()), sums)

    def _prune(self, ripe: Tensor, sums: Tensor) -> None:
        # Asking whether there is anything to do would wait for a device; on the CPU it saves a sort.
        if self.view.device.type == "cpu" and not bool(ripe.any()):
            return
        self._pruned = self._pruned | (ripe & ~self._protected(sums))
        self._done = self._counts(self._pruned) >= self._goal - 1e-9
        self._factor = torch.where(self._pruned | self._done[self._contest], 0, self._factor)

    def _protected(self, sums: Tensor) -> Tensor:
        """The strongest atoms of every family, which must stay whatever the ratio says."""
        return rank_within(self.view.atom_family, -sums) < self._keep_at_least

    def _order(self) -> Tensor:
        """Place of every atom in its contest: the pruned first, then by averaged rank."""
        sums = self.view.per_atom(self.view.sums(1))
        alive = (~self._pruned).to(self._rank_sum)
        return rank_within(self._contest, alive, self._rank_sum, self._magnitude(sums))

    @property
    def done(self) -> bool:
        """Every layer has lost its ratio."""
        return bool(self._done.all())

    # Decisions -------------------------------------------------------------------------------

    @property
    def period(self) -> int:
        """Steps between updates of the factors."""
        return self._every

    def finish(self, plan: Plan | None = None) -> None:
        """Take the decisions for good; layers that are not finished lose their lowest ranks now.

        Args:
            plan: Take this decision instead, see ``GroupRegularizer.finish``; not with columns.

        Raises:
            PlanError: A plan comes with columns.
        """
        if self._columns:
            no_plan_of_channels(plan, "columns")
        if self._finished is None and plan is None:
            due = self._order() < (self._goal - 1e-9).ceil()[self._contest]
            self._pruned = self._pruned | (due & ~self._protected(self.view.per_atom(self.view.sums(1))))
        super().finish(plan)

    def _alive(self) -> Tensor:
        return ~self._pruned

    def _importance(self) -> Tensor:
        """Place in the order of its contest, between 0 and 1."""
        width = self._counts(torch.ones_like(self._pruned))[self._contest]
        return (self._order() / width).to(self.view.dtype)

    def removed_units(self) -> IntArray:
        """Ids of the units that would go now; with columns, those that no consumer reads any more."""
        if not self._columns:
            return super().removed_units()
        layout = self._rows
        dead = units_without_columns(self.groups, self.view.layout, self._kept())
        gone = np.zeros(len(layout.unit_atom), bool)
        gone[dead] = True
        # An atom of several units goes when all of them do, and never the last ones of a family.
        alive = np.zeros(layout.n_atoms, bool)
        known = layout.unit_atom >= 0
        alive[layout.unit_atom[known & ~gone]] = True
        for family in range(len(layout.families)):
            own = np.flatnonzero(layout.atom_family == family)
            short = self._keep_at_least - int(alive[own].sum())
            alive[own[~alive[own]][: max(short, 0)]] = True
        return np.flatnonzero(known & ~alive[np.maximum(layout.unit_atom, 0)])

    def plan(self, budget: Budget | None = None, options: PlanOptions | None = None) -> Plan:
        """What the method decided, as a plan for ``slim``; with columns it crops kernels, too.

        Args:
            budget: Spend this budget in the order the method learned; columns have no order of channels.
            options: How the budget is spent.

        Raises:
            PlanError: The groups carry no trace, the planner refuses, or a budget comes with columns.
        """
        if not self._columns:
            return super().plan(budget, options)
        plan = plan_for(self.groups, self.removed_units(), None, budget)
        plan = with_crops(trace_of(self.groups), plan, self.crops())
        masked = self.masked()
        left, pruned = sum(m.left for m in masked), sum(m.pruned for m in masked)
        note = (
            f"{left} of {pruned} pruned columns stay in the slim model as zeros, since neither a channel nor a border of a "
            "kernel is empty there; fine-tuning may use them again"
        )
        return replace(plan, notes=(*plan.notes, note)) if left else plan

    def _kept(self) -> BoolArray:
        return np.asarray(self.alive().cpu().numpy())

    def crops(self) -> tuple[Crop, ...]:
        """With columns: kernels whose border is empty and can be cropped."""
        if not self._columns:
            return ()
        trace = trace_of(self.groups)
        return tuple(c for c in crops_of(self.view.layout, self._kept()) if not why_whole(trace, c.tensor))

    def masked(self) -> tuple[Masked, ...]:
        """With columns: for each convolution, what is pruned and what of it only stays masked."""
        if not self._columns:
            return ()
        kept = self._kept()
        removed = set(self.removed_units().tolist())
        cut = {name: np.zeros_like(dead) for name, dead in channel_dead(self.view.layout, kept).items()}
        for group in self.groups:
            dead = np.array([u in removed for u in group.units.tolist()], bool)
            for axis in group.consumers:
                if axis[0] in cut:
                    cut[axis[0]][group.indices[axis][dead].ravel()] = True
        return masked_of(self.view.layout, kept, cut, self.crops())

    def _zero(self, dead: Tensor) -> None:
        if self._columns:
            self.view.scale_((~dead).to(self.view.dtype)[self.view.term_atom])
        else:
            super()._zero(dead)

    # State -----------------------------------------------------------------------------------

    def _details(self) -> Mapping[str, float]:
        details = {
            "largest_factor": float(self._factor.max()),
            "done_share": float(self._done.double().mean()),
        }
        if self._columns:
            left = self.masked()
            details["masked_share"] = sum(m.left for m in left) / max(sum(m.columns for m in left), 1)
        return details

    def _own_state(self) -> State:
        return {
            "factor": self._factor,
            "rank_sum": self._rank_sum,
            "pruned": self._pruned,
            "done": self._done,
            "goal": self._goal,
        }

    def _load_own_state(self, state: Mapping[str, Tensor]) -> None:
        self._factor, self._rank_sum = state["factor"], state["rank_sum"]
        self._pruned, self._done, self._goal = state["pruned"], state["done"], state["goal"]


def _check(schedule: str, removal: str, scope: str, granularity: str, increment: float, every: int) -> None:
    """Refuse unknown options."""
    choose("schedule", schedule, _INCREMENTS)
    choose("removal", removal, ("magnitude", "ceiling"))
    choose("scope", scope, ("group", "global"))
    choose("granularity", granularity, ("rows", "columns"))
    if increment <= 0 or every < 1:
        raise PlanError(f"increment={increment}, every={every}", advice="pass increment > 0 and every >= 1")
