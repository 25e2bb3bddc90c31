"""The loop over steps, the same for every phase, device and number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.errors import FxpruneError
from fxprune.regularizers import Regularizer
from fxprune.report.steps import Ticks
from fxprune.training.data.batches import Batches
from fxprune.training.recipe.schema import Augment, Distill, Phase
from fxprune.training.schedule import rate, set_rate
from fxprune.training.team import Team

__all__ = ["Job", "evaluate", "run_steps"]

_SHOW_S = 0.5
# How often several processes or a GPU are asked whether the loss is still a number: asking waits for them.
_CHECK_STEPS = 10


@dataclass(frozen=True, eq=False)
class Job:
    """What a phase trains, and on what.

    Attributes:
        name: For messages.
        number: Of the phase; random numbers depend on it.
        team: The processes.
        model: As ``Team.spread`` made it.
        optimizer: Of its parameters.
        phase: Schedule and loss.
        batches: Of the training images.
        augment: What is done to them.
        steps: Of the whole phase.
        method: The regularizer, if one acts.
        teacher: The dense model, if the phase distils.
        after: Is told how many steps are done, after each.
        advice: What to say where training fails: which checkpoint is good.
    """

    name: str
    number: int
    team: Team
    model: nn.Module
    optimizer: torch.optim.Optimizer
    phase: Phase
    batches: Batches
    augment: Augment
    steps: int
    method: Regularizer | None = None
    teacher: nn.Module | None = None
    after: Callable[[int], None] = lambda _step: None
    advice: Callable[[], str] = field(default=str)


def run_steps(job: Job, *, first: int, save: Callable[[int], None], every: int, ticks: Ticks) -> None:
    """Train from one step to the end of a phase.

    Args:
        job: What to train.
        first: Steps that are done already.
        save: Is told how many steps are done, every so often and at the end.
        every: Steps between calls of ``save``.
        ticks: Shows what is going on.

    Raises:
        FxpruneError: The loss is no number any more; what was saved stays as it is.
    """
    job.model.train()
    watch = _Watch(job, first)
    for step, (inputs, labels) in enumerate(
        job.batches.training(job.number, first, job.steps, job.augment), start=first
    ):
        set_rate(job.optimizer, rate(job.phase, step, job.steps, job.batches.per_epoch))
        loss, right = _step(job, inputs, labels)
        watch.add(step + 1, loss, right, len(labels))
        job.after(step + 1)
        due = (step + 1) % every == 0 or step + 1 == job.steps
        watch.check(step + 1, must=due)
        watch.show(step + 1, ticks)
        if due:
            save(step + 1)


def _step(job: Job, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One step; returns the loss without penalty, and how many images were named rightly (NaN: nobody looked)."""
    job.optimizer.zero_grad(set_to_none=True)
    inputs = inputs.to(next(job.model.parameters()).dtype)
    loss, right = _loss(job, inputs, labels)
    whole = loss if job.method is None else loss + job.method.penalty()
    job.team.backward(whole)
    if job.phase.clip is not None:
        job.team.clip(job.model, job.phase.clip)
    job.optimizer.step()
    if job.method is not None and job.team.stepped(job.optimizer):
        job.method.step()
    return loss.detach(), right


def _loss(job: Job, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    objective = None if job.method is None else job.method.objective
    if objective is not None:
        with job.team.autocast():
            return objective(inputs).float(), torch.full((), math.nan, device=labels.device)
    with job.team.autocast():
        logits = job.model(inputs)
    logits = _precise(logits)
    loss = F.cross_entropy(logits, labels, label_smoothing=job.phase.label_smoothing)
    if job.phase.distill is not None and job.teacher is not None:
        with torch.no_grad(), job.team.autocast():
            target = _precise(job.teacher(inputs))
        loss = _distilled(loss, logits, target, job.phase.distill)
    return loss, (logits.detach().argmax(1) == labels).sum()


def _precise(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _distilled(loss: Tensor, logits: Tensor, target: Tensor, how: Distill) -> Tensor:
    """``(1 - w) loss + w T^2 KL(target / T || logits / T)``, Hinton et al. 2015."""
    T = how.temperature
    ours, theirs = F.log_softmax(logits / T, 1), F.log_softmax(target / T, 1)
    apart = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return (1 - how.weight) * loss + how.weight * T * T * apart


class _Watch:
    """Keeps an eye on the loss without waiting for the device at every step."""

    def __init__(self, job: Job, first: int) -> None:
        self._job = job
        self._sums = torch.zeros(3, dtype=torch.float64, device=job.team.device)
        self._steps = 0
        self._shown = 0.0
        self._loss = torch.zeros(())
        self._quick = job.team.device.type == "cpu" and job.team.world == 1
        self._began, self._first = time.monotonic(), first

    def add(self, step: int, loss: Tensor, right: Tensor, images: int) -> None:
        """Count a step."""
        del step
        self._sums += torch.stack(
            [loss.double(), right.double(), torch.tensor(float(images)).to(loss.device)]
        )
        self._steps += 1
        self._loss = loss

    def check(self, step: int, *, must: bool) -> None:
        """Stop where the loss is no number."""
        if not (must or self._quick or step % _CHECK_STEPS == 0):
            return
        # Summed, so that all processes stop at the same step.
        loss = float(self._job.team.total(self._loss.double())) / self._job.team.world
        if not math.isfinite(loss):
            per_epoch = self._job.batches.per_epoch
            raise FxpruneError(
                f"the loss became {loss} at step {step} of the {self._job.name} phase "
                f"(epoch {-(-step // per_epoch)}, learning rate {self._job.optimizer.param_groups[0]['lr']:.3g})",
                advice=f"lower the learning rate or add warm-up; {self._job.advice()}",
            )

    def show(self, step: int, ticks: Ticks) -> None:
        """Say what is going on, twice a second."""
        now = time.monotonic()
        if now - self._shown < _SHOW_S and step < self._job.steps:
            return
        self._shown = now
        if not self._job.team.main:
            return
        loss, right, images = self._sums.tolist()
        per_epoch = self._job.batches.per_epoch
        pace = (now - self._began) / max(step - self._first, 1)
        words = [f"epoch {-(-step // per_epoch)}/{-(-self._job.steps // per_epoch)}"]
        words += [f"loss {loss / max(self._steps, 1):.3f}"]
        words += [f"acc {100 * right / max(images, 1):.1f} %"] if math.isfinite(right) else []
        words += [f"{1e3 * pace:.0f} ms/step"]
        method = self._job.method
        # The report of sharded parameters is a sum over processes: they would all have to ask.
        if method is not None and not self._job.team.sharded:
            report = method.report()
            words += [
                f"zero {100 * report.zero_share:.0f} %",
                f"method {100 * report.overhead:.1f} % of a step",
            ]
        ticks.tick(step, self._job.steps, ", ".join(words))
        self._sums.zero_()
        self._steps = 0


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, team: Team) -> float:
    """Share of images that a model names rightly, over all processes; every process has to ask.

    In the precision of the weights, whatever training runs in.
    """
    was = model.training
    model.eval()
    dtype = next(model.parameters()).dtype
    counts = torch.zeros(2, dtype=torch.float64, device=team.device)
    for inputs, labels, real in batches.evaluation():
        right = model(inputs.to(dtype)).argmax(1) == labels
        counts += torch.stack([(right & real).sum(), real.sum()])
    model.train(was)
    right_, images = team.total(counts).tolist()
    return float(right_ / images)
