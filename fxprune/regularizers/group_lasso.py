"""Group lasso on coupling groups: the baseline the other methods are measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.regularizers.base import GroupRegularizer
from fxprune.regularizers.options import LearningRate, PerGroup, Scale, choose, step_size
from fxprune.regularizers.protocol import State
from fxprune.regularizers.terms.layout import Members
from fxprune.regularizers.terms.prox import shrink
from fxprune.regularizers.terms.view import energy

__all__ = ["GroupLasso", "lasso_energy"]

EPSILON = 1e-12
"""Below this norm the sub-gradient of the norm is taken as w / EPSILON (ours)."""


def lasso_energy(coefficient: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """``sum(coefficient * norm)`` and its derivative by each squared norm, 0 at zero."""
    norms = squares.sqrt()
    return (coefficient * norms).sum(), coefficient / (2 * norms.clamp(min=EPSILON))


class GroupLasso(GroupRegularizer):
    """Group lasso (structured sparsity learning): ``lam * sum_g ||w_g||_2``.

    With ``solver="prox"`` the penalty acts after the optimizer's step, by group shrinkage
    ``w_g <- max(0, 1 - t / ||w_g||) * w_g``, ``t = lr * lam / (1 - momentum)``, which makes exact zeros.  With
    ``solver="subgradient"`` it is added to the loss; norms then only hover near zero, and units
    below ``threshold`` times the initial mean norm of their layer go.

    Args:
        model: The model in training.
        groups: Its coupling groups.
        lam: Strength, by pattern if you like.
        lr: Step size for the prox: the optimizer, a function or a number.
        solver: ``"prox"`` or ``"subgradient"``.
        scale: Make ``lam`` fit groups of different size; ``"none"`` is published, ``"norm"`` (ours) lets one number
            serve layers whose weights batch norm leaves free to have any norm.
        members: Which tensors count.  ``"rows"`` is the published filter group; the default
            adds batch norm's affine parameters, without which a zero filter still feeds
            a constant to its consumers.
        coupling: ``"joint"``: one norm over all producers of a unit.  ``"votes"``: one norm for each
            producer, and a unit goes where all of them are zero.
        threshold: For the sub-gradient solver, relative to the layer's initial mean norm.
        keep_at_least: Units that stay in every group.

    Raises:
        PlanError: ``solver="prox"`` without ``lr``, or nothing can be pruned.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = fxprune.couple(fxprune.trace(net, torch.zeros(1, 4)))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> reg = GroupLasso(net, groups, lam=100.0, lr=sgd)
        >>> loss = net(torch.randn(3, 4)).square().mean() + reg.penalty()
        >>> loss.backward(); sgd.step(); reg.step()
        >>> reg.report().zero_share
        0.875

    References:
        Wen et al., Learning structured sparsity in deep neural networks, NeurIPS 2016, eq. 2.
        Deviations: the unit is the coupling group instead of the single layer's filter; the prox
        replaces the sub-gradient by default; a group is never shrunk to nothing (its largest unit is
        then left as it is).
    """

    name = "group_lasso"

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        lam: PerGroup = 2e-2,
        lr: LearningRate | None = None,
        solver: Literal["prox", "subgradient"] = "prox",
        scale: Scale = "norm",
        members: Members = "producers",
        coupling: Literal["joint", "votes"] = "joint",
        threshold: float = 1e-2,
        keep_at_least: int = 1,
    ) -> None:
        choose("solver", solver, ("prox", "subgradient"))
        choose("coupling", coupling, ("joint", "votes"))
        if solver == "prox" and lr is None:
            raise PlanError(
                "the prox needs the step size", advice="pass lr=optimizer, or solver='subgradient'"
            )
        super().__init__(
            model, groups, members=members, votes=coupling == "votes", keep_at_least=keep_at_least
        )
        self._lr = lr
        self._prox = solver == "prox"
        self._threshold = 0.0 if self._prox else threshold
        self._coefficient = self._coefficients(lam, scale, what="lam")

    def _penalty(self) -> Tensor:
        if self._prox:
            return super()._penalty()
        coefficient = self.strength * self._coefficient
        return energy(self.view, lambda squares: lasso_energy(coefficient, squares))

    def _step(self) -> None:
        if not self._prox:
            return
        assert self._lr is not None
        norms = self.view.sums(2).sqrt()
        coefficient = self.strength * self._coefficient
        self._last_penalty = (coefficient * norms).sum()
        factor = shrink(norms, step_size(self._lr, self.view) * coefficient)
        self.view.scale_(self._spared(norms, factor))

    def _spared(self, norms: Tensor, factor: Tensor) -> Tensor:
        """Leave the largest atom of a family alone where the prox would take all of them.

        An empty layer passes no gradient, so nothing in it could ever come back.
        """
        family, atom = self.view.atom_family, self.view.term_atom
        size = self.view.per_atom(norms.square())
        zero = torch.zeros(len(self.view.layout.families), dtype=norms.dtype, device=norms.device)
        largest = zero.scatter_reduce(0, family, size, "amax")
        left = zero.scatter_reduce(0, family[atom], factor, "amax")
        spared = (left[family] == 0) & (size == largest[family])
        return torch.where(spared[atom], 1.0, factor)

    def _alive(self) -> Tensor:
        norms = self.view.sums(2).sqrt()
        return self.view.per_atom((norms > self._threshold * self._reference).to(norms.dtype)) > 0

    def _importance(self) -> Tensor:
        """Norm relative to what is asked of the unit, and to its family."""
        return self._beside_family(self.view.sums(2).sqrt(), self._coefficient)

    def _own_state(self) -> State:
        return {"coefficient": self._coefficient}

    def _load_own_state(self, state: Mapping[str, Tensor]) -> None:
        self._coefficient = state["coefficient"]
