"""Recover: weights of a slim model that make up for what was removed, without labels and without training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import fx, nn

from fxprune.coupling.couple import analyse
from fxprune.errors import FxpruneError
from fxprune.graph.trace import Trace
from fxprune.graph.values import Calls
from fxprune.models.wrapped import unwrapped
from fxprune.plans import Plan
from fxprune.recovery.calibration import PARTS, Calibration, gathered
from fxprune.recovery.held import Held
from fxprune.recovery.lockstep import Lockstep
from fxprune.recovery.visit import RecoveredLayer, Tell, Visit
from fxprune.resizing.resolve import expect, keep_mask, resolve
from fxprune.slimming.crop import crop_calls
from fxprune.slimming.graph_copy import Parts
from fxprune.structures.cut import cut
from fxprune.support.briefly import brief
from fxprune.support.process import untouched_random_state

__all__ = ["RecoveredLayer", "Recovery", "recover", "run_recovery"]

GIB = 1 << 30


@brief
@dataclass(frozen=True)
class Recovery:
    """What ``recover`` did.

    Attributes:
        layers: Every layer behind a cut.
        before: Error of the slim model's outputs before, relative to the spread of the dense model's, on samples
            that were held out.
        after: The same afterwards.
        samples: Samples that were learnt from.
        held_out: Samples that layers and outputs were judged by.
        seconds: Wall time.
        peak: Most bytes that activations took.
        notes: What a reader should know.
    """

    layers: tuple[RecoveredLayer, ...]
    before: float
    after: float
    samples: int
    held_out: int
    seconds: float
    peak: int
    notes: tuple[str, ...] = ()

    @property
    def solved(self) -> int:
        """Layers with new weights."""
        return sum(not layer.kept for layer in self.layers)

    def as_json(self) -> dict[str, object]:
        """Plain values, for JSON: numbers that are none are None."""
        layers = [{k: None if v != v else v for k, v in asdict(layer).items()} for layer in self.layers]
        return {**asdict(self), "layers": layers, "notes": list(self.notes)}

    def __str__(self) -> str:
        return (
            f"{self.solved} of {len(self.layers)} layers behind a cut solved for on {self.samples} samples in "
            f"{self.seconds:.1f} s; output error on {self.held_out} others {self.before:.3f} -> {self.after:.3f}"
        )


def recover(
    trace: Trace,
    plan: Plan,
    slim: nn.Module,
    data: Iterable[object],
    *,
    samples: int = 512,
    max_memory: int = 4 * GIB,
    seed: int = 0,
    progress: Tell | None = None,
) -> nn.Module:
    """Solve for the weights of a slim model so that its layers give what the dense model's give, in place.

    No labels are needed, and nothing is trained.  The dense and the slim model run side by side, operator by operator.
    At each convolution, linear layer and product with a weight behind a cut the slim weights become those of a ridge
    regression of the dense output on the *slim* model's own inputs, so that a layer also makes up for what those before it
    could not; a layer whose result is added to another value fits what that one is off by as well; keys fit the
    logits where inner channels of heads are gone.  Batch norm
    takes the statistics of what it reads now, and keeps its function, so that training and evaluation agree.  A layer keeps its slice
    where the solution is no better on samples that were held out, and the whole model does where its outputs
    are no better.

    ``fxprune.verify`` is for the slim model as it was sliced: afterwards it computes something else, on purpose.

    Args:
        trace: The trace of the dense model, with the weights that were sliced.
        plan: The plan.
        slim: What ``fxprune.slim`` made of both; its weights, biases and statistics change.
        data: Batches as the model is called with, labels may follow them in a tuple; or one tensor.
        samples: Samples to use at most; one in eight is held out.
        max_memory: Bytes that activations of both models may take; fewer samples are used where they would take more.
            Beside them each layer takes 30 bytes for every pair of its inputs.
        seed: Of the positions that are drawn in large feature maps.
        progress: Told how far it is.

    Returns:
        The same slim model; its ``.fxprune_recovery`` says what was done, layer by layer.

    Raises:
        PlanError: The plan was made for another model.
        FxpruneError: The slim model is none of this plan, the data do not fit, or the model's control flow depends
            on its data.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
        >>> t = fxprune.trace(net, torch.zeros(2, 6))
        >>> p = fxprune.plan(t, fxprune.Budget(channels=0.5))
        >>> small = fxprune.slim(t, p)
        >>> small = fxprune.recover(t, p, small, torch.randn(256, 6))
        >>> report = small.fxprune_recovery
        >>> report.after < report.before, report.layers[0].name
        (True, '2.weight')

    References:
        He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1: the regression.
        Deviations: a ridge towards the slice, the slim model's own inputs, targets that correct sums, a held-out
        part that decides.
    """
    recovery = run_recovery(
        trace, plan, slim, data, samples=samples, max_memory=max_memory, seed=seed, progress=progress
    )
    slim.fxprune_recovery = recovery  # type: ignore[assignment]
    return slim


def run_recovery(
    trace: Trace,
    plan: Plan,
    slim: nn.Module,
    data: Iterable[object],
    *,
    samples: int = 512,
    max_memory: int = 4 * GIB,
    seed: int = 0,
    progress: Tell | None = None,
) -> Recovery:
    """``recover``, for callers who want to know what was done."""
    expect(trace, plan)
    slim = unwrapped(slim)
    began = time.monotonic()
    if trace.kind == "recorded":
        raise FxpruneError(
            "recovery needs a graph that runs, and this model's control flow depends on its data",
            advice=f"recover the part without control flow (a detector's backbone), or fine-tune; {trace.why_static}",
        )
    with torch.no_grad(), untouched_random_state():
        job = _Job.of(trace, plan, slim, seed)
        # Where units repeat from sample to sample, their places hang on how many samples there are.
        fixed = job.step.analysis.counts_samples
        layers = job.run(gathered(trace, data, samples, fixed=fixed), max_memory, progress or _silent)
    return Recovery(layers, *job.errors, *job.used, time.monotonic() - began, job.peak, tuple(job.notes))


def _silent(_done: int, _of: int, _what: str) -> None:
    """Nobody wants to know."""


# --- one run ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Job:
    """A recovery under way.

    Attributes:
        step: Both graphs.
        held: What the slim one reads.
        random: Draws positions.
        errors: Of the outputs, before and after.
        used: Samples that were learnt from, and held out.
        peak: See ``Recovery``.
        notes: See ``Recovery``.
    """

    step: Lockstep
    held: Held
    random: torch.Generator
    errors: tuple[float, float] = (math.nan, math.nan)
    used: tuple[int, int] = (0, 0)
    peak: int = 0
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def of(trace: Trace, plan: Plan, slim: nn.Module, seed: int) -> _Job:
        """Both graphs, with the weights of the slim model as it is now."""
        small = cut(trace, plan.removed)
        analysis = analyse(small)
        resolution = resolve(analysis, keep_mask(analysis, plan))
        made = _cropped(Parts(small, resolution, plan).calls, plan)
        held = Held.of(slim, made, trace.aliases, frozenset(crop.tensor for crop in plan.crops))
        reads = {str(n.target) for n in trace.graph.graph.nodes if n.op == "get_attr"}
        # Buffers may be written into.
        dense = {n: t if isinstance(t := trace.tensor(n), nn.Parameter) else t.clone() for n in reads}
        step = Lockstep(Calls(trace.graph.graph, dense), held.calls, resolution)
        return _Job(step, held, torch.Generator().manual_seed(seed))

    def run(self, data: Calibration, max_memory: int, tell: Tell) -> tuple[RecoveredLayer, ...]:
        """Solve, and write the weights into the slim model where its outputs are better for it."""
        unseen, chunks = self._divided(data, max_memory)
        visit = Visit(self.held, unseen, len(chunks), self.random, tell)
        self.step.run(chunks, visit)
        if fixed := visit.settle():
            self.held.reset(but=fixed)
            visit = Visit(self.held, unseen, len(chunks), self.random, tell, visit.settled)
            self.step.run(chunks, visit)
        self.peak = self.step.peak
        before, after = self.errors[0], self._error(unseen)
        if after < before:
            self.errors = before, after
            self.held.write()
            return visit.layers
        self.errors = before, before
        why = "the model's outputs were no better on unseen samples"
        self.notes.append(f"{why} ({after:.3f}), so every weight stays as it was sliced")
        return tuple(replace(layer, after=layer.before, kept=layer.kept or why) for layer in visit.layers)

    def _divided(self, data: Calibration, max_memory: int) -> tuple[int, list[list[object]]]:
        """How many chunks are held out, and the chunks, those first; as many as fit the memory."""
        chunks = data.chunks()
        unseen = max(1, len(chunks) // PARTS)
        self.step.run(chunks[:unseen])
        self.errors = self._error(unseen), math.nan
        judged = data.count(chunks[:unseen])
        each = max(self.step.peak / judged, 1)
        most = int(max_memory / each)
        if most < data.samples:
            chunks = data.chunks(most)
        if len(chunks) <= unseen:
            raise FxpruneError(
                f"{max_memory / GIB:.2f} GiB do not hold the activations of {unseen + 1} calls of {data.size} samples",
                advice=f"allow {each * data.size * (unseen + 1) / GIB:.2f} GiB (max_memory), or trace on fewer samples",
            )
        if most < data.samples:
            self.notes.append(
                f"{data.count(chunks)} of {data.samples} samples were used: activations of more would take over "
                f"{max_memory / GIB:.2g} GiB"
            )
        self.used = data.count(chunks[unseen:]), judged
        return unseen, chunks

    def _error(self, unseen: int) -> float:
        """Error of the outputs of the run that has just ended, relative to the spread of the dense ones."""
        off = spread = 0.0
        for mine, wanted in zip(self.step.slim.outputs(unseen), self.step.dense.outputs(unseen), strict=True):
            if mine.shape == wanted.shape and wanted.is_floating_point():
                off += float((mine - wanted).double().square().sum())
                spread += float((wanted - wanted.mean(0)).double().square().sum())
        return math.sqrt(off / spread) if spread else math.inf


def _cropped(calls: Calls, plan: Plan) -> Calls:
    if not plan.crops:
        return calls
    graph = fx.Graph()
    graph.output(graph.graph_copy(calls.graph, {}))
    for crop in plan.crops:
        crop_calls(graph, crop)
    return Calls(graph, calls.tensors)
