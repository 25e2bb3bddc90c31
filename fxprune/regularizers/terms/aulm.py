"""AULM: the augmented Lagrangian with an auxiliary copy, solved by alternating updates.

Splits ``min L(W) + sum_g lam_g R(F_g)`` s.t. ``W = F`` with a dual Y and a penalty rho:

    F  = prox_{lam / rho}(T),  T = W + Y / rho           every K steps
    Y += rho (W - F)                                     right after
    W  : K steps of the user's optimizer on  L(W) + rho / 2 ||W - (F - Y / rho)||^2

Y is kept unscaled, so that rho may change between updates without touching it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fxprune.regularizers.protocol import State
from fxprune.regularizers.terms.local import all_reduce, held, part, wrapped
from fxprune.regularizers.terms.view import GroupView

__all__ = ["Aulm", "Prox"]

Prox = Callable[[Tensor, Tensor], Tensor]
"""Norms and thresholds, float[n_terms], to factors; see ``fxprune.regularizers.terms.prox``."""


class _Quadratic(torch.autograd.Function):
    """``rho / 2 * sum ||mask * (W - target)||^2`` with its gradient written down."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, rho: float, targets: list[Tensor], masks: list[Tensor | None], *params: Tensor
    ) -> Tensor:
        gaps = list(torch._foreach_sub([held(p) for p in params], [held(t) for t in targets]))
        for gap, mask in zip(gaps, masks, strict=True):
            if mask is not None:
                gap.mul_(mask)
        ctx.gaps, ctx.rho, ctx.like = gaps, rho, params  # type: ignore[attr-defined]
        exact = torch.float64 if any(g.dtype == torch.float64 for g in gaps) else torch.float32
        squares = torch.stack([n.to(exact) for n in torch._foreach_norm(gaps)]).square()
        split = [not part(p).whole for p in params]
        if any(split):
            shared = torch.tensor(split, device=squares.device)
            return 0.5 * rho * (all_reduce(squares[shared].sum(), params) + squares[~shared].sum())
        return 0.5 * rho * squares.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled = torch._foreach_mul(ctx.gaps, ctx.rho * grad)  # type: ignore[attr-defined]
        pairs = zip(scaled, ctx.gaps, ctx.like, strict=True)  # type: ignore[attr-defined]
        return (None, None, None, *(wrapped(s.to(g.dtype), like) for s, g, like in pairs))


class Aulm:
    """State of the solver.

    Args:
        view: The parameters.
        rho: Penalty.
        growth: Factor on rho at every update but the first; 1 keeps it constant.
        rho_max: Where it stops.

    Attributes:
        factor: float[n_terms], of the last F-step; 0 where F is the zero vector.
        rho: Penalty of the moment.
        norms: float[n_terms], ``||T||`` of the last F-step.
        primal: ``||W - F|| / ||W||`` at the last update.
    """

    def __init__(self, view: GroupView, *, rho: float, growth: float, rho_max: float) -> None:
        self._view = view
        self._growth = growth
        self._rho_max = rho_max
        self.rho = self._rho_first = rho
        self.updates = 0
        self.factor = torch.ones(view.layout.n_terms, dtype=view.dtype, device=view.device)
        self.norms = view.sums(2).sqrt()
        self.primal = torch.zeros((), dtype=view.dtype, device=view.device)
        self._dual: list[Tensor] = []
        self._target: list[Tensor] = []

    def restart(self) -> None:
        """Begin again with the first rho; factors stay."""
        self.rho, self._dual, self._target = self._rho_first, [], []

    @torch.no_grad()
    def update(self, strength: Tensor, prox: Prox, active: Tensor | None = None) -> None:
        """F-step with the weights of the moment, then multiplier step.

        Args:
            strength: float[n_terms], lam of each term.
            prox: Closed form of the regulariser.
            active: bool[n_terms], terms that take part; the others keep their factor.
        """
        if not self._dual:
            self._dual, self._target = self._view.zeros(), self._view.zeros()
        else:
            self.rho = min(self.rho * self._growth, self._rho_max)
        self.updates += 1
        weights = [held(w) for w in self._view.tensors()]
        dual = [held(y) for y in self._dual]
        target = [held(t) for t in self._target]
        # T is built in the place of the target, which it becomes.
        torch._foreach_copy_(target, dual)
        torch._foreach_mul_(target, 1 / self.rho)
        torch._foreach_add_(target, weights)
        self.norms = self._view.sums(2, self._target).sqrt()
        factor = prox(self.norms, strength / self.rho)
        if active is not None:
            factor = torch.where(active, factor, self.factor)
        self.factor = factor
        held_factor = factor if active is None else torch.where(active, factor, 1.0)
        for t, y, f in zip(
            target, dual, self._view.spread(held_factor, self._dual, outside=1.0), strict=True
        ):
            f = f.to(t.dtype)
            torch.mul(t, (1 - f) * self.rho, out=y)  # Y + rho (W - F) = rho (T - F), with F = f T
            t.mul_(2 * f - 1)  # F - Y / rho = F - (T - F)
        self._measure(weights)

    def auxiliary(self) -> list[Tensor]:
        """F of the last update, for every slot: ``target + Y / rho``, exactly zero where the factor is."""
        sums = torch._foreach_add(self._target, self._dual, alpha=1 / self.rho)
        factors = self._view.spread((self.factor != 0).to(self._view.dtype), self._dual, outside=1.0)
        return [s.mul_(f) for s, f in zip(map(held, sums), factors, strict=True)]

    def _measure(self, weights: list[Tensor]) -> None:
        """``W - F = W - target - Y / rho``."""
        rest = torch._foreach_sub(weights, [held(t) for t in self._target])
        torch._foreach_add_(rest, [held(y) for y in self._dual], alpha=-1 / self.rho)
        like = [wrapped(r, t) for r, t in zip(rest, self._target, strict=True)]
        gap, size = self._view.sums(2, like).sum(), self._view.sums(2).sum()
        self.primal = (gap / size.clamp(min=1e-30)).sqrt()

    def penalty(self, active: Tensor | None = None) -> Tensor:
        """``rho / 2 ||W - (F - Y / rho)||^2`` over the (active) terms, differentiable.

        The constant ``-||Y||^2 / (2 rho)`` of the augmented Lagrangian is left out.
        """
        covered = [slot.covered and active is None for slot in self._view.layout.slots]
        masks: list[Tensor | None] = [None] * len(covered)
        if not all(covered):
            ones = torch.ones_like(self.factor) if active is None else active.to(self.factor.dtype)
            laid = self._view.spread(ones, self._target, outside=0.0)
            masks = [None if whole else mask for whole, mask in zip(covered, laid, strict=True)]
        return _Quadratic.apply(self.rho, self._target, masks, *self._view.tensors())  # type: ignore[no-any-return]

    def state(self) -> State:
        """Tensors that a bit-equal continuation needs."""
        state = {
            "rho": torch.tensor(self.rho, dtype=torch.float64),
            "updates": torch.tensor(self.updates),
            "factor": self.factor,
            "norms": self.norms,
            "primal": self.primal,
        }
        for k, (dual, target) in enumerate(zip(self._dual, self._target, strict=True)):
            state |= {f"dual.{k}": dual, f"target.{k}": target}
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` gave."""
        self.rho, self.updates = float(state["rho"]), int(state["updates"])
        self.factor, self.norms, self.primal = state["factor"], state["norms"], state["primal"]
        slots = range(len(self._view.layout.slots)) if "dual.0" in state else range(0)
        self._dual = [state[f"dual.{k}"] for k in slots]
        self._target = [state[f"target.{k}"] for k in slots]
