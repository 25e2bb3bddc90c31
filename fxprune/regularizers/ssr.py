"""SSR: structured-sparsity regularisation, solved by AULM or directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.regularizers.base import GroupRegularizer
from fxprune.regularizers.group_lasso import lasso_energy
from fxprune.regularizers.options import PerGroup, Scale, choose
from fxprune.regularizers.protocol import State
from fxprune.regularizers.terms.aulm import Aulm, Prox
from fxprune.regularizers.terms.layerwise import Stages
from fxprune.regularizers.terms.layout import Members
from fxprune.regularizers.terms.prox import hard, shrink
from fxprune.regularizers.terms.view import energy

__all__ = ["SSR"]

Norm = Literal["l2,1", "l2,0"]

_PROX: dict[str, Prox] = {"l2,1": shrink, "l2,0": hard}
# A penalty on norms scales with the norm, a count with its square.
_POWER = {"l2,1": 1, "l2,0": 2}


class SSR(GroupRegularizer):
    """Structured-sparsity regularisation ``lam * sum_g R(w_g)`` on whole coupling groups.

    ``norm="l2,1"``: R is the norm; every F-step shrinks survivors as well.
    ``norm="l2,0"``: R counts non-zero groups; survivors are untouched.

    The default solver is AULM (see ``fxprune.regularizers.terms.aulm``): ``penalty()`` pulls the weights to the
    auxiliary copy F, and every ``period`` steps F and the multipliers are renewed.  What goes is
    decided on F, whose groups are exactly zero, not on the weights.

    Args:
        model: The model in training.
        groups: Its coupling groups.
        lam: Strength, by pattern if you like.  For l2,1 the force on a unit; F moves by at most lam / rho an
            update, so zeros need more than norm * rho / lam updates (measured on ResNet-20: 0.02 of the norm
            is a start for some 40 epochs, 0.3 kills every layer in 4).  For l2,0 the price of a unit, and units
            below sqrt(2 lam / rho) go at once (ResNet-20: 0.1 takes 3 % of them, 0.5 takes 41 %).
        norm: ``"l2,1"`` or ``"l2,0"``.
        solver: ``"aulm"``, or ``"subgradient"``: the l2,1 penalty itself is added to the loss.
        rho: Penalty of the augmented Lagrangian.  1.0 was read in the released code.
        rho_growth: Factor on rho at each update; 1 (constant) was read in the released code,
            whether the paper grows rho is not known.
        rho_max: Where it stops.
        period: Optimizer steps between updates (K); 200 was read in the released code.
        order: ``"joint"``: all groups at once.  ``"layerwise"``, as in the released code: group
            after group, only its own producers train, then everything trains with the mask.
        stage_steps: For the layer-wise order, sparse and fine-tuning steps for each group; 8,000 and
            12,000 were read in the released code (LeNet).
        scale: Make ``lam`` fit groups of different size.  The released code sets lam layer by layer instead
            (0.4, 0.15 and 0.02 for the layers of LeNet, with ``scale="none"``).
        members: Which tensors count.  ``"rows"`` is the published group, a filter with its bias.
        threshold: For the sub-gradient solver, relative to the layer's initial mean norm.
        keep_at_least: Units that stay in every group.

    Raises:
        PlanError: Options that do not fit together, or nothing can be pruned.

    Example:
        >>> import torch, fxprune
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = fxprune.couple(fxprune.trace(net, torch.zeros(1, 4)))
        >>> reg = SSR(net, groups, norm="l2,1", lam=100.0)
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> loss = net(torch.randn(3, 4)).square().mean() + reg.penalty()
        >>> loss.backward(); sgd.step(); reg.step()
        >>> reg.report().zero_share
        0.875

    References:
        Lin et al., Toward compact ConvNets via structure-sparsity regularized filter pruning, TNNLS 2019,
        arXiv 1901.07827; its solver AULM.  Deviations: the unit is the coupling group (joint norm
        over all producers) instead of the single layer's filter; batch norm's affine parameters
        count as part of it by default; F starts at the weights, not at ones; all groups are solved jointly by
        default.  The l2,0 form is the standard prox of the count; the paper's formula was not seen.
    """

    name = "ssr"

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        lam: PerGroup = 2e-2,
        norm: Norm = "l2,1",
        solver: Literal["aulm", "subgradient"] = "aulm",
        rho: float = 1.0,
        rho_growth: float = 1.0,
        rho_max: float = 1e3,
        period: int = 200,
        order: Literal["joint", "layerwise"] = "joint",
        stage_steps: tuple[int, int] = (8000, 12000),
        scale: Scale = "norm",
        members: Members = "producers",
        threshold: float = 1e-2,
        keep_at_least: int = 1,
    ) -> None:
        _check(norm, solver, order, rho, rho_growth, period)
        super().__init__(model, groups, members=members, keep_at_least=keep_at_least)
        self._norm = norm
        self._period = period
        self._threshold = threshold
        self._coefficient = self._coefficients(lam, scale, what="lam", power=_POWER[norm])
        self._aulm = (
            Aulm(self.view, rho=rho, growth=rho_growth, rho_max=rho_max) if solver == "aulm" else None
        )
        self._stages = Stages(self.view, self._owner, stage_steps) if order == "layerwise" else None

    def _active(self) -> Tensor | None:
        return None if self._stages is None else self._stages.active_terms(self.steps)

    def _update(self) -> None:
        assert self._aulm is not None
        self._aulm.update(self.strength * self._coefficient, _PROX[self._norm], self._active())

    def _penalty(self) -> Tensor:
        if self._aulm is None:
            coefficient = self.strength * self._coefficient
            return energy(self.view, lambda squares: lasso_energy(coefficient, squares))
        if self._stages is not None and not self._stages.is_sparse(self.steps):
            return super()._penalty()
        if not self._aulm.updates:
            self._update()
        if self._stages is not None:
            self._stages.freeze(self.steps)
        return self._aulm.penalty(self._active())

    def _step(self) -> None:
        if self._aulm is None:
            return
        stages = self._stages
        if stages is not None:
            stages.restore(self.steps - 1)
            zero = (self._aulm.factor == 0) & stages.done_terms(self.steps)
            self.view.scale_((~zero).to(self.view.dtype))
        offset = self.steps if stages is None else stages.offset(self.steps)
        if (stages is None or stages.is_sparse(self.steps)) and offset % self._period == 0:
            if offset == 0:
                self._aulm.restart()
            self._update()

    @property
    def period(self) -> int:
        """Steps between updates of F, on which is decided."""
        return 1 if self._aulm is None else self._period

    def _alive(self) -> Tensor:
        if self._aulm is not None:
            return self.view.per_atom(self._aulm.factor) > 0
        norms = self.view.sums(2).sqrt()
        return self.view.per_atom((norms > self._threshold * self._reference).to(norms.dtype)) > 0

    def _importance(self) -> Tensor:
        """Norm of what the prox saw, relative to the threshold of the unit and to its family."""
        norms = self.view.sums(2).sqrt() if self._aulm is None else self._aulm.norms
        bound = self._coefficient if self._norm == "l2,1" else self._coefficient.sqrt()
        return self._beside_family(norms, bound)

    def _details(self) -> Mapping[str, float]:
        if self._aulm is None:
            return {}
        return {"rho": self._aulm.rho, "primal_residual": float(self._aulm.primal)}

    def _own_state(self) -> State:
        state = {"coefficient": self._coefficient}
        if self._aulm is not None:
            state |= {f"aulm.{key}": value for key, value in self._aulm.state().items()}
        if self._stages is not None:
            state |= {f"stages.{key}": value for key, value in self._stages.state().items()}
        return state

    def _load_own_state(self, state: Mapping[str, Tensor]) -> None:
        self._coefficient = state["coefficient"]
        for prefix, part in (("aulm.", self._aulm), ("stages.", self._stages)):
            if part is not None:
                part.load({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def _check(norm: str, solver: str, order: str, rho: float, growth: float, period: int) -> None:
    """Refuse options that are unknown or do not fit together."""
    choose("norm", norm, _PROX)
    choose("solver", solver, ("aulm", "subgradient"))
    choose("order", order, ("joint", "layerwise"))
    if solver == "subgradient" and (norm != "l2,1" or order != "joint"):
        raise PlanError(
            "the sub-gradient solver takes the l2,1 norm of all groups jointly",
            advice="a count has no gradient: use solver='aulm' for norm='l2,0' and for the layer-wise order",
        )
    if rho <= 0 or growth < 1 or period < 1:
        raise PlanError(
            f"rho={rho}, rho_growth={growth}, period={period} do not make a solver",
            advice="pass rho > 0, rho_growth >= 1, period >= 1",
        )
