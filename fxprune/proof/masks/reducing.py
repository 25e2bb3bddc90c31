"""What is counted, summed and normalised runs over what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fxprune.proof.masks.call import Call, Law, Result, Unknown, counted, emptied, merged, mixed
from fxprune.proof.masks.moving import composed, elementwise
from fxprune.proof.masks.states import DEAD

__all__ = [
    "batch_norm",
    "compared",
    "extremes",
    "found_at",
    "group_norm",
    "layer_norm",
    "mean",
    "median",
    "rms_norm",
    "scanned",
    "softmax",
    "spread",
    "summed",
]


def summed(fill: float, *names: str) -> Law:
    """A reduction over what is left: in the place of what is gone stands what changes nothing."""

    def law(call: Call) -> Result:
        name = call.first()
        dims = call.dims("dim", *names)
        order = call["ord"] if "ord" in call.values else call["p"]
        # Norms of negative order look for the smallest.
        neutral = math.inf if isinstance(order, (int, float)) and order < 0 else fill
        state = call.state(call.tensor(name))
        if emptied(state, dims):
            call.doubt = f"{call.func} reads literals beside what is gone, and nothing else"
        return call.run(**{name: call.without(name, neutral)}), merged(state, dims, _keeps(call))

    return law


def _keeps(call: Call) -> bool:
    return bool(call["keepdim"])


def found_at(fill: float) -> Law:
    """Largest and smallest with their places: a place among others of which some are gone is another one later."""

    def law(call: Call) -> Result:
        name = call.first()
        dims = call.dims("dim")
        state = call.state(call.tensor(name))
        line = merged(state, dims, _keeps(call))
        result = call.run(**{name: call.without(name, fill)})
        where = (
            Unknown(f"{call.func} counts positions of which some are gone") if mixed(state, dims) else line
        )
        if isinstance(result, Tensor):
            return result, [where if "arg" in call.func._schema.name else line]
        return result, [line, where]

    return law


def extremes(call: Call) -> tuple[Tensor, Tensor]:
    """Smallest and largest of what is left."""
    x, keep = call.tensor("self"), _keeps(call)
    dims = call.dims("dim")
    return x.amin(dims, keepdim=keep), x.amax(dims, keepdim=keep)


def compared(call: Call) -> Result:
    """A loss: entries one by one, then their mean or sum over what is left."""
    reduction = call["reduction"]
    if not reduction:
        return elementwise(call)

    def of(_: Call) -> object:
        each = call.func(**{**call.values, "reduction": 0})
        return each.mean() if reduction == 1 else each.sum()

    return composed(of)(call)


def median(call: Call) -> Result:
    """The middle one of what is left: of an even number the smaller one of two, as torch has it."""
    name = call.first()
    x, state = call.tensor(name), call.state(call.tensor(name))
    dims, keep = call.dims("dim"), _keeps(call)
    line = merged(state, dims, keep)
    if not mixed(state, dims):
        result = call.run()
        return result, [line] * (1 if isinstance(result, Tensor) else 2)
    counted(call, state, dims)
    at = dims[0] if len(dims) == 1 else 0
    lines, left = (
        t if len(dims) == 1 else t.flatten() for t in (call.without(name, math.inf), call.counts(state))
    )
    none = lines.isnan() & left
    ordered, places = lines.masked_fill(none, math.inf).sort(dim=at, stable=True)
    skipped = none if "nan" in call.func._schema.name else torch.zeros_like(none)
    number = (left & ~skipped).sum(at, keepdim=True)
    chosen = ((number - 1) // 2).clamp_min(0)
    value, place = ordered.gather(at, chosen), places.gather(at, chosen)
    value = torch.where((none & ~skipped).any(at, keepdim=True) | (number == 0), math.nan, value)
    if not keep:
        value, place = value.squeeze(at), place.squeeze(at)
    value = value.to(x.dtype)
    where = Unknown(f"{call.func} counts positions of which some are gone")
    return (value, [line]) if call["dim"] is None else ((value, place), [line, where])


def scanned(fill: float) -> Law:
    """Running sums skip what is gone."""

    def law(call: Call) -> Result:
        name = call.first()
        state = call.state(call.tensor(name))
        result = call.run(**{name: call.without(name, fill)})
        if isinstance(result, Tensor):
            return result, state
        where = (
            Unknown(f"{call.func} counts positions of which some are gone")
            if mixed(state, call.dims("dim"))
            else state
        )
        return result, [state, where]

    return law


def softmax(call: Call) -> Result:
    """Over what is left of each line."""
    name = call.first()
    state = call.state(call.tensor(name))
    counted(call, state, call.dims("dim"))
    return call.run(**{name: call.without(name, -math.inf)}), state


def mean(call: Call) -> Result:
    """Over what is left of each line."""
    name = call.first()
    state = call.state(call.tensor(name))
    dims, keep = call.dims("dim"), _keeps(call)
    counted(call, state, dims)
    total = call.without(name).sum(dims, keepdim=keep, dtype=call["dtype"])  # type: ignore[call-overload]
    return total / call.counts(state).sum(dims, keepdim=keep), merged(state, dims, keep)


def _moments(
    call: Call, x: Tensor, state: Tensor, dims: list[int], correction: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The deviations, mean and variance over what is left, reduced dimensions kept."""
    x = torch.where(state == DEAD, 0, x)
    left = call.counts(state)
    count = left.sum(dims, keepdim=True)
    mean = x.sum(dims, keepdim=True) / count
    off = x - mean
    square = torch.where(left, off.abs() ** 2, 0).sum(dims, keepdim=True)
    return off, mean, square / (count - correction).clamp_min(0)


def spread(*outputs: Callable[[Tensor, Tensor], Tensor]) -> Law:
    """Variance and its relatives over what is left."""

    def law(call: Call) -> Result:
        x = call.tensor(call.first())
        state = call.state(x)
        dims, keep = call.dims("dim"), _keeps(call)
        counted(call, state, dims)
        correction = call["correction"]
        if correction is None:
            correction = 0.0 if call["unbiased"] is False else 1.0
        _, mean, variance = _moments(call, x, state, dims, float(correction))  # type: ignore[arg-type]
        line = merged(state, dims, keep)
        results = [o(mean, variance) if keep else _squeezed(o(mean, variance), dims) for o in outputs]
        return (results[0], line) if len(results) == 1 else (tuple(results), [line] * len(results))

    return law


def _squeezed(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    return tensor.squeeze(tuple(dims))


def _normalised(call: Call, x: Tensor, state: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations in units of the spread, mean and the unit's inverse."""
    counted(call, state, dims)
    off, mean, variance = _moments(call, x, state, dims)
    scale = torch.rsqrt(variance + float(call["eps"]))  # type: ignore[arg-type]
    return off * scale, mean, scale


def _affine(
    call: Call, x: Tensor, state: Tensor, shape: Sequence[int], weight: str = "weight", bias: str = "bias"
) -> tuple[Tensor, Tensor]:
    """Scale and offset that lie along some dimensions, and what is left after they meet."""
    for name, operation in ((weight, torch.mul), (bias, torch.add)):
        if call[name] is not None:
            other = call.tensor(name)
            x = operation(x, other.reshape(shape))
            state = torch.maximum(state, call.state(other).reshape(shape))
    return x, state


def layer_norm(call: Call) -> Result:
    """Each sample over what is left of it."""
    x = call.tensor("input")
    shape = call["normalized_shape"]
    assert isinstance(shape, (list, tuple))
    dims = list(range(x.ndim - len(shape), x.ndim))
    state = call.state(x)
    y, mean, scale = _normalised(call, x, state, dims)
    line = merged(state, dims, keepdim=True)
    y, state = _affine(call, y, state, shape)
    return (y, mean, scale), [state, line, line]


def rms_norm(call: Call) -> Result:
    """Each sample over what is left of it."""
    x = call.tensor("input")
    shape = call["normalized_shape"]
    assert isinstance(shape, (list, tuple))
    dims = list(range(x.ndim - len(shape), x.ndim))
    state = call.state(x)
    counted(call, state, dims)
    square = call.without("input").square().sum(dims, keepdim=True) / call.counts(state).sum(
        dims, keepdim=True
    )
    eps = torch.finfo(x.dtype).eps if call["eps"] is None else float(call["eps"])  # type: ignore[arg-type]
    scale = torch.rsqrt(square + eps)
    line = merged(state, dims, keepdim=True)
    y, state = _affine(call, x * scale, state, shape)
    return (y, scale), [state, line]


def group_norm(call: Call) -> Result:
    """Each of the dense model's groups over what is left of it."""
    x, groups = call.tensor("input"), int(call["group"])  # type: ignore[call-overload]
    state = call.state(x)
    y, held = (t.reshape(len(x), groups, -1) for t in (x, state))
    y, mean, scale = _normalised(call, y, held, [2])
    line = merged(held, [2], keepdim=False)
    y, state = _affine(call, y.reshape(x.shape), state, [-1, *[1] * (x.ndim - 2)])
    return (y, mean[..., 0], scale[..., 0]), [state, line, line]


def batch_norm(call: Call) -> Result:
    """Each channel by its own statistics, known ones or those of the batch."""
    name = call.first()
    x, state = call.tensor(name), call.state(call.tensor(name))
    shape = [-1, *[1] * (x.ndim - 2)]
    dims = [d for d in range(x.ndim) if d != 1]
    batch = bool(call["training"]) or call["running_mean"] is None
    if batch:
        y, mean, scale = _normalised(call, x, state, dims)
    else:
        y = (x - call.tensor("running_mean").reshape(shape)) * torch.rsqrt(
            call.tensor("running_var").reshape(shape) + float(call["eps"])  # type: ignore[arg-type]
        )
        for statistic in ("running_mean", "running_var"):
            state = torch.maximum(state, call.state(call.tensor(statistic)).reshape(shape))
    y, state = _affine(call, y, state, shape)
    result = call.run()  # moving averages are written
    assert isinstance(result, tuple)
    if not batch:
        return (y, *result[1:]), [state, *[None] * (len(result) - 1)]
    line = merged(state, dims, keepdim=False)
    return (y, mean.flatten(), scale.flatten(), *result[3:]), [state, line, line, *[None] * (len(result) - 3)]
