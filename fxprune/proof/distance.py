"""How far a slim model is from what it should be: relative to what the removal does, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Distance", "Limits", "distance"]


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
    def of(dtype: torch.dtype) -> Limits:
        """Limits of a floating type: 53-bit fractions leave room for small effects, 24-bit ones do not."""
        return _LIMITS[dtype]


_LIMITS = {torch.float64: Limits(1e-9, 1e-3, 1e-4), torch.float32: Limits(1e-4, 1.0, 1e-2)}


@dataclass(frozen=True)
class Distance:
    """Differences of one tensor.

    Attributes:
        error: Largest difference relative to the effect on its channel (``Limits``).
        effect: Largest effect relative to the largest entry.
    """

    error: float
    effect: float


def distance(expected: Tensor, got: Tensor, dense: Tensor, limits: Limits) -> Distance:
    """How far a slim model's output is from what is expected of it.

    Args:
        expected: What the dense model gives without the units that go.
        got: What the slim model gives.
        dense: What the dense model gives with them.
        limits: What counts as equal.

    Returns:
        The differences; infinite for other shapes, and for numbers that are none where the dense model has some.

    Example:
        >>> x = torch.tensor([[1.0, 100.0]], dtype=torch.float64)
        >>> one = distance(x, x + torch.tensor([[1e-6, 0.0]]), 2 * x, Limits.of(torch.float64))
        >>> f"{one.error:.0e}", one.effect
        ('1e-06', 0.5)
    """
    if expected.shape != got.shape or expected.dtype.is_complex != got.dtype.is_complex:
        return Distance(float("inf"), 0.0)
    if not expected.numel():
        return Distance(0.0, 0.0)
    kind = torch.complex128 if expected.is_complex() else torch.float64
    x, y, z = (t.to(kind) for t in (expected, got, dense))
    if z.shape != x.shape:
        z = x
    whole = [t.isfinite() for t in (x, y, z)]
    if bool(((~whole[1] | ~whole[0]) & whole[2]).any()) or not torch.equal(whole[0], whole[1]):
        return Distance(float("inf"), 0.0)
    odd = ~whole[0]
    if odd.any() and not torch.equal(
        torch.nan_to_num(x[odd].abs(), -1.0), torch.nan_to_num(y[odd].abs(), -1.0)
    ):
        return Distance(float("inf"), 0.0)
    both = whole[0] & whole[2]
    gap, effect, size = (
        torch.where(both, t, 0.0) for t in ((x - y).abs(), (z - x).abs(), torch.maximum(x.abs(), z.abs()))
    )
    largest = float(size.max())
    worst = max(_worst(gap, effect, size, dim, limits, largest) for dim in _channels(x))
    return Distance(worst, float(effect.max()) / largest if largest else 0.0)


def _channels(tensor: Tensor) -> list[int | None]:
    """Dimensions along which channels may lie: the second, the last."""
    return [None] if tensor.ndim < 2 else [*{1, tensor.ndim - 1}]


def _worst(
    gap: Tensor, effect: Tensor, size: Tensor, dim: int | None, limits: Limits, largest: float
) -> float:
    lines = [
        t.flatten()[None] if dim is None else t.transpose(0, dim).flatten(1) for t in (gap, effect, size)
    ]
    gap, effect, size = (t.amax(1) for t in lines)
    scale = torch.maximum(
        effect, limits.floor * torch.maximum(size, torch.full_like(size, limits.spread * largest))
    )
    return float(torch.where(gap > 0, gap / scale, 0.0).max())
