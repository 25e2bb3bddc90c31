"""Slim models renewed before they are trained: statistics of batch norm, weights solved for, or all of them from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import nn

from fxprune.graph.trace import Trace, trace
from fxprune.models.loading import load_model
from fxprune.plans import Plan
from fxprune.recovery.recover import Recovery, run_recovery
from fxprune.report.steps import Watcher
from fxprune.slimming.slim import slim
from fxprune.training.recipe.schema import Augment
from fxprune.training.session import RunSession, seed_everything

__all__ = ["fresh", "recalibrate", "recovered"]

_SCRATCH = 3  # random numbers of new weights


@torch.no_grad()
def recalibrate(session: RunSession, model: nn.Module, batches: int) -> None:
    """Renew running means and variances of batch norm as plain averages over training batches."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    dtype = next(model.parameters()).dtype
    drawn = session.training()
    for images, _ in drawn.training(0, 0, min(batches, drawn.per_epoch), session.recipe.data.augment):
        model(images.to(dtype))
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def recovered(session: RunSession, traced: Trace, plan: Plan, small: nn.Module, watcher: Watcher) -> Recovery:
    """Solve for a slim model's weights on training images as they are, the same ones on every process."""
    recipe, alone = session.recipe, replace(session.training(), rank=0, world=1)
    steps = min(-(-recipe.finetune.recover // alone.size), alone.per_epoch)
    drawn = (images.cpu() for images, _ in alone.training(0, 0, steps, Augment()))
    with watcher.step("recover") as ticks:
        recovery = run_recovery(
            traced, plan, small, drawn, samples=recipe.finetune.recover, seed=recipe.seed, progress=ticks.tick
        )
        ticks.note(str(recovery))
    return recovery


def fresh(session: RunSession, plan: Plan, small: nn.Module) -> nn.Module:
    """The slim shape with new random weights.

    Modules that can start anew do; a graph, or a model with other parameters, gets slices of a dense model
    that its factory has just made.
    """
    seed_everything(session.recipe.seed, _SCRATCH)
    resettable = [m for m in small.modules() if any(True for _ in m.parameters(recurse=False))]
    if small.fxprune_kind == "module" and all(hasattr(m, "reset_parameters") for m in resettable):
        for module in resettable:
            cast(Callable[[], None], module.reset_parameters)()
        return small
    loaded = load_model(session.recipe.model, arguments=session.opened.arguments)
    if loaded.pretrained:
        raise session.file.error(
            "finetune.start",
            f"{session.recipe.model} comes with trained weights: nothing is left to start from scratch with",
            advice="name the model without its weights, and give those as weights:",
        )
    kind: Literal["module", "graph"] = "graph" if small.fxprune_kind == "graph" else "module"
    return slim(trace(loaded.model, session.example), plan, kind=kind)
