"""GReg-1: choose once, then let the weight decay of what must go grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.regularizers.base import GroupRegularizer
from fxprune.regularizers.options import PerGroup, choose, per_family
from fxprune.regularizers.protocol import State
from fxprune.regularizers.terms.layout import Members
from fxprune.regularizers.terms.view import energy, rank_within

__all__ = ["GReg"]


class GReg(GroupRegularizer):
    """Growing regularisation, first variant: ``(lam_t / 2) sum_{picked g} ||w_g||^2`` with lam_t growing.

    The units with the lowest L1 norm are picked when the method is made.  Every ``every`` steps lam grows by
    ``delta`` until ``ceiling``, or until the picked are negligible; units that stay are not touched.

    Args:
        model: The model in training.
        groups: Its coupling groups.
        ratio: Share of units to pick, by pattern if you like.
        delta: Growth per update; 1e-4 was read in the released code.
        ceiling: Where growth stops; 1.0 was read in the released code.
        every: Steps between updates; 5 were read in the released code (10 on CIFAR).
        negligible: Growth stops early when the mean magnitude of the kept is this many times that of the
            picked; 1000 was read in the released code.
        scope: ``"group"``, or ``"global"``: all units are ranked together, by norms relative to the mean of
            their group.
        members: Which tensors count.
        keep_at_least: Units that stay in every group.

    Raises:
        PlanError: Options that do not fit, or nothing can be pruned.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = fxprune.couple(fxprune.trace(net, torch.zeros(1, 4)))
        >>> reg = GReg(net, groups, ratio=0.25)
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> loss = net(torch.randn(3, 4)).square().mean() + reg.penalty()
        >>> loss.backward(); sgd.step(); reg.step()
        >>> reg.report().zero_share
        0.25

    References:
        Wang et al., Neural pruning via growing regularization, ICLR 2021 (GReg-1).  Deviations: the unit is the
        coupling group; the published code leaves coupled layers alone.  The ratio of magnitudes is smoothed as in
        the released code (0.9).
    """

    name = "greg"
    SMOOTHING = 0.9

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        ratio: PerGroup = 0.5,
        delta: float = 1e-4,
        ceiling: float = 1.0,
        every: int = 5,
        negligible: float = 1000.0,
        scope: Literal["group", "global"] = "group",
        members: Members = "producers",
        keep_at_least: int = 1,
    ) -> None:
        choose("scope", scope, ("group", "global"))
        if delta <= 0 or ceiling <= 0 or every < 1:
            raise PlanError(
                f"delta={delta}, ceiling={ceiling}, every={every}", advice="pass positive numbers"
            )
        super().__init__(model, groups, members=members, keep_at_least=keep_at_least)
        self._delta, self._ceiling, self._every, self._negligible = delta, ceiling, every, negligible
        self._picked = self._pick(per_family(ratio, self.view.layout, what="ratio").tolist(), scope)
        self._factor = torch.zeros((), dtype=torch.float64, device=self.view.device)
        self._contrast = torch.ones((), dtype=torch.float64, device=self.view.device)

    def _pick(self, ratio: Sequence[float], scope: str) -> Tensor:
        """The lowest share of every family, or of all: bool[n_atoms]."""
        family = self.view.atom_family
        sums = self.view.per_atom(self.view.sums(1))
        share = torch.tensor(ratio, dtype=torch.float64, device=family.device)
        protected = rank_within(family, -sums) < self._keep_at_least
        if scope == "global":
            mean = self.view.per_atom(self.view.layer_mean(self.view.sums(1)))
            rank = rank_within(torch.where(share[family] > 0, 0, 1), sums / mean)
            goal = share.max() * (share[family] > 0).sum()
            return (rank < (goal - 1e-9).ceil()) & (share[family] > 0) & ~protected
        width = self.view.family_count(torch.ones_like(protected))
        goal = (share * width - 1e-9).ceil()
        return (rank_within(family, sums) < goal[family]) & ~protected

    def _penalty(self) -> Tensor:
        factor = (0.5 * self.strength * self._factor).to(self.view.dtype)
        half = factor * self._picked.to(self.view.dtype)[self.view.term_atom]
        return energy(self.view, lambda squares: ((half * squares).sum(), half))

    def _step(self) -> None:
        if self.steps % self._every:
            return
        sums, size = self.view.per_atom(self.view.sums(1)), self.view.per_atom(self.view.term_size)
        picked = self._picked.to(sums.dtype)
        gone = (sums * picked).sum() / (size * picked).sum().clamp(min=1)
        kept = (sums * (1 - picked)).sum() / (size * (1 - picked)).sum().clamp(min=1)
        ratio = (kept / gone.clamp(min=1e-30)).double()
        self._contrast = self.SMOOTHING * self._contrast + (1 - self.SMOOTHING) * ratio
        grown = (self._factor + self._delta).clamp(max=self._ceiling)
        self._factor = torch.where(self._contrast > self._negligible, self._factor, grown)

    @property
    def done(self) -> bool:
        """The factor has stopped growing; stabilise, then prune."""
        return bool((self._factor >= self._ceiling) | (self._contrast > self._negligible))

    def _alive(self) -> Tensor:
        return ~self._picked

    def _importance(self) -> Tensor:
        family, sums = self.view.atom_family, self.view.per_atom(self.view.sums(1))
        rank = rank_within(family, (~self._picked).to(sums.dtype), sums)
        return rank.to(sums.dtype) / self.view.family_count(torch.ones_like(self._picked))[family]

    def _details(self) -> Mapping[str, float]:
        return {"factor": float(self._factor), "kept_over_picked": float(self._contrast)}

    def _own_state(self) -> State:
        return {"picked": self._picked, "factor": self._factor, "contrast": self._contrast}

    def _load_own_state(self, state: Mapping[str, Tensor]) -> None:
        self._picked, self._factor, self._contrast = state["picked"], state["factor"], state["contrast"]
