"""Verify: prove a slim model right, as a gate and not as a warning."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from fxprune.coupling.couple import coupling, flow
from fxprune.errors import VerificationError
from fxprune.graph.live import liven
from fxprune.graph.trace import ExampleInputs, Trace, call_arguments
from fxprune.graph.trace import trace as _trace
from fxprune.labels import varying
from fxprune.models.conditions import Conditions, private, unfused
from fxprune.models.distance import Limits
from fxprune.ops.base import Value
from fxprune.plans import Plan
from fxprune.proof.masks.judging import Comparison, Output, judge
from fxprune.proof.masks.masked import masked_outputs
from fxprune.proof.masks.runs import Sample, everything, jittered, returned, run, typed
from fxprune.proof.oracle import Oracle
from fxprune.resizing.resolve import Resolution, expect, keep_mask, resolve
from fxprune.slimming.crop import outside
from fxprune.slimming.slim import slim as _slim
from fxprune.structures.cut import cut
from fxprune.structures.find import choose_structures
from fxprune.support.source_lines import source_of

__all__ = ["Proof", "verify"]

OracleName = Literal["graph", "masks"]

BOTH: tuple[OracleName, ...] = ("graph", "masks")

# What a run may raise where a model insists on its own types; the comparison is then made in float32.
TYPE_ERRORS = (RuntimeError, TypeError, NotImplementedError)


@dataclass(frozen=True)
class Proof:
    """What was compared and how close it came.

    Attributes:
        error: Largest difference between the slim model and what an oracle expects of it, relative to the effect of
            the removal on the same output channel (at least a thousandth of the channel's largest entry in
            float64); the worst oracle, input, output and channel.
        tolerance: What ``error`` had to stay below.
        dtype: Floating type of the comparison.
        effect: How much the removal changes the output at all, relative; 0 where nothing was
            removed or where what was removed was already zero.
        inexact: Units removed that others see through statistics (layer norm, say).  For them
            the dense model computes those statistics over what is left.
        inexact_difference: How far simply zeroing these units would be from the slim model.
        units: Units removed.
        inputs: Number of inputs compared (the example, and random ones of its shape).
        livened: The comparison ran with random weights because the model's own output is
            constant, as with a zero-initialised head, and would have proved nothing.
        structures: Structures cut whole; the dense model was run with their results multiplied by
            zero and compared with the model that was cut, before anything else was removed.
        crops: Kernels that lost a border; it was zeroed in the dense model.
        judged: For each oracle the share of the outputs' numbers that it could judge: ``"graph"`` zeroes what the
            rules say is dead in the traced graph, ``"masks"`` knows the plan and no rules (``fxprune.proof``).
        unjudged: Why an oracle could not judge the rest.
    """

    error: float
    tolerance: float
    dtype: str
    effect: float
    inexact: int
    inexact_difference: float
    units: int
    inputs: int
    livened: bool
    structures: int = 0
    crops: int = 0
    judged: Mapping[str, float] = field(default_factory=dict)
    unjudged: str = ""

    def to_json(self) -> str:
        """The proof as JSON text."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        note = (
            f", {self.inexact} of them inexact (zeroing alone would differ by {self.inexact_difference:.1e})"
        )
        cuts = f"{self.structures} structures cut, " if self.structures else ""
        cuts += f"{self.crops} kernels cropped, " if self.crops else ""
        return (
            f"zeroed == slim within {self.error:.1e} (limit {self.tolerance:.0e}, {self.dtype}, {self.inputs} inputs); "
            f"{cuts}{self.units} units removed{note if self.inexact else ''}, effect {self.effect:.1e}; {self.evidence()}"
        )

    def evidence(self) -> str:
        """Which oracle judged which share of the outputs, in words.

        Example:
            >>> Proof(0, 1, "float64", 1, 0, 0, 1, 1, False, judged={"graph": 1.0, "masks": 0.5}).evidence()
            'judged by the graph oracle 100 %, by the mask oracle 50 %'
        """
        named = {"graph": "graph", "masks": "mask"}
        shares = ", ".join(
            f"by the {named[oracle]} oracle {100 * share:.3g} %" for oracle, share in self.judged.items()
        )
        return f"judged {shares}" + (f" ({self.unjudged})" if self.unjudged else "")


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
        tolerance: Largest ``Proof.error`` allowed; by default 1e-9 in float64 and 1e-4 in float32.
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
    if not oracles or not set(oracles) <= set(BOTH):
        raise VerificationError(f"oracles are some of {', '.join(BOTH)}, not {oracles!r}")
    if any(p.device.type == "meta" for p in trace.model.parameters()):
        raise VerificationError("the model has no numbers to compare", advice="load its weights first")
    what = _Removal.of(trace, plan, oracles)
    given = call_arguments(inputs) if inputs is not None else (trace.args, dict(trace.kwargs))
    samples: list[Sample] = [given]
    if trace.kind == "export":
        samples.append(_random_like(_another_batch(given) if trace.dynamic_batch else given, seed))
    if _counts_samples(what.trace):
        samples = [part for sample in samples for part in _in_batches(sample, trace.batch)]
    measured, dtype = _measured(what, slim, samples, tolerance)
    if all(m.flat for m in measured):
        return _on_live_copy(trace, plan, slim, tolerance, seed, oracles)
    proof = _proof(what, measured, Limits.of(dtype, tolerance), dtype, len(samples))
    _gate(proof, measured, what)
    return proof


def _measured(
    what: _Removal, slim: nn.Module, samples: Sequence[Sample], tolerance: float | None
) -> tuple[list[_Measured], torch.dtype]:
    """Every comparison in float64, or in float32 where a model insists on its own types."""
    for dtype in (torch.float64, torch.float32):
        limits = Limits.of(dtype, tolerance)
        try:
            found = [m for s in samples for m in _Case(what, slim, s, dtype, limits).measured()]
        except TYPE_ERRORS as error:
            last: Exception = error
            continue
        if any(m.judged for m in found) or dtype == torch.float32:
            return found, dtype
    text = str(last).strip().splitlines() or [type(last).__name__]
    raise VerificationError(
        f"the comparison of dense and slim model does not run: {text[0]}",
        source=source_of(last),
        advice="was it changed after slim()? If not, check the inputs",
    ) from last


def _proof(
    what: _Removal, measured: Sequence[_Measured], limits: Limits, dtype: torch.dtype, inputs: int
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
        units=int((~what.found.keep).sum()),
        inputs=inputs,
        livened=False,
        structures=len(what.plan.removed),
        crops=len(what.plan.crops),
        judged={o: min(m.judged for m in found) for o, found in by.items()},
        unjudged="; ".join(reasons),
    )


def _gate(proof: Proof, measured: Sequence[_Measured], what: _Removal) -> None:
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


@dataclass(frozen=True, eq=False)
class _Removal:
    """What a plan removes: structures first, then units and borders of kernels of the trace that is left.

    Attributes:
        dense: The trace of the model as it is.
        trace: The trace without the structures.
        plan: The plan.
        found: What is left of the trace.
        inexact: Units removed that others see.
        oracles: Who is asked.
    """

    dense: Trace
    trace: Trace
    plan: Plan
    found: Resolution
    inexact: int
    oracles: tuple[OracleName, ...]

    @staticmethod
    def of(trace: Trace, plan: Plan, oracles: Sequence[OracleName]) -> _Removal:
        small = cut(trace, plan.removed)
        found = resolve(small, keep_mask(small, plan))
        coupled = coupling(small)
        exact = np.ones(coupled.n_units, bool)
        for group in coupled.groups:
            if not group.exact:
                exact[group.units] = False
        return _Removal(
            trace, small, plan, found, int((~found.keep & ~exact).sum()), tuple(dict.fromkeys(oracles))
        )


@dataclass(frozen=True)
class _Measured:
    """One oracle on one input; see ``Comparison``.

    Attributes:
        zeroed: How far zeroing alone is from the slim model.
        flat: The dense model returns nothing but zeros and numbers that are none, which prove nothing.
    """

    oracle: OracleName
    error: float
    effect: float
    judged: float
    unjudged: tuple[str, ...] = ()
    fault: str = ""
    zeroed: float = 0.0
    flat: bool = False


@dataclass(frozen=True, eq=False)
class _Case:
    """One comparison: what is removed, on one input, in one floating type."""

    what: _Removal
    slim: nn.Module
    sample: Sample
    dtype: torch.dtype
    limits: Limits

    @property
    def recorded(self) -> bool:
        return self.what.trace.kind == "recorded"

    @property
    def model(self) -> nn.Module:
        """The dense model: the user's own, or what is left of it as a graph where structures are cut."""
        return self.what.trace.model

    @cached_property
    def small(self) -> dict[str, Tensor]:
        return self._run(self.slim)

    @cached_property
    def dense(self) -> dict[str, Tensor]:
        return self._run(self.model)

    def _run(self, model: nn.Module) -> dict[str, Tensor]:
        return run(model, self.sample, self.dtype, everything if self.recorded else returned)

    @cached_property
    def noise(self) -> dict[str, Tensor]:
        return jittered(self.slim, self.sample, self.dtype, everything if self.recorded else returned)

    def measured(self) -> Iterator[_Measured]:
        """Each oracle's word; where structures are cut, also what their cut changes."""
        flat = not any(bool((t.isfinite() & (t != 0)).any()) for t in self.dense.values())
        assert self.small is not None
        for oracle in self.what.oracles:
            yield replace(self._asked(oracle), flat=flat)
        if self.what.trace is not self.what.dense:
            yield self._cut()

    def _asked(self, oracle: OracleName) -> _Measured:
        """What an oracle says, or why it does not."""
        try:
            expected = _ORACLES[oracle](self)
        except Exception as error:  # noqa: BLE001 - an oracle that breaks down has no say
            text = str(error).strip().splitlines() or [""]
            return _Measured(
                oracle,
                0.0,
                0.0,
                0.0,
                (f"the {oracle} oracle does not run: {type(error).__name__}: {text[0][:200]}",),
            )
        found = self._judged(expected)
        zeroed = 0.0
        if oracle == "graph" and self.what.inexact and not self.recorded:
            zeroed = self._judged(self._interpreted(restrict=False)).error
        return _Measured(oracle, found.error, found.effect, found.judged, found.unjudged, found.fault, zeroed)

    def _judged(self, expected: Mapping[str, Output]) -> Comparison:
        return judge(expected, self.dense, self.small, self.limits, lambda: self.noise)

    def masks(self) -> dict[str, Output]:
        """The second oracle."""
        what = self.what
        return masked_outputs(
            self.model,
            what.plan,
            self.sample,
            exact=not what.inexact,
            dtype=self.dtype,
            watch=everything if self.recorded else returned,
        )

    def graph(self) -> dict[str, Output]:
        """The first oracle.

        Units that are said to be exact need no help: then zeros alone must give the same.
        """
        if not self.recorded:
            return self._interpreted(restrict=bool(self.what.inexact))
        if self.what.inexact:
            why = "the graph oracle cannot take statistics of a recorded model over what is left"
            return {n: Output(t, unjudged=why) for n, t in self.small.items()}
        if _reads_without_weight(self.what):
            why = "the graph oracle zeroes weights of a recorded model, and one of its operators reads without any"
            return {n: Output(t, unjudged=why) for n, t in self.small.items()}
        found = self._run(_zeroed_copy(self.what))
        # Widths that were pruned differ; the other oracle looks at them.
        odd = {n for n, t in found.items() if n not in self.small or self.small[n].shape != t.shape}
        return {n: Output(t, unjudged="widths differ" if n in odd else "") for n, t in found.items()}

    def _interpreted(self, *, restrict: bool) -> dict[str, Output]:
        what = self.what
        found = _interpret(what.trace, what.found, self.sample, self.dtype, restrict=restrict, plan=what.plan)
        return {n: Output(t) for n, t in found.items()}

    def _cut(self) -> _Measured:
        """Structures multiplied by zero against the model that was cut."""
        what = self.what
        silent = frozenset(s.output for s in choose_structures(what.dense, what.trace.cuts))
        everything_stays = _everything(what.dense)
        dense, zeroed = (
            _interpret(what.dense, everything_stays, self.sample, self.dtype, silent=s)
            for s in (frozenset(), silent)
        )
        left = _interpret(what.trace, _everything(what.trace), self.sample, self.dtype)
        found = judge({n: Output(t) for n, t in zeroed.items()}, dense, left, self.limits, lambda: left)
        return _Measured("graph", found.error, found.effect, found.judged, found.unjudged, found.fault)


_ORACLES: Mapping[OracleName, Callable[[_Case], dict[str, Output]]] = {
    "graph": _Case.graph,
    "masks": _Case.masks,
}


def _interpret(
    trace: Trace,
    found: Resolution,
    sample: Sample,
    dtype: torch.dtype,
    *,
    restrict: bool = True,
    silent: Set[fx.Node] = frozenset(),
    plan: Plan | None = None,
) -> dict[str, Tensor]:
    """The traced graph with what is gone zeroed."""
    args, kwargs = typed(sample, dtype)
    oracle = Oracle(trace, found, dtype, restrict=restrict, silent=silent, crops=plan.crops if plan else ())
    with torch.no_grad(), Conditions(dtype), unfused():
        result = oracle.run(*fx_pytree.tree_flatten_spec((args, dict(kwargs)), trace.graph._in_spec))
    tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
    return {f"output {k}": t for k, t in enumerate(tensors)}


def _everything(trace: Trace) -> Resolution:
    """A resolution in which every unit stays."""
    coupled = coupling(trace)
    return Resolution(np.ones(coupled.n_units, bool), {}, {}, {}, {}, coupled.cost.dense)


def _zeroed_copy(what: _Removal) -> nn.Module:
    """The user's model with the input slices of dead units, and the borders that go, zeroed in every consumer."""
    trace, found = what.trace, what.found
    module = private(trace.model)
    parameters = dict(module.named_parameters())
    units = coupling(trace).axes
    for group in coupling(trace).groups:
        for name, dim in group.consumers:
            dead = np.flatnonzero(~found.keep[units[name, dim]])
            parameters[name].data.index_fill_(dim, torch.from_numpy(dead), 0)
    for crop in what.plan.crops:
        weight = parameters[crop.tensor].data
        weight.masked_fill_(outside(crop, weight), 0)
    return module


def _reads_without_weight(what: _Removal) -> bool:
    """Something sums over dead units, and no parameter lies beside them (features convolved with features)."""
    known = flow(what.trace)
    return any(
        not what.found.keep[known.units(array)].all() and not any(map(_is_weight, node.all_input_nodes))
        for node, said in known.walk.consumed.items()
        for _, arrays in said
        for array in arrays
    )


def _is_weight(node: fx.Node) -> bool:
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.op == "get_attr"


def _counts_samples(trace: Trace) -> bool:
    """Units repeat from sample to sample along some axis (heads are laid into the batch, say)."""
    if not trace.dynamic_batch:
        return False
    for node, held in flow(trace).walk.values.items():
        tensor = node.meta.get("val")
        if not isinstance(held, Value) or not isinstance(tensor, torch.Tensor):
            continue
        counted = {d for d, n in enumerate(tensor.shape) if type(n) is not int}
        if any(counted & set(varying(a)) for a in held.arrays):
            return True
    return False


def _in_batches(sample: Sample, size: int) -> list[Sample]:
    """The samples in batches of that size; the last one is filled up with the first samples."""
    tensors = [t for t in pytree.tree_leaves((sample[0], dict(sample[1]))) if isinstance(t, torch.Tensor)]
    given = len(tensors[0])
    order = torch.arange(-(-given // size) * size) % given
    return [_at(sample, index) for index in order.split(size)]


def _another_batch(sample: Sample) -> Sample:
    """One sample more: a batch size that is written down somewhere shows."""
    size = len(
        next(t for t in pytree.tree_leaves((sample[0], dict(sample[1]))) if isinstance(t, torch.Tensor))
    )
    return _at(sample, torch.arange(size + 1) % size)


def _at(sample: Sample, index: torch.Tensor) -> Sample:
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda t: t[index.to(t.device)], (sample[0], dict(sample[1]))
    )
    return args, kwargs


def _random_like(sample: Sample, seed: int) -> tuple[tuple[object, ...], dict[str, object]]:
    """Random floating inputs of the same shapes; indices and masks stay as they are."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(t: torch.Tensor) -> torch.Tensor:
        if not t.is_floating_point():
            return t
        return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype).to(t.device)

    args, kwargs = pytree.tree_map_only(torch.Tensor, redraw, (sample[0], dict(sample[1])))
    return args, kwargs


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
    what = _Removal.of(live, plan, oracles)
    measured, dtype = _measured(what, small, [(live.args, live.kwargs)], tolerance)
    if all(m.flat for m in measured):
        raise VerificationError(
            "the model's output is zero whatever its weights: nothing can be compared",
            advice="give example inputs that produce an output",
        )
    proof = replace(_proof(what, measured, Limits.of(dtype, tolerance), dtype, 1), livened=True)
    _gate(proof, measured, what)
    return proof
