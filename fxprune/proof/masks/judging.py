"""Judging: what is expected of a slim model against what it does, as far as anything can be said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from fxprune.models.distance import Distance, Limits, distance

__all__ = ["Comparison", "Output", "judge"]


@dataclass(frozen=True, eq=False)
class Output:
    """What an oracle says about one tensor.

    Attributes:
        value: What is expected; of what is gone any value.
        left: bool of the same shape, or None where all of it is left.
        unjudged: Why nothing can be said, or empty.
        doubt: Why a difference need not be a fault, or empty.
        inner: The model does not return it, so that it may have lost something.
    """

    value: Tensor
    left: Tensor | None = None
    unjudged: str = ""
    doubt: str = ""
    inner: bool = False


@dataclass(frozen=True)
class Comparison:
    """What an oracle says about a slim model.

    Attributes:
        error: Largest difference of what was judged, relative to the effect of the removal (``Limits``).
        effect: How much the removal changes what was judged, relative to its largest entry.
        judged: Share of the outputs' elements that could be judged.
        unjudged: Why the others could not.
        fault: What is wrong other than numbers (shapes, say), or empty.
    """

    error: float
    effect: float
    judged: float
    unjudged: tuple[str, ...] = ()
    fault: str = ""


def judge(
    expected: Mapping[str, Output],
    dense: Mapping[str, Tensor],
    small: Mapping[str, Tensor],
    limits: Limits,
    noise: Callable[[], Mapping[str, Tensor]],
) -> Comparison:
    """Compare what can be judged.

    Args:
        expected: What an oracle says about each tensor.
        dense: What the dense model gives.
        small: What the slim model gives.
        limits: What counts as equal.
        noise: The slim model once more, moved by rounding; called only where something differs.
    """
    if list(expected) != list(small):
        fault = f"{len(small)} outputs instead of {len(expected)}"
        return Comparison(math.inf, 0.0, 1.0, fault=fault)
    error = effect = judged = 0.0
    total, why = 0, dict[str, None]()
    for name, one in expected.items():
        total += one.value.numel()
        deviation = (
            None
            if one.unjudged
            else _distance(one, dense.get(name), small[name], limits, partial(_entry, noise, name))
        )
        if isinstance(deviation, str):
            return Comparison(math.inf, 0.0, 1.0, fault=deviation)
        reason = one.unjudged or (one.doubt if deviation and deviation.error > limits.tolerance else "")
        if reason or deviation is None:
            why[reason or "a part of an output is gone"] = None
            continue
        judged += one.value.numel()
        error, effect = max(error, deviation.error), max(effect, deviation.effect)
    return Comparison(error, effect, judged / total if total else 1.0, tuple(why))


def _entry(noise: Callable[[], Mapping[str, Tensor]], name: str) -> Tensor | None:
    return noise().get(name)


def _distance(
    one: Output, dense: Tensor | None, got: Tensor, limits: Limits, noise: Callable[[], Tensor | None]
) -> Distance | str | None:
    """How far a tensor is from what is left of the expected one; None where nothing can be said."""
    value, whole = one.value, one.value if dense is None or dense.shape != one.value.shape else dense
    if one.left is not None and one.inner:
        if one.left.shape != value.shape or int(one.left.sum()) != got.numel():
            return None
        value, whole = (t[one.left].reshape(got.shape) for t in (value, whole))
    if value.shape != got.shape and one.inner:
        return None
    if value.shape != got.shape:
        return f"output of shape {tuple(got.shape)} instead of {tuple(value.shape)}"
    if one.left is not None and not one.inner:
        return None
    deviation = distance(value, got, whole, limits)
    if limits.tolerance < deviation.error < math.inf:
        deviation = distance(value, got, whole, limits, noise())
    return deviation
