"""Learning rates as pure functions of the step: a run that is continued needs no state for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from fxprune.training.recipe.schema import Phase

__all__ = ["make_optimizer", "rate", "set_rate"]

_SHAPES: Mapping[str, Callable[[float, Phase], float]] = {
    "constant": lambda _done, _phase: 1.0,
    "cosine": lambda done, phase: phase.final + (1 - phase.final) * (1 + math.cos(math.pi * done)) / 2,
    "step": lambda done, phase: phase.gamma ** sum(done >= m for m in phase.milestones),
}


def rate(phase: Phase, step: int, steps: int, per_epoch: int) -> float:
    """The learning rate of a step.

    Args:
        phase: Schedule and its numbers.
        step: From 0.
        steps: Of the whole phase.
        per_epoch: Steps in an epoch; the warm-up is in epochs, and at most half the phase.

    Example:
        >>> phase = Phase(lr=1.0, schedule="cosine", warmup=1)
        >>> [round(rate(phase, step, 10, 2), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    warmup = min(round(phase.warmup * per_epoch), steps // 2)
    if step < warmup:
        return phase.lr * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return phase.lr * _SHAPES[phase.schedule](done, phase)


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give all parameters one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value


def _sgd(model: nn.Module, phase: Phase) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        phase.lr,
        momentum=phase.momentum,
        nesterov=phase.nesterov,
        weight_decay=phase.weight_decay,
    )


def _adamw(model: nn.Module, phase: Phase) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], phase.lr, weight_decay=phase.weight_decay
    )


_OPTIMIZERS: Mapping[str, Callable[[nn.Module, Phase], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}


def make_optimizer(model: nn.Module, phase: Phase) -> torch.optim.Optimizer:
    """The optimizer a phase asks for, over all parameters that train."""
    return _OPTIMIZERS[phase.optimizer](model, phase)
