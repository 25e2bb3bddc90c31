"""The ``sparse`` and ``finetune`` sections of a recipe: schedules, losses, steering."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import annotated_types
from pydantic import AfterValidator, model_validator

from fxprune.training.recipe.sections import Count, Kept, NotNegative, Positive, Section, Share, Switch

__all__ = ["Distill", "Epochs", "Finetune", "Phase", "Sparse", "Steer"]

_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")


def _epochs(value: float | str) -> float | str:
    if isinstance(value, str) and not _PERCENT.fullmatch(value):
        raise ValueError("neither a number of epochs nor a percentage such as 40 %")
    if isinstance(value, str) and float(value.rstrip(" %")) > 100:
        raise ValueError("more than all epochs")
    if isinstance(value, (int, float)) and value < 0:
        raise ValueError("a phase cannot have less than no epochs")
    return value


Epochs = Annotated[
    Annotated[int, annotated_types.Le(2**31)] | Annotated[float, annotated_types.Le(2**31)] | str,
    AfterValidator(_epochs),
]


class Distill(Section):
    """Learn from the dense model as well.

    Attributes:
        weight: Share of the loss that is its; the rest is the labels'.
        temperature: Divides both models' logits.
    """

    weight: Annotated[float, annotated_types.Gt(0), annotated_types.Le(1)] = 0.5
    temperature: Positive = 4.0


class Phase(Section):
    """Epochs of training under one schedule.

    Attributes:
        epochs: Passes over the training images, also a part of one; ``40 %`` is a share of the recipe's ``epochs``.
        lr: Learning rate at its highest.
        schedule: ``constant``; ``cosine`` down to ``final``; ``step``: times ``gamma`` at each milestone.
        milestones: Shares of the phase.
        gamma: For ``step``.
        final: For ``cosine``, as a share of ``lr``.
        warmup: Epochs in which the rate rises linearly from 0.
        optimizer: ``sgd`` or ``adamw``.
        momentum: Of SGD.
        nesterov: Of SGD.
        weight_decay: Of every parameter.
        label_smoothing: Of the cross entropy.
        clip: Largest norm of the gradient; None does not clip.
        distill: Learn from the dense model; None from the labels alone.
    """

    epochs: Epochs = 0
    lr: Positive = 0.01
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[Annotated[float, annotated_types.Gt(0), annotated_types.Lt(1)], ...] = (0.5, 0.75)
    gamma: Positive = 0.1
    final: Share = 0.0
    warmup: NotNegative = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-4
    label_smoothing: Share = 0.0
    clip: Positive | None = None
    distill: Distill | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Phase:
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} do not increase")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        return self


class Steer(Section):
    """How the strength of a method follows the budget; see ``fxprune.training.steering``.

    Attributes:
        until: Share of the phase after which the method's own decision should meet the budget; where it does not,
            the budget is spent then.
        every: Steps between corrections; rounded up to whole periods of the method.
        gain: Logarithm of the strength where nothing has gone by then.
    """

    until: Kept = 0.8
    every: Count = 10
    gain: Positive = 2.0


class Sparse(Phase):
    """Training under the method.

    Attributes:
        steer: Adapt the method's strength so that its own decision meets the budget; for methods whose
            decision depends on a strength.
    """

    steer: Annotated[Steer | None, Switch] = None


class Finetune(Phase):
    """Training of the slim model.

    Attributes:
        start: ``pruned`` weights, or ``scratch``: the slim shape with new random weights.
        recalibrate: Training batches that renew the statistics of batch norm before the first step.
        recover: Training images, without their labels, on which the pruned weights are solved for before the first step
            (``fxprune.recover``).
        ema: Decay of a running average of weights and statistics, which is what is evaluated and written; None takes the weights
            of the last step.  Early steps count less: after n of them the decay is (1 + n) / (10 + n) at most.
    """

    start: Literal["pruned", "scratch"] = "pruned"
    recalibrate: Annotated[int, annotated_types.Ge(0)] = 0
    recover: Annotated[int, annotated_types.Ge(0)] = 0
    ema: Annotated[float, annotated_types.Gt(0), annotated_types.Lt(1)] | None = None
