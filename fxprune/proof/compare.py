"""Compare: a slim model with what each oracle expects of it, on one input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from fxprune.coupling.analysis import Analysis
from fxprune.coupling.couple import analyse
from fxprune.graph.trace import Trace
from fxprune.models.conditions import Conditions, private, unfused
from fxprune.models.distance import Limits
from fxprune.plans import Crop, Plan
from fxprune.proof.masks.judging import Comparison, Output, judge
from fxprune.proof.masks.masked import masked_outputs
from fxprune.proof.masks.runs import Sample, everything, jittered, returned, run, typed
from fxprune.proof.oracle import Oracle
from fxprune.resizing.resolve import Resolution, keep_mask, resolve
from fxprune.slimming.crop import outside
from fxprune.structures.cut import cut
from fxprune.structures.find import choose_structures
from fxprune.support.words import headline

__all__ = ["BOTH", "Case", "Measured", "OracleName", "Removal"]

OracleName = Literal["graph", "masks"]

BOTH: tuple[OracleName, ...] = ("graph", "masks")


@dataclass(frozen=True, eq=False)
class Removal:
    """What a plan removes: structures first, then units and borders of kernels of the trace that is left.

    Attributes:
        dense: The trace of the model as it is.
        plan: The plan.
        resolution: What is left of the trace without the structures.
        inexact: Units removed that others see.
        oracles: Who is asked.
    """

    dense: Trace
    plan: Plan
    resolution: Resolution
    inexact: int
    oracles: tuple[OracleName, ...]

    @staticmethod
    def of(trace: Trace, plan: Plan, oracles: Sequence[OracleName]) -> Removal:
        """What a plan removes of a trace.

        Raises:
            PlanError: The plan was made for another model.
        """
        analysis = analyse(cut(trace, plan.removed))
        resolution = resolve(analysis, keep_mask(analysis, plan))
        exact = np.ones(analysis.coupling.n_units, bool)
        for group in analysis.coupling.groups:
            if not group.exact:
                exact[group.units] = False
        inexact = int((~resolution.keep & ~exact).sum())
        return Removal(trace, plan, resolution, inexact, tuple(dict.fromkeys(oracles)))

    @property
    def analysis(self) -> Analysis:
        """Of the trace without the structures."""
        return self.resolution.analysis

    @property
    def trace(self) -> Trace:
        """The trace without the structures."""
        return self.analysis.trace


@dataclass(frozen=True)
class Measured:
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
class Case:
    """One comparison: what is removed, on one input, in one floating type."""

    what: Removal
    slim: nn.Module
    sample: Sample
    dtype: torch.dtype
    limits: Limits

    @property
    def recorded(self) -> bool:
        """The graph is for analysis only: the user's module runs."""
        return self.what.trace.kind == "recorded"

    @property
    def model(self) -> nn.Module:
        """The dense model: the user's own, or what is left of it as a graph where structures are cut."""
        return self.what.trace.model

    @cached_property
    def small(self) -> dict[str, Tensor]:
        """What the slim model gives."""
        return self._run(self.slim)

    @cached_property
    def dense(self) -> dict[str, Tensor]:
        """What the dense model gives."""
        return self._run(self.model)

    def _run(self, model: nn.Module) -> dict[str, Tensor]:
        return run(model, self.sample, self.dtype, everything if self.recorded else returned)

    @cached_property
    def noise(self) -> dict[str, Tensor]:
        """What the slim model gives where its numbers are rounded otherwise."""
        return jittered(self.slim, self.sample, self.dtype, everything if self.recorded else returned)

    def measured(self) -> Iterator[Measured]:
        """Each oracle's word; where structures are cut, also what their cut changes."""
        dense, _ = self.dense, self.small  # where one of them does not run, no oracle is to blame
        flat = not any(bool((t.isfinite() & (t != 0)).any()) for t in dense.values())
        for oracle in self.what.oracles:
            yield replace(self._asked(oracle), flat=flat)
        if self.what.trace is not self.what.dense:
            yield self._cut()

    def _asked(self, oracle: OracleName) -> Measured:
        """What an oracle says, or why it does not."""
        try:
            expected = _ORACLES[oracle](self)
        except Exception as error:  # noqa: BLE001 - an oracle that breaks down has no say
            why = f"the {oracle} oracle does not run: {headline(error)}"
            return Measured(oracle, error=0.0, effect=0.0, judged=0.0, unjudged=(why,))
        compared = self._judged(expected)
        zeroed = 0.0
        if oracle == "graph" and self.what.inexact and not self.recorded:
            zeroed = self._judged(self._interpreted(restrict=False)).error
        return replace(_measured(oracle, compared), zeroed=zeroed)

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
        results = self._run(_zeroed_copy(self.what))
        # Widths that were pruned differ; the other oracle looks at them.
        odd = {n for n, t in results.items() if n not in self.small or self.small[n].shape != t.shape}
        return {n: Output(t, unjudged="widths differ" if n in odd else "") for n, t in results.items()}

    def _interpreted(self, *, restrict: bool) -> dict[str, Output]:
        what = self.what
        results = _interpret(
            what.resolution, self.sample, self.dtype, restrict=restrict, crops=what.plan.crops
        )
        return {n: Output(t) for n, t in results.items()}

    def _cut(self) -> Measured:
        """Structures multiplied by zero against the model that was cut."""
        what = self.what
        silent = frozenset(s.output for s in choose_structures(what.dense, what.trace.cuts))
        whole = Resolution.whole(analyse(what.dense))
        dense, zeroed = (_interpret(whole, self.sample, self.dtype, silent=s) for s in (frozenset(), silent))
        left = _interpret(Resolution.whole(what.analysis), self.sample, self.dtype)
        expected = {n: Output(t) for n, t in zeroed.items()}
        return _measured("graph", judge(expected, dense, left, self.limits, lambda: left))


def _measured(oracle: OracleName, compared: Comparison) -> Measured:
    return Measured(
        *(oracle, compared.error, compared.effect, compared.judged, compared.unjudged, compared.fault)
    )


_ORACLES: Mapping[OracleName, Callable[[Case], dict[str, Output]]] = {
    "graph": Case.graph,
    "masks": Case.masks,
}


def _interpret(
    resolution: Resolution,
    sample: Sample,
    dtype: torch.dtype,
    *,
    restrict: bool = True,
    silent: Set[fx.Node] = frozenset(),
    crops: Sequence[Crop] = (),
) -> dict[str, Tensor]:
    """The traced graph with what is gone zeroed."""
    args, kwargs = typed(sample, dtype)
    oracle = Oracle(resolution, dtype, restrict=restrict, silent=silent, crops=crops)
    with torch.no_grad(), Conditions(dtype), unfused():
        spec = resolution.analysis.trace.graph._in_spec
        result = oracle.run(*fx_pytree.tree_flatten_spec((args, dict(kwargs)), spec))
    tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
    return {f"output {k}": t for k, t in enumerate(tensors)}


def _zeroed_copy(what: Removal) -> nn.Module:
    """The user's model with the input slices of dead units, and the borders that go, zeroed in every consumer."""
    module = private(what.trace.model)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    coupling = what.analysis.coupling
    readers = {axis for group in coupling.groups for axis in group.consumers}
    makers = {axis for group in coupling.groups for axis in group.producers}
    # Products with a tensor that no layer owns (a buffer of spectral norm) do not say which of its axes makes units and which reads them.
    beside = {_weight(n) for node in what.analysis.consumed for n in node.all_input_nodes}
    plain = {axis for axis in coupling.axes if axis[0] in beside} - makers
    for name, dim in readers | plain:
        if name in tensors:
            dead = np.flatnonzero(~what.resolution.keep[coupling.axes[name, dim]])
            tensors[name].data.index_fill_(dim, torch.from_numpy(dead), 0)
    for crop in what.plan.crops:
        weight = tensors[crop.tensor].data
        weight.masked_fill_(outside(crop, weight), 0)
    return module


def _reads_without_weight(what: Removal) -> bool:
    """Something sums over dead units, and no parameter lies beside them (features convolved with features)."""
    analysis = what.analysis
    return any(
        not what.resolution.keep[analysis.units(array)].all() and not any(map(_weight, node.all_input_nodes))
        for node, said in analysis.consumed.items()
        for _, arrays in said
        for array in arrays
    )


def _weight(node: fx.Node) -> str:
    """The name of the parameter, buffer or constant that an operand is only another arrangement of, or nothing."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else ""
