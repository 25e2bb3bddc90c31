"""Try a probe: remove arbitrary channels again and again, and say what came of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fxprune.coupling.cost import measure
from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.graph.live import liven
from fxprune.graph.trace import Trace, call_arguments, trace
from fxprune.planning.plan import plan_units, remove
from fxprune.plans import Plan
from fxprune.proof.verify import verify
from fxprune.slimming.slim import slim
from fxprune.testing.probes.base import Example, Probe

__all__ = ["EXACT", "Outcome", "disagreement", "examine", "prepared", "subsets", "without_removed"]

EXACT = 1e-10
"""Largest relative difference in float64 that rounding explains: these nets are a few layers deep, so
products of some hundred terms lose three or four of the sixteen digits."""


NOTICEABLE = 1e-4
"""Least effect of a removal on the output: live weights make every channel matter far more than this,
and far more than float64 rounding (1e-10), so agreement cannot come from dead channels."""


@dataclass(frozen=True)
class Outcome:
    """What came of removing channels.

    Attributes:
        verdict: As ``Probe.verdict``, or ``"wrong"``.
        error: Largest relative difference between slim and zeroed dense model.
        free: Channels that may go.
        units: Units these form.
        whys: Reasons of refusals.
        effect: Largest effect of a removal on the output.
        done: Plans that were carried out.
        refused: Plans that were refused.
    """

    verdict: str
    error: float
    free: int
    units: int
    whys: tuple[str, ...]
    effect: float
    done: int
    refused: int


@cache
def prepared(probe: Probe, seed: int = 0) -> tuple[Trace, Example]:
    """The probe's network with live weights, traced."""
    torch.manual_seed(seed)
    model, example = probe.build()
    liven(model, example, seed=seed)
    return trace(model, example), example


def without_removed(model: nn.Module, kept: Mapping[tuple[str, int], tuple[int, ...]]) -> nn.Module:
    """A dense copy in which every slice of a parameter that the plan removes is zero.

    Knows nothing of rules or labels, only the plan: an oracle that shares no code with the engine.
    """
    clone = copy.deepcopy(model).double().eval()
    tensors = dict(clone.named_parameters())
    for (name, dim), index in kept.items():
        if name in tensors:
            dead = sorted(set(range(tensors[name].shape[dim])) - set(index))
            tensors[name].data.index_fill_(dim, torch.tensor(dead), 0.0)
    return clone


def distance(one: object, two: object) -> float:
    """Largest difference of two outputs relative to the largest entry."""
    assert isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor)
    assert one.shape == two.shape, f"{tuple(one.shape)} is not {tuple(two.shape)}"
    return float((one - two).abs().max() / one.abs().max().clamp_min(1e-300))


def run(model: nn.Module, example: Example) -> object:
    """The model's output in float64 and evaluation mode."""
    args, kwargs = call_arguments(example)
    args, kwargs = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, (args, kwargs)
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    finally:
        torch.set_default_dtype(before)


def subsets(probe: Probe, traced: Trace, draws: int, seed: int) -> list[np.ndarray]:
    """Random subsets of the channels that may go, whole units each, never all of them."""
    coupling = analyse(traced).coupling
    units = coupling.axes[probe.axis]
    free = np.unique(units[~coupling.pinned[units]])
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        count = rng.integers(1, max(len(free), 2))
        keep = np.ones(coupling.n_units, bool)
        keep[rng.choice(free, count, replace=False)] = False
        # Only what is asked for is random: a layer that would be emptied keeps one of its channels.
        for at in coupling.axes.values():
            if not keep[at].any():
                keep[rng.choice(at)] = True
        drawn.append(np.flatnonzero(~keep[units]))
    return drawn


def rectangles(probe: Probe, traced: Trace, draws: int, seed: int) -> list[Plan]:
    """Plans that respect the layouts: whole rows of a block, or equally many cells of every row."""
    coupling = analyse(traced).coupling
    units = set(coupling.axes[probe.axis].tolist())
    rng = np.random.default_rng(seed)
    plans = []
    for k in range(draws):
        for block in coupling.blocks:
            if not units & set(block.cells.ravel().tolist()) or coupling.pinned[block.cells].all():
                continue
            keep = np.ones(coupling.n_units, bool)
            h, d = block.cells.shape
            if k % 2 == 0 and h > 1:
                keep[block.cells[rng.choice(h, rng.integers(1, h), replace=False)]] = False
            elif block.columns is not None:
                keep[block.cells[:, rng.choice(d, rng.integers(1, d), replace=False)]] = False
            else:
                count = rng.integers(1, d)
                for row in block.cells:
                    keep[rng.choice(row, count, replace=False)] = False
            try:
                plans.append(plan_units(traced, keep))
            except PlanError:
                continue
    return plans


def _batched(
    inputs: tuple[tuple[object, ...], dict[str, object]], traced: Trace
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Inputs of the batch that the trace counts costs for: what is computed once a run is shared by its samples."""
    args, kwargs = inputs
    first = next(t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
    if not traced.dynamic_batch or first.shape[0] == traced.batch:
        return args, kwargs
    doubled = tree_map_only(torch.Tensor, lambda t: torch.cat([t] * traced.batch), (args, kwargs))
    return doubled[0], doubled[1]


def examine(probe: Probe, *, draws: int = 3, seed: int = 0) -> Outcome:
    """Remove random subsets of the probe's channels and compare with the dense model."""
    traced, example = prepared(probe, seed)
    coupling = analyse(traced).coupling
    units = coupling.axes[probe.axis]
    free = ~coupling.pinned[units]
    whys = [str(g.pinned) for g in coupling.groups if g.pinned is not None and probe.axis in g.indices]
    exact = all(g.exact for g in coupling.groups if probe.axis in g.indices and g.pinned is None)
    plans: list[Plan] = []
    refused = 0
    if free.any():
        for gone in subsets(probe, traced, draws, seed):
            try:
                plan = remove(traced, {probe.axis: gone.tolist()})
            except PlanError as error:
                # That a part of a split would vanish has nothing to do with which channels were drawn.
                if "emptied" not in str(error):
                    whys.append(str(error))
                    refused += 1
                continue
            if not len(gone):
                continue
            assert not set(plan.kept[probe.axis]) & set(gone.tolist()), "what was asked is still there"
            plans.append(plan)
        if refused:
            plans += rectangles(probe, traced, 2, seed)
    gap = effect = 0.0
    for plan in plans:
        for kind in ("auto", "graph"):
            small = slim(traced, plan, kind=kind)
            proof = verify(traced, plan, small, tolerance=1e9)
            gap, effect = max(gap, proof.error), max(effect, proof.effect)
            # Batch sizes that are traced as any size are two at least.
            args, kwargs = _batched(call_arguments(example), traced)
            cost = measure(small.eval(), args, kwargs)
            assert cost == plan.predicted, f"{cost} measured, {plan.predicted} predicted"
            if exact and probe.zero:
                zeroed = run(without_removed(traced.model, plan.kept), example)
                gap = max(gap, distance(zeroed, run(small.double(), example)))
    verdict = "pinned" if not free.any() else "blocks" if refused else "exact"
    if not exact and verdict != "pinned":
        verdict = "inexact"
    if gap > EXACT:
        verdict = "wrong"
    return Outcome(
        verdict, gap, int(free.sum()), len(np.unique(units[free])), tuple(whys), effect, len(plans), refused
    )


def disagreement(probe: Probe, outcome: Outcome) -> str:
    """What came of a probe that is not in its row of the table; empty if all is as expected."""
    expected = probe.verdict, probe.free, probe.units
    if (outcome.verdict, outcome.free, outcome.units) != expected or outcome.error > EXACT:
        return f"expected {probe.verdict}, {probe.free} channels in {probe.units} units, got {outcome}"
    if probe.why and not any(probe.why in why for why in outcome.whys):
        return f"nobody says '{probe.why}': {outcome.whys}"
    if probe.verdict == "pinned":
        return "" if outcome.whys else "refused without a reason"
    if not outcome.done:
        return "nothing was removed"
    if outcome.effect <= NOTICEABLE:
        return f"what was removed matters only {outcome.effect:.0e}: agreement proves nothing"
    return ""
