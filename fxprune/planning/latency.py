"""A latency model: the time of a traced model on a target as a function of the widths that a plan leaves.

Every operator has a time by the target's facts: convolutions by kind and widths, with the staircase of their blocks;
products of matrices by multiply-accumulates, and by bytes where weights are read for few rows; the rest by sweeps over
their results, and the beginning of every operator that is run.  The sum is a sum of terms over forms, as ``fxprune.coupling.cost`` has them, so the search for a plan
spends it as it spends multiply-accumulates.  Absolute times are rough; ratios of two plans of one model are what it is for,
and a measurement corrects them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import prod

import numpy as np
from scipy.sparse import csr_array, vstack
from torch import fx

from fxprune.coupling.analysis import Analysis
from fxprune.coupling.cost import CostBuilder, CostModel, Terms
from fxprune.labels import BoolArray, IntArray, varying
from fxprune.ops.base import Call, Value
from fxprune.ops.contract import CONVOLUTIONS
from fxprune.ops.named import LINEAR, PRODUCTS
from fxprune.ops.sweeps import ATTENTION, PERMUTE, RUNS, SCORES, TRANSPOSE, operators, sweeps
from fxprune.planning.filling import fillable, run_nodes
from fxprune.targets import Target

__all__ = ["LatencyModel", "latency_model"]

BYTES = 4  # of a float32 weight
PICO = 1000.0  # picoseconds of a nanosecond
NANO = 1000.0  # nanoseconds of a microsecond

# Kinds of terms.
PLAIN, CONVOLUTION, DEPTHWISE, GROUPED, FILLED = range(5)

# Which channels of a convolution an export may fill up.
READ, WRITTEN = 1, 2


@dataclass(frozen=True, eq=False)
class LatencyTerms(Terms):
    """Picoseconds of operators, as functions of forms.

    Attributes:
        kind: int64[t].
        taps: int64[t], pixels of a convolution's kernel.
        group: int64[t], channels of a group, of grouped convolutions.
        free: int64[t], which channels an export may fill up: bits ``READ`` and ``WRITTEN``.
        target: Has the facts.
    """

    kind: IntArray
    taps: IntArray
    group: IntArray
    free: IntArray
    target: Target

    def of(self, term: IntArray, factors: IntArray, divisor: IntArray) -> IntArray:
        """Values of some terms at some values of their forms."""
        total = self.const[term] * factors.prod(axis=-1).astype(np.float64) / np.maximum(divisor, 1)
        kind, taps = np.broadcast_to(self.kind[term], total.shape), self.taps[term]
        one, other = factors[..., 0], factors[..., 1]
        convolution, filled = self.target.convolution, self.target.filled
        width = np.maximum(self.group[term], 1)
        # Off the block the export fills up what is free, where that is faster.
        read = np.where(self.free[term] & READ, filled(one), one)
        written = np.where(self.free[term] & WRITTEN, filled(other), other)
        each, full = np.maximum(one, 1), np.maximum(read, 1)
        times = {
            CONVOLUTION: np.minimum(convolution(one, other, taps), convolution(read, written, taps)),
            DEPTHWISE: np.minimum(convolution(each, each, taps, each), convolution(full, full, taps, full)),
            # A group that is merged with its neighbours costs what the merged ones do.
            GROUPED: one / width * convolution(width, width, taps, 1),
            FILLED: filled(one) * factors[..., 1:].prod(axis=-1) / np.maximum(divisor, 1),
        }
        for which, time in times.items():
            total = np.where(kind == which, self.const[term] * time, total)
        return np.asarray(total).astype(np.int64)


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Time of one run.

    Attributes:
        cost: Forms; its terms are the times, in picoseconds.
        terms: The same terms.
        nodes: Operator and node of each term.
    """

    cost: CostModel
    terms: LatencyTerms
    nodes: tuple[tuple[str, str], ...]

    def milliseconds(self, keep: BoolArray) -> float:
        """Predicted time when exactly the units of ``keep`` (bool[n_units]) stay."""
        return float(self.terms.values(self.cost.counts(keep)).sum()) / 1e9

    def by_operator(self, keep: BoolArray) -> dict[str, float]:
        """The same by operator, milliseconds, the slowest first."""
        values = self.terms.values(self.cost.counts(keep)) / 1e9
        total: dict[str, float] = {}
        for (op, _), value in zip(self.nodes, values.tolist(), strict=True):
            total[op] = total.get(op, 0.0) + value
        return dict(sorted(total.items(), key=lambda item: -item[1]))


@dataclass
class _Builder:
    """Collects terms operator by operator."""

    target: Target
    free: Set[fx.Node]
    costs: CostBuilder = field(default_factory=CostBuilder)
    kind: list[int] = field(default_factory=list)
    taps: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)
    nodes: list[tuple[str, str]] = field(default_factory=list)

    def add(
        self,
        at: tuple[str, str],
        const: float,
        forms: Sequence[int],
        kind: int = PLAIN,
        taps: int = 1,
        group: int = 1,
        free: int = 0,
    ) -> None:
        """A term of ``const`` picoseconds times its forms, or times what a convolution of their widths takes."""
        self.costs.add_macs(round(const), *forms)
        self.kind.append(kind)
        self.taps.append(taps)
        self.group.append(group)
        self.filled.append(free)
        self.nodes.append(at)

    def width(self, value: Value, dim: int) -> int:
        """Form of the positions along a dimension; constant where they hang on other dimensions, too."""
        for array in value.arrays:
            if varying(array) == (dim,):
                return self.costs.form(array)
        return self.costs.form(np.zeros(0, np.int64), offset=value.shape[dim])

    def size(self, value: Value) -> tuple[int, list[int]]:
        """Elements of a tensor: a number, and forms to multiply it by."""
        covered = {d for array in value.arrays for d in varying(array)}
        rest = prod(n for d, n in enumerate(value.shape) if d not in covered)
        return rest, [self.costs.form(array) for array in value.arrays]


def latency_model(analysis: Analysis, target: Target, *, batch: int = 1) -> LatencyModel:
    """The time of a traced model on a target.

    Args:
        analysis: Of the trace.
        target: The runtime.
        batch: Samples that one run is for.
    """
    scale = batch / max(analysis.trace.batch, 1)
    build = _Builder(target, fillable(analysis))
    live = run_nodes(analysis)
    for node, call in analysis.calls.items():
        held = analysis.values.get(node)
        outputs = [v for v in (held if isinstance(held, list) else [held]) if isinstance(v, Value)]
        if outputs and node in live:
            rule = _TIMES.get(call.op, _convolution if call.op in CONVOLUTIONS else _elements)
            rule(build, node, call, outputs[0], scale)
            if begun := operators(call.op, outputs[0].rank):
                build.add((call.op, node.name), begun * target.facts.node * NANO * PICO, [])
    mine, counted = build.costs.build(analysis.unit_of_label), analysis.coupling.cost
    # Products other than convolutions are counted already.
    others = [k for k, node in enumerate(analysis.counted_at) if _op(analysis, node) not in CONVOLUTIONS]
    terms = _joined(build, mine, counted.macs, np.array(others, np.int64), scale)
    forms = csr_array(vstack([mine.forms, counted.forms]))
    cost = CostModel(forms, np.concatenate([mine.offsets, counted.offsets]), terms, terms)
    nodes = [(_op(analysis, analysis.counted_at[k]), analysis.counted_at[k].name) for k in others]
    return LatencyModel(cost, terms, (*build.nodes, *nodes))


def _op(analysis: Analysis, node: fx.Node) -> str:
    call = analysis.calls.get(node)
    return call.op if call is not None else ""


def _joined(build: _Builder, mine: CostModel, macs: Terms, others: IntArray, scale: float) -> LatencyTerms:
    """Terms of operators, and multiply-accumulates of products over forms that follow after."""
    first, number = len(mine.offsets), len(others)
    width = max(mine.macs.factors.shape[1], macs.factors.shape[1], 2)

    def moved(forms: IntArray) -> IntArray:
        return np.where(forms >= 0, forms + first, -1)

    def wide(factors: IntArray) -> IntArray:
        return np.pad(factors, ((0, 0), (0, width - factors.shape[1])), constant_values=-1)

    per_mac = scale * PICO / build.target.facts.matrix
    return LatencyTerms(
        const=np.concatenate([mine.macs.const, np.rint(macs.const[others] * per_mac).astype(np.int64)]),
        factors=np.concatenate([wide(mine.macs.factors), wide(moved(macs.factors[others]))]),
        divisor=np.concatenate([mine.macs.divisor, moved(macs.divisor[others])]),
        kind=np.array(build.kind + [PLAIN] * number, np.int64),
        taps=np.array(build.taps + [1] * number, np.int64),
        group=np.array(build.group + [1] * number, np.int64),
        free=np.array(build.filled + [0] * number, np.int64),
        target=build.target,
    )


# --- times of operators ------------------------------------------------------------------------

Time = Callable[[_Builder, fx.Node, Call, Value, float], None]


def _convolution(build: _Builder, node: fx.Node, call: Call, out: Value, scale: float) -> None:
    at = call.op, node.name
    x, weight = call.tensor("input"), call.tensor("weight")
    spatial = weight.rank - 2
    channels = x.rank - spatial - 1
    groups, taps = call.integer("groups", 1), prod(weight.shape[2:])
    transposed = "transpose" in call.op
    pixels = prod((x if transposed else out).shape[channels + 1 :]) * out.shape[0] ** channels * scale * PICO
    read, written = build.width(x, channels), build.width(out, channels)
    free = READ * (node.all_input_nodes[0] in build.free) + WRITTEN * (node in build.free)
    bytes_ = BYTES * taps / build.target.facts.weights * PICO
    if groups == 1:
        build.add(at, pixels, [read, written], CONVOLUTION, taps, free=free)
        build.add(at, bytes_, [read, written])
    elif x.shape[channels] == groups == out.shape[channels]:
        build.add(at, pixels, [written], DEPTHWISE, taps, free=free)
    else:
        merged = build.target.merged_width(x.shape[channels] // groups)
        build.add(at, pixels, [written], GROUPED, taps, merged)
        build.add(at, bytes_ * merged, [written])


def _linear(build: _Builder, node: fx.Node, call: Call, out: Value, scale: float) -> None:
    """The bytes of the weights; the multiply-accumulates are counted with those of other products."""
    rest, forms = build.size(call.tensor("weight"))
    build.add((call.op, node.name), rest * BYTES / build.target.facts.weights * PICO, forms)


def _elements(build: _Builder, node: fx.Node, call: Call, out: Value, scale: float) -> None:
    count = sweeps(call.op)
    if count:
        rest, forms = build.size(out)
        kind = FILLED if node in build.free and len(forms) == 1 else PLAIN
        build.add(
            (call.op, node.name), rest * count * scale / build.target.facts.elements * PICO, forms, kind
        )


def _moved(build: _Builder, node: fx.Node, call: Call, out: Value, scale: float) -> None:
    """Entries in another order: whole runs of them where the last dimension stays the last."""
    pair = (
        [call.integer(name) for name in ("dim0", "dim1")]
        if call.op == TRANSPOSE
        else call.integers("dims")[-1:]
    )
    last = {out.rank - 1, -1}
    whole = last.isdisjoint(pair) if call.op == TRANSPOSE else last.issuperset(pair)
    rest, forms = build.size(out)
    count = RUNS if whole else sweeps(call.op)
    build.add((call.op, node.name), rest * count * scale / build.target.facts.elements * PICO, forms)


def _attention(build: _Builder, node: fx.Node, call: Call, out: Value, scale: float) -> None:
    """Sweeps over the scores: heads as queries have them, every pair of positions."""
    query, key = call.tensor("query"), call.tensor("key")
    rows = Value(query.shape[:-1], tuple(a.reshape(a.shape[:-1]) for a in query.arrays if a.shape[-1] == 1))
    rest, forms = build.size(rows)
    columns = key.shape[-2] * SCORES * scale / build.target.facts.elements * PICO
    build.add((call.op, node.name), rest * columns, forms)


def _nothing(build: _Builder, node: fx.Node, call: Call, out: Value, scale: float) -> None:
    """Products alone."""


_TIMES: Mapping[str, Time] = {
    LINEAR: _linear,
    ATTENTION: _attention,
    **dict.fromkeys((TRANSPOSE, PERMUTE), _moved),
    **dict.fromkeys(PRODUCTS, _nothing),
}
