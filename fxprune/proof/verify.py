"""Verify: prove a slim model right, as a gate and not as a warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from fxprune.errors import VerificationError
from fxprune.graph.live import liven
from fxprune.graph.trace import ExampleInputs, Trace, call_arguments
from fxprune.graph.trace import trace as _trace
from fxprune.models.conditions import private
from fxprune.models.distance import Limits
from fxprune.models.wrapped import unwrapped
from fxprune.plans import Plan
from fxprune.proof.compare import BOTH, Case, Measured, OracleName, Removal
from fxprune.proof.evidence import Proof
from fxprune.proof.masks.runs import Sample
from fxprune.proof.samples import another_batch, in_batches, random_like
from fxprune.resizing.resolve import expect
from fxprune.slimming.slim import slim as _slim
from fxprune.support.source_lines import source_of
from fxprune.support.words import headline

__all__ = ["verify"]

# What a run may raise where a model insists on its own types; the comparison is then made in float32.
TYPE_ERRORS = (RuntimeError, TypeError, NotImplementedError)


def verify(
    trace: Trace,
    plan: Plan,
    slim: nn.Module,
    *,
    inputs: ExampleInputs | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    oracles: Sequence[OracleName] = BOTH,
) -> Proof:
    """Check that a slim model computes what the dense one computes without the units that go.

    Two oracles say what is to be expected, and neither may disagree with the slim model.  ``"graph"`` runs the
    traced graph with the dead units zeroed wherever a contraction reads them; statistics that would notice
    zeros are taken over what is left (models that had to be recorded are run with the consumers' input slices
    zeroed).  ``"masks"`` runs the user's own dense module with a mask beside every tensor, knows the plan but
    none of the rules that made the slim model, and leaves unjudged what its laws do not cover.

    Both models run in float64 where they can, on the example inputs and on random ones, with equal random
    numbers; private copies run, so neither the models nor the inputs change.  Beside a forward pass of the
    dense model in float64 as the unit, an input costs one for the dense model, one or two for the graph oracle
    and about three for the mask oracle (2.4 to 3.0 on ResNet-50, DenseNet-121 and EfficientNet-B0), which holds one
    byte more for every real number.

    Several threads may verify at once, and nothing of the process changes for others; a model must not be
    trained by one thread while another one compares it.

    Args:
        trace: The trace of the dense model, with the weights that were sliced.
        plan: The plan.
        slim: What ``fxprune.slim`` made, not trained since.
        inputs: Other inputs to compare on.
        tolerance: Largest ``Proof.error`` allowed; by default 1e-8 in float64 and 1e-4 in float32.
        seed: Of the random inputs.
        oracles: Which oracles are asked.

    Returns:
        The measured differences, and who judged which share.

    Raises:
        VerificationError: They differ, shapes included, or there is nothing to compare with.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> t = fxprune.trace(net, torch.zeros(1, 6))
        >>> p = fxprune.plan(t, fxprune.Budget(channels=0.5))
        >>> proof = fxprune.verify(t, p, fxprune.slim(t, p))
        >>> proof.error < 1e-12, proof.judged
        (True, {'graph': 1.0, 'masks': 1.0})
    """
    expect(trace, plan)
    slim = unwrapped(slim)
    if not oracles or not set(oracles) <= set(BOTH):
        raise VerificationError(f"oracles are some of {', '.join(BOTH)}, not {oracles!r}")
    if any(p.device.type == "meta" for p in trace.model.parameters()):
        raise VerificationError("the model has no numbers to compare", advice="load its weights first")
    what = Removal.of(trace, plan, oracles)
    given = call_arguments(inputs) if inputs is not None else (trace.args, dict(trace.kwargs))
    samples: list[Sample] = [given]
    if trace.kind == "export":
        samples.append(random_like(another_batch(given) if trace.dynamic_batch else given, seed))
    if what.analysis.counts_samples:
        samples = [part for sample in samples for part in in_batches(sample, trace.batch)]
    measured, dtype = _measured(what, slim, samples, tolerance)
    if all(m.flat for m in measured):
        return _on_live_copy(trace, plan, slim, tolerance, seed, oracles)
    proof = _proof(what, measured, Limits.of(dtype, tolerance), dtype, len(samples))
    _gate(proof, measured, what)
    return proof


def _measured(
    what: Removal, slim: nn.Module, samples: Sequence[Sample], tolerance: float | None
) -> tuple[list[Measured], torch.dtype]:
    """Every comparison in float64, or in float32 where a model insists on its own types."""
    for dtype in (torch.float64, torch.float32):
        limits = Limits.of(dtype, tolerance)
        try:
            measured = [m for s in samples for m in Case(what, slim, s, dtype, limits).measured()]
        except TYPE_ERRORS as error:
            last: Exception = error
            continue
        if any(m.judged for m in measured) or dtype == torch.float32:
            return measured, dtype
    raise VerificationError(
        f"the comparison of dense and slim model does not run: {headline(last)}",
        source=source_of(last),
        advice="was it changed after slim()? If not, check the inputs",
    ) from last


def _proof(
    what: Removal, measured: Sequence[Measured], limits: Limits, dtype: torch.dtype, inputs: int
) -> Proof:
    """What all comparisons say together."""
    by = {o: [m for m in measured if m.oracle == o] for o in what.oracles}
    reasons = dict.fromkeys(r for m in measured for r in m.unjudged)
    return Proof(
        error=max(m.error for m in measured),
        tolerance=limits.tolerance,
        dtype=str(dtype).removeprefix("torch."),
        effect=max(m.effect for m in measured),
        inexact=what.inexact,
        inexact_difference=max(m.zeroed for m in measured),
        units=int((~what.resolution.keep).sum()),
        inputs=inputs,
        livened=False,
        structures=len(what.plan.removed),
        crops=len(what.plan.crops),
        judged={o: min(m.judged for m in those) for o, those in by.items()},
        unjudged="; ".join(reasons),
    )


def _gate(proof: Proof, measured: Sequence[Measured], what: Removal) -> None:
    worst = max(measured, key=lambda m: m.error)
    if not proof.error <= proof.tolerance:
        raise VerificationError(
            f"the slim model differs from {_EXPECTED[worst.oracle]} by {proof.error:.3g} of what the removal does "
            f"(allowed {proof.tolerance:g}) in {proof.dtype}" + (f": {worst.fault}" if worst.fault else ""),
            advice="was it trained or changed after slim()? If not, this is a bug of fxprune: please report the model",
        )
    if proof.units and not any(proof.judged.values()):
        raise VerificationError(
            f"nothing of the slim model could be judged: {proof.unjudged}",
            advice="protect what the named operators read, or give other inputs",
        )


_EXPECTED = {"graph": "the zeroed dense model", "masks": "the dense model under masks"}


def _on_live_copy(
    trace: Trace,
    plan: Plan,
    slim: nn.Module,
    tolerance: float | None,
    seed: int,
    oracles: Sequence[OracleName],
) -> Proof:
    """Prove the plan on random weights where the model's own output is constant zero."""
    kind = str(getattr(slim, "fxprune_kind", "module"))
    inputs: ExampleInputs = dict(trace.kwargs) if trace.kwargs else trace.args
    model = liven(private(trace.model), inputs, seed=seed)
    live = _trace(model, inputs)
    small = _slim(live, plan, kind="graph" if kind == "graph" else "module")
    what = Removal.of(live, plan, oracles)
    measured, dtype = _measured(what, small, [(live.args, live.kwargs)], tolerance)
    if all(m.flat for m in measured):
        raise VerificationError(
            "the model's output is zero whatever its weights: nothing can be compared",
            advice="give example inputs that produce an output",
        )
    proof = replace(_proof(what, measured, Limits.of(dtype, tolerance), dtype, 1), livened=True)
    _gate(proof, measured, what)
    return proof
