"""DWGL: directed weights make the producers of a coupled layer vote for the same channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.regularizers.group_lasso import GroupLasso
from fxprune.regularizers.options import LearningRate, PerGroup, Scale, choose
from fxprune.regularizers.reorder import reorder_
from fxprune.regularizers.terms.layout import Members

__all__ = ["DWGL", "Ramp", "ramp"]

Ramp = Literal["linear", "power", "geometric", "flat"]

_SHAPES: dict[str, Callable[[Tensor, float, float, float], Tensor]] = {
    "linear": lambda x, low, high, _: low + (high - low) * x,
    "geometric": lambda x, low, high, _: low * (high / low) ** x,
    "power": lambda x, _low, _high, exponent: x**exponent,
    "flat": lambda x, *_: torch.ones_like(x),
}


def ramp(
    n: int, shape: Ramp = "linear", *, low: float = 0.5, high: float = 1.5, exponent: float = 1.0
) -> Tensor:
    """Coefficients that increase with the index of the channel and have mean 1.

    ``linear``: from ``low`` to ``high``.  ``geometric``: the same ends with a constant ratio.
    ``power``: ``((i + 1) / n)^exponent``.  ``flat``: ones, which is plain group lasso with votes.

    Args:
        n: Number of channels.
        shape: Form of the ramp.
        low: First coefficient, before the mean is made 1.
        high: Last coefficient, likewise.
        exponent: Of the power ramp.

    Returns:
        float64[n].

    Raises:
        PlanError: An unknown shape, or numbers that do not increase.

    Example:
        >>> ramp(5).tolist()
        [0.5, 0.75, 1.0, 1.25, 1.5]

    References:
        The paper's own coefficient was not found; only that it increases with the filter index is
        stated.  The linear ramp from 0.5 to 1.5 is ours.
    """
    choose("ramp", shape, _SHAPES)
    if not 0 < low <= high or exponent < 0:
        raise PlanError(
            f"a ramp from {low} to {high} with exponent {exponent} does not increase",
            advice="pass 0 < low <= high and exponent >= 0",
        )
    index = torch.arange(n, dtype=torch.float64)
    x = (index + 1) / n if shape == "power" else index / max(n - 1, 1)
    values = _SHAPES[shape](x, low, high, exponent)
    return values / values.mean()


class DWGL(GroupLasso):
    """Directed-weighting group lasso: ``lam * sum_p sum_i c_i ||w_i^p||_2``, c increasing in i.

    Where several producers feed one element-wise node (a residual stream), channel i can go only
    where every producer p has voted for it: ``w_i^p = 0`` for all p.  Independent votes hardly ever
    coincide.  All producers of a coupling group therefore share one ramp ``c_0 <= c_1 <= ...``: they
    give up high indices first, and the votes agree.

    The penalty acts by group shrinkage after the optimizer's step,
    ``w_i^p <- max(0, 1 - t c_i / ||w_i^p||) w_i^p`` with ``t = lr lam / (1 - momentum)``.

    Args:
        model: The model in training.
        groups: Its coupling groups.
        lam: Strength, by pattern if you like.
        lr: Step size for the prox: the optimizer, a function or a number.
        ramp: Form of the coefficients.
        low: First coefficient of the linear and geometric ramps.
        high: Last coefficient of them.
        exponent: Of the power ramp.
        everywhere: Use the ramp in groups with a single producer as well, not only where
            producers have to agree.
        reorder: First permute the channels of every group in the model, in place and without
            changing its function, so that the most important have the lowest indices.
        scale: Make ``lam`` fit groups of different size; ``"none"`` is published, ``"norm"`` (ours) lets one number
            serve layers whose weights batch norm leaves free to have any norm.
        members: Which tensors count; see ``GroupLasso``.
        keep_at_least: Units that stay in every group.

    Raises:
        PlanError: ``lr`` is missing, the ramp does not increase, or nothing can be pruned.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = fxprune.couple(fxprune.trace(net, torch.zeros(1, 4)))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> reg = DWGL(net, groups, lam=1e-3, lr=sgd, everywhere=True)
        >>> loss = net(torch.randn(3, 4)).square().mean() + reg.penalty()
        >>> loss.backward(); sgd.step(); reg.step()
        >>> reg.report().zero_share
        0.0

    References:
        Directed-weighting group lasso for eltwise blocked CNN pruning, BMVC 2019, arXiv 1910.09318;
        the abstract states the increasing coefficient and the intersection of votes.  Deviations, as the
        full text was not at hand: ramp form and ends, the prox, no ramp where a single
        producer decides, and batch norm's affine parameters as part of the vote (``members="rows"``
        leaves them out).  The reordering is ours.
    """

    name = "dwgl"

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        lam: PerGroup = 2e-2,
        lr: LearningRate | None = None,
        ramp: Ramp = "linear",
        low: float = 0.5,
        high: float = 1.5,
        exponent: float = 1.0,
        everywhere: bool = False,
        reorder: bool = False,
        scale: Scale = "norm",
        members: Members = "producers",
        keep_at_least: int = 1,
    ) -> None:
        shared = _shared_ramp(ramp, low, high, exponent)
        if reorder:
            reorder_(model, groups)
        super().__init__(
            model,
            groups,
            lam=lam,
            lr=lr,
            scale=scale,
            members=members,
            coupling="votes",
            keep_at_least=keep_at_least,
        )
        self.direction = self._direction(shared, everywhere)
        self._coefficient = self._coefficient * self.direction[self.view.term_atom]

    def _direction(self, shared: Callable[[int], Tensor], everywhere: bool) -> Tensor:
        """The coefficient of every atom: float[n_atoms]."""
        family = self.view.atom_family
        widths = self.view.family_count(torch.ones_like(family, dtype=torch.bool)).tolist()
        voters = torch.bincount(self.view.layer_family, minlength=len(widths)).tolist()
        direction = torch.ones(len(family), dtype=self.view.dtype, device=self.view.device)
        # Atoms are numbered in the order of their units, so a family's are in index order.
        for number, (width, n) in enumerate(zip(widths, voters, strict=True)):
            if n > 1 or everywhere:
                direction[family == number] = shared(width).to(direction)
        return direction


def _shared_ramp(shape: Ramp, low: float, high: float, exponent: float) -> Callable[[int], Tensor]:
    """The ramp as a function of the width; checks its numbers at once."""
    ramp(1, shape, low=low, high=high, exponent=exponent)
    return lambda n: ramp(n, shape, low=low, high=high, exponent=exponent)
