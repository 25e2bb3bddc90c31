"""How far a slim model is from what it should be: relative to what the removal does, channel by channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Distance", "Limits", "distance"]

AMPLE = 16.0
"""How many times what a small jitter of weights and inputs does to a channel counts as rounding."""


@dataclass(frozen=True)
class Limits:
    """What counts as equal.

    Attributes:
        tolerance: Largest difference relative to the effect of the removal on the same channel.
        floor: The effect counts as at least this part of the channel's largest entry: below, a difference
            is rounding.
        spread: A channel's largest entry counts as at least this part of the tensor's.
    """

    tolerance: float
    floor: float
    spread: float

    @staticmethod
    def of(dtype: torch.dtype, tolerance: float | None = None) -> Limits:
        """Limits of a floating type: 53-bit fractions leave room for small effects, 24-bit ones do not."""
        own = _LIMITS[dtype]
        return own if tolerance is None else Limits(tolerance, own.floor, own.spread)


# Detectors, whose boxes are exponentials of what a hundred layers make, come to 1.5e-9 in float64 (the census).
_LIMITS = {torch.float64: Limits(1e-8, 1e-3, 1e-4), torch.float32: Limits(1e-4, 1.0, 1e-2)}


@dataclass(frozen=True)
class Distance:
    """Differences of one tensor.

    Attributes:
        error: Largest difference relative to the effect on its channel (``Limits``).
        effect: Largest effect relative to the largest entry.
    """

    error: float
    effect: float


def distance(
    expected: Tensor, got: Tensor, dense: Tensor, limits: Limits, jittered: Tensor | None = None
) -> Distance:
    """How far a slim model's output is from what is expected of it.

    Args:
        expected: What the dense model gives without the units that go.
        got: What the slim model gives, of the same shape.
        dense: What the dense model gives with them.
        limits: What counts as equal.
        jittered: What the slim model gives once weights and inputs have moved by rounding.

    Returns:
        The differences; infinite for numbers that are none where the dense model has some.

    Example:
        >>> x = torch.tensor([[1.0, 100.0]], dtype=torch.float64)
        >>> one = distance(x, x + torch.tensor([[1e-6, 0.0]]), 2 * x, Limits.of(torch.float64))
        >>> f"{one.error:.0e}", one.effect
        ('1e-06', 0.5)
    """
    if not expected.numel():
        return Distance(0.0, 0.0)
    x, y, z = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (expected, got, dense))
    odd = ~x.isfinite()
    if not _same_kinds(x, y) or bool((odd & z.isfinite()).any()):
        return Distance(math.inf, 0.0)
    lost = odd | ~z.isfinite()
    gap, effect = (torch.where(lost, 0.0, t.abs()) for t in (x - y, z - x))
    size = torch.where(lost, 0.0, torch.maximum(x.abs(), z.abs()))
    noise = (
        torch.zeros_like(gap)
        if jittered is None or jittered.shape != y.shape
        else (y - jittered.to(y.dtype)).abs()
    )
    largest = float(size.max())
    lines = [gap, effect, size, torch.where(lost, 0.0, noise)]
    error = max(_worst(lines, dim, limits, largest) for dim in _channels(x))
    return Distance(error, float(effect.max()) / largest if largest else 0.0)


def _same_kinds(one: Tensor, two: Tensor) -> bool:
    """What is infinite or no number in one is the same in the other."""
    if one.is_complex() != two.is_complex():
        return False
    if not torch.equal(one.isfinite(), two.isfinite()):
        return False
    odd = ~one.isfinite()
    return bool(torch.isclose(one[odd], two[odd], equal_nan=True).all())


def _channels(tensor: Tensor) -> list[int | None]:
    """Dimensions along which channels may lie: the second, the last."""
    return [None] if tensor.ndim < 2 else [*{1, tensor.ndim - 1}]


def _worst(tensors: list[Tensor], dim: int | None, limits: Limits, largest: float) -> float:
    """Largest error of all channels along a dimension."""
    lines = [t.flatten()[None] if dim is None else t.transpose(0, dim).flatten(1) for t in tensors]
    gap, effect, size, noise = (t.amax(1) for t in lines)
    gap = (gap - AMPLE * noise).clamp_min(0)
    scale = torch.maximum(effect, limits.floor * size.clamp_min(limits.spread * largest))
    return float(torch.where(gap > 0, gap / scale, 0.0).max())
