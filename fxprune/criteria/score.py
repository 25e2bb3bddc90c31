"""Score: how important is each unit?

A criterion says what evidence it needs; it is gathered once from the user's batches, with the model
in evaluation mode, and the model is left as it was: parameters, gradients, buffers, modes and
random number generators.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling
from fxprune.criteria.base import Criterion, Evidence, Need, Normalise, View, slice_sums
from fxprune.criteria.named import criterion_named
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import FloatArray
from fxprune.models.copies import unchanged_buffers
from fxprune.ops import batch_norm_weights
from fxprune.plans import Axis
from fxprune.support.briefly import brief
from fxprune.support.process import no_fast_path, untouched_random_state

__all__ = ["Scores", "score"]

Batch = TypeVar("Batch")
Loss = Callable[[nn.Module, Batch], torch.Tensor]


@brief
@dataclass(frozen=True, eq=False)
class Scores:
    """Importance of every unit.

    Attributes:
        units: float64[n_units], low for what may go, NaN for units that have no score.
        notes: Groups that could not be scored.
    """

    units: FloatArray
    notes: tuple[str, ...] = ()


def score(
    trace: Trace,
    criterion: str | Criterion = "l1",
    *,
    data: Iterable[Batch] | None = None,
    loss: Loss[Batch] | None = None,
    seed: int = 0,
) -> Scores:
    """Score every unit of a model.

    While it runs on data, the model is in evaluation mode and its gradients are set aside, for other threads, too.

    Args:
        trace: A traced model; its weights are read as they are now.
        criterion: Name of a criterion, or one with its own options (``criteria.L1(members="producers")``).
        data: Batches, for criteria that need evidence; gone through once.
        loss: ``loss(model, batch)`` gives the scalar to differentiate (for activations its value is not
            looked at).
        seed: For ``"random"``.

    Returns:
        Scores, normalised as the criterion says.

    Raises:
        PlanError: No such criterion, evidence is missing, scores that are no finite number for each unit, or no group
            can be scored.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1))
        >>> _ = nn.init.ones_(net[1].weight), net[0].weight.data.copy_(torch.tensor([3.0, 1.0]).view(2, 1, 1, 1))
        >>> scores = score(fxprune.trace(net, torch.zeros(1, 1, 2, 2)))
        >>> group = fxprune.couple(fxprune.trace(net, torch.zeros(1, 1, 2, 2)))[0]
        >>> scores.units[group.units]
        array([1.33333333, 0.66666667])
    """
    chosen = criterion_named(criterion) if isinstance(criterion, str) else criterion
    if not callable(getattr(chosen, "score", None)):
        raise PlanError(
            f"criterion={criterion!r} is no criterion",
            advice="pass a name such as 'l1', or an object with name, needs, normalise and score",
        )
    _check_words(chosen)
    coupling = analyse(trace).coupling
    view = View(
        coupling=coupling,
        tensor=trace.tensor,
        batch_norms=frozenset(batch_norm_weights(trace.graph.graph)),
        evidence=_gather(trace, coupling, chosen, data, loss),
        seed=seed,
    )
    units = _numbers(chosen, chosen.score(view), coupling.n_units)
    # Tables that no layer makes or reads (biases per head) go with what does, whatever it scores.
    prunable = [
        group for group in coupling.groups if group.pinned is None and (group.producers or group.consumers)
    ]
    unscored = [group.name for group in prunable if np.isnan(units[group.units]).any()]
    if prunable and len(unscored) == len(prunable):
        raise PlanError(
            f"criterion '{chosen.name}' has nothing to say about any group of this model",
            advice=_ADVICE.get(chosen.name, "use another criterion, 'l1' say"),
        )
    notes: tuple[str, ...] = ()
    if unscored:
        names = ", ".join(unscored[:5]) + (", ..." if len(unscored) > 5 else "")
        notes = (f"criterion '{chosen.name}' cannot score {len(unscored)} groups, which stay whole: {names}",)
    if chosen.normalise == "mean":
        units = _by_group_mean(coupling, units)
    return Scores(units, notes)


_ADVICE = {
    "bn_scale": "no batch norm follows a prunable layer here; use 'l1', which reads the weights themselves",
    "activation": "the layers' outputs were not seen (weights computed on the fly?); use 'l1' or 'taylor'",
}


def _check_words(criterion: Criterion) -> None:
    """What a criterion of one's own says of itself must be words that are known."""
    if unknown := sorted(set(criterion.needs) - set(get_args(Need))):
        raise PlanError(
            f"criterion '{criterion.name}' needs {', '.join(map(repr, unknown))}, which nobody gathers",
            advice=f"its needs may be {' and '.join(map(repr, get_args(Need)))}",
        )
    if criterion.normalise not in get_args(Normalise):
        raise PlanError(
            f"criterion '{criterion.name}' has normalise={criterion.normalise!r}",
            advice=f"use one of: {', '.join(map(repr, get_args(Normalise)))}",
        )


def _numbers(criterion: Criterion, made: object, n_units: int) -> FloatArray:
    """The scores of a criterion as float64[n_units], none of them infinite."""
    try:
        units = np.asarray(made, np.float64)
    except (TypeError, ValueError) as error:
        raise PlanError(
            f"criterion '{criterion.name}' gave scores that are no numbers: {error}",
            advice="return a float64 array with a score for each unit: view.sums(...), view.gather(...)",
        ) from error
    if units.shape != (n_units,):
        raise PlanError(
            f"criterion '{criterion.name}' gave scores of shape {units.shape}, and there are {n_units} units",
            advice="return a score for each unit of view.coupling, NaN for those it says nothing about",
        )
    if np.isinf(units).any():
        raise PlanError(
            f"criterion '{criterion.name}' gave {int(np.isinf(units).sum())} scores that are infinite",
            advice="return finite scores: protect= keeps units whatever they score",
        )
    return units


def _by_group_mean(coupling: Coupling, units: FloatArray) -> FloatArray:
    """Divide by the mean of the group; an all-zero group stays zero."""
    number = np.full(coupling.n_units, -1, np.int64)
    for k, group in enumerate(coupling.groups):
        number[group.units] = k
    scored = (number >= 0) & ~np.isnan(units)
    n_groups = len(coupling.groups)
    total = np.bincount(number[scored], units[scored], n_groups)
    mean = total / np.maximum(np.bincount(number[scored], minlength=n_groups), 1)
    result = units.copy()
    result[scored] /= np.where(mean > 0, mean, 1.0)[number[scored]]
    return result


# --- evidence --------------------------------------------------------------------------------------


def _gather(
    trace: Trace,
    coupling: Coupling,
    criterion: Criterion,
    data: Iterable[Batch] | None,
    loss: Loss[Batch] | None,
) -> Evidence:
    if not criterion.needs:
        return Evidence()
    if data is None or loss is None:
        missing = " and ".join(name for name, value in (("data", data), ("loss", loss)) if value is None)
        raise PlanError(
            f"criterion '{criterion.name}' needs {' and '.join(sorted(criterion.needs))}, but {missing} is missing",
            advice="pass data=batches and loss=lambda model, batch: ..., or a criterion that reads weights only",
        )
    view = View(coupling, trace.tensor)
    axes = view.axes("all")
    for name in dict.fromkeys(name for name, _ in axes):
        view.weight(name)
    if len(criterion.needs) > 1:
        data = list(data)  # seen twice, and it may be an iterator
    evidence = Evidence()
    with _untouched(trace.model):
        if "gradients" in criterion.needs:
            evidence = _gradients(trace, axes, data, loss)
        if "activations" in criterion.needs:
            seen = _activations(trace, view.axes("producers"), data, loss)
            evidence = replace(evidence, activations=seen.activations)
    return evidence


def _gradients(trace: Trace, axes: list[Axis], data: Iterable[Batch], loss: Loss[Batch]) -> Evidence:
    """Weight x gradient, summed over slices, batch by batch."""
    dims: dict[str, list[int]] = {}
    for name, dim in axes:
        dims.setdefault(name, []).append(dim)
    own = dict(trace.model.named_parameters())
    weights = {name: own[name] for name in dims if name in own and own[name].is_floating_point()}
    for weight in weights.values():
        weight.requires_grad_(True)
    products: dict[Axis, list[FloatArray]] = {(name, d): [] for name in weights for d in dims[name]}
    squares = {axis: np.zeros(weights[axis[0]].shape[axis[1]]) for axis in products}
    batches = 0
    for batch in data:
        value = _scalar(loss(trace.model, batch))
        gradients: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
            value, list(weights.values()), allow_unused=True
        )
        batches += 1
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            product = torch.zeros_like(weight) if gradient is None else weight.detach() * gradient
            sums = slice_sums(product, dims[name], lambda x: x)
            powers = slice_sums(product, dims[name], torch.square)
            for dim, total, power in zip(dims[name], sums, powers, strict=True):
                products[name, dim].append(total)
                squares[name, dim] += power
    _require(batches)
    return Evidence(
        products={axis: np.stack(rows) for axis, rows in products.items()},
        squares={axis: total / batches for axis, total in squares.items()},
    )


def _activations(trace: Trace, axes: list[Axis], data: Iterable[Batch], loss: Loss[Batch]) -> Evidence:
    """Mean absolute outputs of the calls that read a producer's weight."""
    own = dict(trace.model.named_parameters())
    watch = _Watch({id(own[name]): (name, dim) for name, dim in axes if name in own})
    batches = 0
    for batch in data:
        with torch.no_grad(), watch:
            loss(trace.model, batch)
        batches += 1
    _require(batches)
    return Evidence(activations={axis: total / watch.calls[axis] for axis, total in watch.totals.items()})


class _Watch(TorchFunctionMode):
    """Sees every call of a torch function and averages the outputs of those that read a watched weight.

    Unlike module hooks it also sees functional calls, re-used weights and traced graphs.
    """

    def __init__(self, axes: dict[int, Axis]) -> None:
        super().__init__()
        self.axes = axes
        self.totals: dict[Axis, FloatArray] = {}
        self.calls: dict[Axis, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            for argument in (*args, *(kwargs or {}).values()):
                axis = self.axes.get(id(argument))
                if axis is not None and isinstance(argument, torch.Tensor):
                    self._record(axis, argument, result)
        return result

    def _record(self, axis: Axis, weight: torch.Tensor, result: torch.Tensor) -> None:
        # Channels come before the spatial dimensions, which a kernel and an output have in common.
        channels = result.ndim - weight.ndim + 1
        if not 0 <= channels < result.ndim or result.shape[channels] != weight.shape[axis[1]]:
            return
        rest = [d for d in range(result.ndim) if d != channels]
        mean = result.detach().abs().double().mean(rest).cpu().numpy()
        self.totals[axis] = self.totals.get(axis, np.zeros_like(mean)) + mean
        self.calls[axis] = self.calls.get(axis, 0) + 1


def _scalar(value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
        shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise PlanError(
            f"loss must return a scalar tensor that depends on the weights, got {shown}",
            advice="write loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1])",
        )
    if not torch.isfinite(value).all():
        raise PlanError(
            f"the loss is {value.item()}, so gradients say nothing", advice="check data and weights for NaN"
        )
    return value.reshape(())


def _require(batches: int) -> None:
    if not batches:
        raise PlanError(
            "data holds no batch", advice="pass a list or a loader; an iterator can be used only once"
        )


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards modes, flags, gradients, buffers and random states are as before.

    The fused attention module, which hides its projections and has no gradient, is off.
    """
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    with untouched_random_state(), unchanged_buffers(model), no_fast_path(), torch.enable_grad():
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, flag, gradient in flags:
                parameter.requires_grad_(flag)
                parameter.grad = gradient
