"""Network slimming: an L1 penalty on the scales of normalisation layers."""

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
from fxprune.regularizers.terms.layout import find_parameters
from fxprune.regularizers.terms.local import held
from fxprune.regularizers.terms.view import energy, rank_within

__all__ = ["NetworkSlimming"]

_SHIFTS = ("bias", "beta", "shift")


def _scales(model: nn.Module, groups: Sequence[Group]) -> frozenset[str]:
    """Vectors behind the producers that multiply a channel: normalisation and layer scales."""
    _, parameters = find_parameters(model, (n for g in groups for n, _ in g.indices))
    making = {name for g in groups for name, _ in (*g.producers, *g.consumers)}
    return frozenset(
        name
        for name, parameter in parameters.items()
        if parameter.ndim == 1
        and name not in making
        and not any(s in name.rpartition(".")[2] for s in _SHIFTS)
    )


class NetworkSlimming(GroupRegularizer):
    """Network slimming: ``lam * sum |gamma|`` over the scales of normalisation layers.

    Units are then ranked by their mean ``|gamma|`` over all the normalisation layers they pass, and the lowest
    ``ratio`` of all units goes.  Groups without such a layer are left alone.

    Args:
        model: The model in training.
        groups: Its coupling groups.
        lam: Strength, by pattern if you like; 1e-4 is stated in the paper for most nets (1e-5 for VGG on ImageNet).
        ratio: Share of units to prune, over all groups together; None prunes those whose scales are all
            exactly zero, which needs ``solver="prox"``.
        lr: Step size for the prox: the optimizer, a function or a number.
        solver: ``"subgradient"`` (published), or ``"prox"``: soft threshold after the optimizer's step.
        scale: Make ``lam`` fit groups of different size.
        keep_at_least: Units that stay in every group.

    Raises:
        PlanError: Options that do not fit, or there is no scale to act on.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
        >>> groups = fxprune.couple(fxprune.trace(net, torch.zeros(1, 3, 9, 9)))
        >>> reg = NetworkSlimming(net, groups, lam=1e-4, ratio=0.5)
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> loss = net(torch.randn(2, 3, 9, 9)).square().mean() + reg.penalty()
        >>> loss.backward(); sgd.step(); reg.step()
        >>> reg.report().zero_share
        0.5

    References:
        Liu et al., Learning efficient convolutional networks through network slimming, ICCV 2017, eq. 1.
        Deviation: units of coupling groups are ranked, not single scales.
    """

    name = "network_slimming"

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        lam: PerGroup = 1e-4,
        ratio: float | None = 0.5,
        lr: LearningRate | None = None,
        solver: Literal["subgradient", "prox"] = "subgradient",
        scale: Scale = "none",
        keep_at_least: int = 1,
    ) -> None:
        choose("solver", solver, ("subgradient", "prox"))
        if ratio is None and solver != "prox":
            raise PlanError("a sub-gradient makes no exact zeros", advice="pass a ratio, or solver='prox'")
        if (solver == "prox" and lr is None) or (ratio is not None and not 0 <= ratio < 1):
            raise PlanError(
                f"lr={lr}, ratio={ratio}", advice="pass lr=optimizer for the prox, 0 <= ratio < 1"
            )
        super().__init__(model, groups, keep_at_least=keep_at_least, only=_scales(model, groups))
        self._ratio, self._lr, self._prox = ratio, lr, solver == "prox"
        self._coefficient = self._coefficients(lam, scale, what="lam")

    def _penalty(self) -> Tensor:
        if self._prox:
            return super()._penalty()
        coefficient = self.strength * self._coefficient
        return energy(self.view, lambda sums: ((coefficient * sums).sum(), coefficient), power=1)

    def _step(self) -> None:
        if not self._prox:
            return
        assert self._lr is not None
        coefficient = self.strength * self._coefficient
        self._last_penalty = (coefficient * self.view.sums(1)).sum()
        tensors = self.view.tensors()
        bounds = self.view.spread(step_size(self._lr, self.view) * coefficient, tensors, outside=0.0)
        for tensor, bound in zip(tensors, bounds, strict=True):
            local, limit = held(tensor), bound.to(tensor.dtype)
            local.sub_(torch.maximum(torch.minimum(local, limit), -limit))

    def _importance(self) -> Tensor:
        return self.view.per_atom(self.view.sums(1)) / self.view.per_atom(self.view.term_size)

    def _alive(self) -> Tensor:
        mean = self._importance()
        if self._ratio is None:
            return mean > 0
        place = rank_within(torch.zeros_like(self.view.atom_family), mean)
        return place >= round(self._ratio * len(mean))

    def _own_state(self) -> State:
        return {"coefficient": self._coefficient}

    def _load_own_state(self, state: Mapping[str, Tensor]) -> None:
        self._coefficient = state["coefficient"]
