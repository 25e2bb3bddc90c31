"""Options that several methods share: strengths by group, and where the step size is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import PlanError
from fxprune.labels import FloatArray
from fxprune.regularizers.terms.layout import TermLayout
from fxprune.regularizers.terms.view import GroupView

__all__ = ["LearningRate", "PerGroup", "Scale", "choose", "per_family", "step_size"]

PerGroup = float | Mapping[str, float]
"""One number for all groups, or ``{pattern: number}`` over names of groups and of their tensors."""

LearningRate = torch.optim.Optimizer | Callable[[], float] | float
"""Where a method that needs the step size reads it: the optimizer (whose momentum counts), a function, or a
constant."""

Scale = Literal["none", "size", "norm"]
"""How one strength serves groups of different size: not at all, by the square root of the number of
elements in a unit, or by the mean norm of the layer's units when the method was made."""


def choose(what: str, value: str, choices: Iterable[str]) -> None:
    """Refuse an option that is not among its choices.

    Raises:
        PlanError: Naming the option and the choices.
    """
    if value not in (known := tuple(choices)):
        raise PlanError(f"{what}={value!r} is unknown", advice=f"choose one of {', '.join(known)}")


def per_family(value: PerGroup, layout: TermLayout, *, what: str) -> FloatArray:
    """One number per family; families that no pattern names get 0, later patterns win.

    Args:
        value: A number, or numbers by pattern.
        layout: Families and the names patterns are matched with.
        what: The option's name, for messages.

    Returns:
        float64[n_families].

    Raises:
        PlanError: A negative number, or a pattern that names nothing.
    """
    values = np.zeros(len(layout.families))
    for pattern, number in value.items() if isinstance(value, Mapping) else [("*", value)]:
        if not number >= 0:
            raise PlanError(f"{what}={number!r} for '{pattern}' is negative", advice=f"pass {what} >= 0")
        hit = [any(fnmatchcase(label, pattern) for label in labels) for labels in layout.labels]
        if not any(hit):
            raise PlanError(
                f"{what}: no group and no tensor of one is named '{pattern}'",
                advice=f"groups are named like '{layout.families[0]}'",
            )
        values[hit] = number
    return values


def _effective(group: Mapping[str, object]) -> float:
    """How far a constant gradient of 1 takes a parameter in one step, in the long run."""

    def number(key: str) -> float:
        value = group.get(key, 0.0)
        return float(value) if isinstance(value, (int, float, Tensor)) else 0.0

    return number("lr") * (1 - number("dampening")) / (1 - number("momentum"))


def step_size(source: LearningRate, view: GroupView) -> Tensor | float:
    """The step size of the moment, for a prox that follows the optimizer's step.

    With momentum m an optimizer of rate lr follows the gradient with lr / (1 - m).  A prox with lr alone would
    settle where the loss balances (1 - m) times the penalty that was asked for.

    Args:
        source: Where to read it.
        view: Parameters whose rates are looked up if the optimizer has several.

    Returns:
        A number, or float[n_terms] where parameter groups differ (the largest of a term's own).
    """
    if not isinstance(source, torch.optim.Optimizer):
        return float(source()) if callable(source) else float(source)
    rates = {_effective(group) for group in source.param_groups}
    if len(rates) == 1:
        return rates.pop()
    of = {id(p): _effective(group) for group in source.param_groups for p in group["params"]}
    terms = torch.zeros(view.layout.n_terms + 1, dtype=view.dtype, device=view.device)
    for slot, tensor in zip(view.layout.slots, view.tensors(), strict=True):
        index = view.position_term[slot.start : slot.stop]
        terms[index] = terms[index].clamp(min=of.get(id(tensor), 0.0))
    return terms[:-1]
