"""FISTA: proximal gradient steps with momentum, for a penalty ``t * |m|_1`` and optionally ``m >= 0``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Fista", "soft_threshold"]


def soft_threshold(values: Tensor, threshold: Tensor | float) -> Tensor:
    """The prox of ``t * |x|``: ``sign(x) * max(|x| - t, 0)``, with exact zeros.

    Args:
        values: float[n].
        threshold: ``t``, a number or float[n].

    Example:
        >>> soft_threshold(torch.tensor([3.0, -0.5, -2.0]), 1.0).tolist()
        [2.0, 0.0, -1.0]
    """
    bound = torch.as_tensor(threshold, dtype=values.dtype, device=values.device)
    return values - torch.maximum(torch.minimum(values, bound), -bound)


class Fista:
    """State of the iteration.

    Args:
        start: float[n], where it begins.
        nonnegative: Project on ``m >= 0`` after every step.
        adaptive: Forget the momentum whenever it points uphill, which ends the swings of the plain iteration.

    Attributes:
        value: float[n], the iterate ``m_k``.
        alpha: ``alpha_k`` of the momentum, 1 at the start and after a restart.

    Example:
        >>> f = Fista(torch.tensor([1.0, 1.0]))
        >>> for _ in range(100):
        ...     f.step(f.point - torch.tensor([0.2, 0.7]), rate=0.5, penalty=0.3)
        >>> [round(v, 6) for v in f.value.tolist()]
        [0.0, 0.4]

    References:
        Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009, eq. 4.1-4.3.
        O'Donoghue and Candes, Adaptive restart for accelerated gradient schemes, 2015, section 3.2 (gradient scheme).
    """

    def __init__(self, start: Tensor, *, nonnegative: bool = True, adaptive: bool = False) -> None:
        self.value = start.detach().clone()
        self._last = self.value.clone()
        self._nonnegative, self._adaptive = nonnegative, adaptive
        self._before = self.alpha = 1.0

    @property
    def point(self) -> Tensor:
        """float[n], the momentum point ``y``, at which the gradient is to be taken."""
        factor = (self._before - 1) / self.alpha
        return self.value + factor * (self.value - self._last)

    def step(self, gradient: Tensor, *, rate: float, penalty: Tensor | float) -> None:
        """``m <- prox(y - rate * gradient)``.

        Args:
            gradient: float[n], of the smooth part.
            rate: Step size.
            penalty: Coefficient of ``|m|_1``, a number or float[n].
        """
        point = self.point
        moved = soft_threshold(point - rate * gradient, rate * penalty)
        self._last, self.value = self.value, moved.clamp(min=0) if self._nonnegative else moved
        if self._adaptive and float(torch.dot(point - self.value, self.value - self._last)) > 0:
            self.restart()
            return
        self._before, self.alpha = self.alpha, (1 + math.sqrt(1 + 4 * self.alpha**2)) / 2

    def restart(self) -> None:
        """Forget the momentum."""
        self._before = self.alpha = 1.0
        self._last = self.value.clone()

    def state(self) -> dict[str, Tensor]:
        """Tensors that a bit-equal continuation needs."""
        alphas = torch.tensor([self._before, self.alpha], dtype=torch.float64)
        return {"value": self.value.clone(), "last": self._last.clone(), "alphas": alphas}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state`` gave."""
        self.value, self._last = state["value"].to(self.value), state["last"].to(self.value)
        self._before, self.alpha = (float(a) for a in state["alphas"])
