"""What recovery does at each operator of a slim graph: layers are solved for, batch norms restated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx

from fxprune.graph.drafts import arguments_by_name
from fxprune.recovery.attention import Factor, factors
from fxprune.recovery.batch_norm import Norm
from fxprune.recovery.held import Held, norm_at
from fxprune.recovery.layers import Layer, layer_of
from fxprune.recovery.least_squares import Regression
from fxprune.recovery.lockstep import Pair
from fxprune.recovery.stream import Stream

__all__ = ["RecoveredLayer", "Tell", "Visit"]

Tell = Callable[[int, int, str], None]
"""Told how many of how many layers are done, and which one is next."""

ROWS = 40_000
"""Rows of a layer that are learnt from: samples times positions."""

FULL = 4
"""Bytes of a number of single precision."""

UNSEEN = 4096
"""Rows of a layer that it is judged by."""


@dataclass(frozen=True)
class RecoveredLayer:
    """One layer behind a cut.

    Attributes:
        name: Of its weight.
        before: Squared error of its output with the weights as they were sliced, relative to the variance of the dense
            output, on samples that were held out; NaN where it was not measured.
        after: The same with the new weights.
        kept: Why it keeps the slice, empty where it does not.
    """

    name: str
    before: float = math.nan
    after: float = math.nan
    kept: str = ""


class Visit:
    """Goes along with one run.

    Args:
        held: The slim graph's tensors.
        unseen: So many chunks, the first ones, are held out.
        chunks: How many there are.
        random: Draws positions.
        tell: Is told how far it is.
        settled: What an earlier run made of weights with several readers.
    """

    def __init__(
        self,
        held: Held,
        unseen: int,
        chunks: int,
        random: torch.Generator,
        tell: Tell,
        settled: Mapping[str, RecoveredLayer] | None = None,
    ) -> None:
        self.held, self.unseen, self.chunks = held, unseen, chunks
        self.random, self.tell = random, tell
        self.settled = dict(settled or {})
        self._results = dict(self.settled)
        self._open: dict[str, tuple[Layer, Regression]] = {}
        self._judged: set[fx.Node] = set()
        self._factors = factors(held.calls.graph, held.calls.tensors)
        kinds = [layer_of(n, held.calls.tensors) for n in held.calls.graph.nodes]
        self._total, self._done = sum(isinstance(kind, Layer) for kind in kinds), 0

    @property
    def layers(self) -> tuple[RecoveredLayer, ...]:
        """Every layer behind a cut."""
        return tuple(self._results.values())

    def __call__(self, pair: Pair) -> None:
        """Change what the slim graph reads at this operator, if it lies behind a cut."""
        layer = layer_of(pair.node, self.held.calls.tensors)
        if isinstance(layer, Layer):
            self.tell(self._done, self._total, layer.weight)
            self._done += 1
            self._layer(pair, layer)
            return
        norm = norm_at(pair.node, self.held.calls.tensors)
        if norm is not None:
            self._batch_norm(pair, norm)
            return
        if any(pair.behind(n) for n in pair.node.all_input_nodes):
            for name in self._weights(pair.node):
                why = layer or "its operator is no linear map of one input"
                self._results.setdefault(name, RecoveredLayer(name, kept=why))

    def _weights(self, node: fx.Node) -> list[str]:
        names = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr"]
        return [self.held.first(n) for n in names if n in self.held.own and _mixes(self.held.tensor(n))]

    # Layers.

    def _layer(self, pair: Pair, layer: Layer) -> None:
        name = self.held.first(layer.weight)
        if name in self.settled:
            self._judged.add(layer.node)
            return
        stream = Stream.of(pair)
        sums = stream is not None and pair.changed(stream.other)
        if not pair.behind(layer.x) and not sums and not self._cut(pair):
            return
        why = self._why_not(pair, layer)
        if why:
            self._results[name] = RecoveredLayer(name, kept=why)
            return
        regression = self._open[name][1] if name in self._open else self._regression(pair, layer)
        self._gather(pair, layer, stream, regression)
        if len(self.held.readers_of(name)) > 1:
            self._open[name] = layer, regression
        else:
            self._results[name] = self._solved(layer, regression)

    def _why_not(self, pair: Pair, layer: Layer) -> str:
        """Why a layer keeps its slice, empty if it need not."""
        readers = [layer_of(n, self.held.calls.tensors) for n in self.held.readers_of(layer.weight)]
        if not all(isinstance(r, Layer) and r.bias == layer.bias for r in readers):
            return "its weight is read by other operators, too"
        target, x = pair.target(0), pair.step.slim.value(layer.x, 0)
        if target is None or not isinstance(x, Tensor):
            return "what is left of its outputs is no block"
        matrix = layer.matrix(self.held.tensor(layer.weight))
        inputs, outputs = layer.rows(x, target, 1, self.random)
        fits = (inputs.shape[2], outputs.shape[2]) == (matrix.shape[2], matrix.shape[1])
        return "" if fits else "its inputs or outputs are laid out otherwise than its weight"

    def _regression(self, pair: Pair, layer: Layer) -> Regression:
        start = layer.matrix(self.held.tensor(layer.weight)).double()
        constant, bias = torch.zeros_like(start[:, :, 0]), self.held.bias_of(layer)
        if bias is not None:
            # A transposed convolution adds it to every tap.
            constant += bias.double().repeat_interleave(constant.numel() // bias.numel()).view_as(constant)
        made = [pair.target(k) for k in range(self.unseen, self.chunks)]
        rows = sum(t.numel() for t in made if t is not None) // prod(start.shape[:2])
        centred = bias is not None or self.held.norm_behind(layer) is not None
        return Regression(start, constant, centred, min(rows, ROWS))

    def _gather(self, pair: Pair, layer: Layer, stream: Stream | None, into: Regression) -> None:
        learnt, judged = math.ceil(into.most / (self.chunks - self.unseen)), math.ceil(UNSEEN / self.unseen)
        targets = self._targets(pair, layer, stream)
        for k, y in targets.items():
            x = pair.step.slim.value(layer.x, k)
            assert isinstance(x, Tensor)
            rows = layer.rows(x, y, judged if k < self.unseen else learnt, self.random)
            # Sums of half precision would not hold.
            inputs, outputs = (t.float() if t.element_size() < FULL else t for t in rows)
            (into.hold_out if k < self.unseen else into.add)(inputs, outputs)

    def _cut(self, pair: Pair) -> list[Factor]:
        """Products of this layer's output and another's whose inner channels are gone."""
        return [factor for factor in self._factors.get(pair.node, ()) if factor.cut(pair.step)]

    def _targets(self, pair: Pair, layer: Layer, stream: Stream | None) -> dict[int, Tensor]:
        """What the layer is to make of each chunk."""
        targets: dict[int, Tensor] = {}
        for k in range(self.chunks):
            y = pair.target(k)
            assert y is not None
            missing = None if stream is None else stream.missing(pair.step, y, k)
            targets[k] = y if missing is None else y + missing
        for factor in self._cut(pair):
            by = factor.map(pair.step, {k: y for k, y in targets.items() if k >= self.unseen})
            if by is not None:
                targets = {k: factor.asked(pair.step, y, k, by) for k, y in targets.items()}
        return targets

    def _solved(self, layer: Layer, regression: Regression) -> RecoveredLayer:
        """Take the solution, if it holds on unseen samples."""
        self._judged.add(layer.node)
        fit, weight = regression.fit(), self.held.tensor(layer.weight)
        if not fit.better:
            return RecoveredLayer(
                layer.weight, fit.before, fit.before, "the slice is as good on unseen samples"
            )
        weight.copy_(layer.folded(fit.matrix, weight))
        bias, norm = self.held.bias_of(layer), self.held.norm_behind(layer)
        if bias is not None:
            bias.copy_(layer.offset(fit.offset))
        elif norm is not None:
            norm.absorb(layer.offset(fit.offset))
        return RecoveredLayer(layer.weight, fit.before, fit.after)

    def settle(self) -> set[str]:
        """Solve for the weights with several readers, now that all were heard; first names of those and of their biases."""
        for name, (layer, regression) in self._open.items():
            self.settled[name] = self._solved(layer, regression)
        layers = [layer for layer, _ in self._open.values()]
        return {self.held.first(n) for layer in layers for n in (layer.weight, layer.bias) if n is not None}

    # Batch norm.

    def _batch_norm(self, pair: Pair, norm: Norm) -> None:
        read = arguments_by_name(pair.node)["input"]
        assert isinstance(read, fx.Node)
        if not pair.changed(read) or not self.held.alone(pair.node):
            return
        inputs = [pair.step.slim.value(read, k) for k in range(self.chunks)]
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if read in self._judged and norm.affine:
            norm.restate(tensors[self.unseen :], keep=True)
            return
        targets = [pair.target(k) for k in range(self.unseen)]
        judged = [(x, y) for x, y in zip(tensors, targets, strict=False) if y is not None]
        as_it_was, before = norm.copy(), sum(norm.off(x, y) for x, y in judged)
        norm.restate(tensors[self.unseen :], keep=False)
        if norm.affine and judged and sum(norm.off(x, y) for x, y in judged) >= before:
            norm.take(as_it_was)
            norm.restate(tensors[self.unseen :], keep=True)


def _mixes(weight: Tensor) -> bool:
    """It has rows and columns; what multiplies each channel by itself has not."""
    return sum(n > 1 for n in weight.shape) > 1
