"""Products of what two layers make, queries and keys above all: what counts is the product, not its factors.

Where inner channels of a product are gone, the factor that comes later is asked for more than its own kept channels: for what makes
the product with the other factor's kept channels that of the dense model.  That is linear in the dense factor, head by head.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, fx

from fxprune.graph.drafts import arguments_by_name
from fxprune.labels import BoolArray
from fxprune.ops import DROPOUTS, qualified_name, rule_for
from fxprune.ops.named import ATTENTION, COPIES, LOGITS
from fxprune.recovery.layers import Layer, layer_of
from fxprune.recovery.lockstep import Lockstep, Side

__all__ = ["Factor", "factors"]

ROWS, CHANNELS = -2, -1  # dimensions of a factor

FEWEST = 3  # of its dimensions: one for samples

RIDGE = 1e-3
"""Relative to the mean square of the other factor's channels."""


@dataclass(frozen=True, eq=False)
class Way:
    """From a layer to a factor of a product.

    Attributes:
        layer: The layer's node.
        steps: Nodes that only move positions, in order.
        turned: The factor has its inner channels in front of its rows.
    """

    layer: fx.Node
    steps: tuple[fx.Node, ...]
    turned: bool

    @property
    def end(self) -> fx.Node:
        """The factor."""
        return self.steps[-1] if self.steps else self.layer

    def staying(self, step: Lockstep) -> BoolArray | None:
        """Which positions of the dense factor are left, bool[..., rows, channels]."""
        mask = step.staying(self.end.name)
        return mask.swapaxes(ROWS, CHANNELS) if mask is not None and self.turned else mask

    def value(self, side: Side, k: int, start: Tensor | None = None) -> Tensor | None:
        """The factor of a chunk as float[..., rows, channels].

        Args:
            side: Where it is computed.
            k: Number of the chunk.
            start: What the layer makes, where it has not run yet.
        """
        if start is None:
            held = [n for n in (self.layer, *self.steps) if n in side.values]
            if not held:
                return None
            at, value = held[-1], side.values[held[-1]][k]
        else:
            at, value = self.layer, start
        rest = self.steps if at is self.layer else self.steps[self.steps.index(at) + 1 :]
        for node in rest:
            value, at = side.call(node, k, {at: value}), node
        if not isinstance(value, Tensor):
            return None
        return value.mT if self.turned else value


@dataclass(frozen=True, eq=False)
class Factor:
    """The factor of a product that comes later, and the other one.

    Attributes:
        mine: From the layer that is solved for.
        other: From the other one, or from the same layer.
    """

    mine: Way
    other: Way

    def cut(self, step: Lockstep) -> bool:
        """Whether heads keep fewer of their inner channels, each as many as the others."""
        mine, other = self.mine.staying(step), self.other.staying(step)
        if mine is None or other is None or mine.shape != other.shape or (mine != other).any():
            return False
        if mine.ndim < FEWEST or mine.shape[0] != 1 or mine.shape[ROWS] != 1:
            return False
        kept = mine.sum(CHANNELS)
        return mine.shape[CHANNELS] > 1 and set(np.unique(kept)) - {0} != {mine.shape[CHANNELS]}

    def map(self, step: Lockstep, targets: Mapping[int, Tensor]) -> Tensor | None:
        """What makes the wanted factor of the dense one, float[heads, dense channels, kept channels]; None for nothing.

        Args:
            step: The run.
            targets: What the layer is asked for so far, by chunk.
        """
        squares = products = None
        for k, target in targets.items():
            small, dense = self._other(step, k, target)
            if small is None or dense is None or small.shape[:-1] != dense.shape[:-1]:
                return None
            rows = [_by_head(t) for t in (dense, small)]
            square, product = rows[1].mT @ rows[1], rows[0].mT @ rows[1]
            squares = square if squares is None else squares + square
            products = product if products is None else products + product
        if squares is None or products is None:
            return None
        size = squares.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(squares.dtype).tiny)
        squares.diagonal(dim1=1, dim2=2).add_(RIDGE * size[:, None])
        solved: Tensor = torch.linalg.solve(squares, products.mT)
        return solved.mT

    def _other(self, step: Lockstep, k: int, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The other factor of a chunk: the slim one, and the dense one of the heads that are left."""
        same = self.other.layer is self.mine.layer
        small = self.other.value(step.slim, k, target if same else None)
        return small, self._dense(step, self.other, k)

    @staticmethod
    def _dense(step: Lockstep, way: Way, k: int) -> Tensor | None:
        names = [step.twins.get(n.name) for n in (way.layer, *way.steps)]
        if None in names:
            return None
        twins = [n for n in names if n is not None]
        value = Way(twins[0], tuple(twins[1:]), way.turned).value(step.dense, k)
        mask = way.staying(step)
        if value is None or mask is None:
            return None
        # Whole heads that are gone; of the others every channel is wanted.
        for dim in range(1, value.ndim + ROWS):
            alive = mask.any(tuple(d for d in range(mask.ndim) if d != dim))
            if not alive.all():
                value = value.index_select(dim, torch.from_numpy(np.flatnonzero(alive)).to(value.device))
        return value

    def asked(self, step: Lockstep, target: Tensor, k: int, by: Tensor) -> Tensor:
        """The target of a chunk with the factor that the map makes of the dense one."""
        dense = self._dense(step, self.mine, k)
        places = self.mine.value(
            step.slim, k, torch.arange(target.numel(), device=target.device).view(target.shape)
        )
        if dense is None or places is None:
            return target
        made = dense @ by.reshape(*dense.shape[1:-2], *by.shape[1:]).to(dense.dtype)
        if made.shape != places.shape:
            return target
        changed = target.clone().flatten()
        changed[places.flatten()] = made.flatten()
        return changed.view(target.shape)


def _by_head(factor: Tensor) -> Tensor:
    """float64[heads, n x rows, channels] of float[n, ..., rows, channels]."""
    heads = prod(factor.shape[1:-2])
    flat = factor.reshape(len(factor), heads, *factor.shape[-2:])
    return flat.transpose(0, 1).flatten(1, 2).double()


def factors(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> dict[fx.Node, list[Factor]]:
    """For layers that make a factor of a product and come later than the other factor's layer what they take part in."""
    order = {node: k for k, node in enumerate(graph.nodes)}
    found: dict[fx.Node, list[Factor]] = {}
    for node in graph.nodes:
        both = list(_ways(node, tensors))
        if len(both) == 2:
            first, second = sorted(both, key=lambda way: order[way.layer])
            found.setdefault(second.layer, []).append(Factor(second, first))
    return found


def _ways(node: fx.Node, tensors: Mapping[str, Tensor]) -> Iterator[Way]:
    """The ways to both factors of a product of activations."""
    name = qualified_name(node.target) if node.op == "call_function" else ""
    if name != ATTENTION and name not in LOGITS:
        return
    values = arguments_by_name(node)
    one, two = ("query", "key") if name == ATTENTION else LOGITS[name]
    for operand, turned in ((values[one], False), (values[two], name != ATTENTION)):
        way = _way(operand, tensors, turned=turned)
        if way is not None:
            yield way


def _way(at: object, tensors: Mapping[str, Tensor], *, turned: bool) -> Way | None:
    steps: list[fx.Node] = []
    while isinstance(at, fx.Node) and at.op == "call_function":
        if isinstance(layer_of(at, tensors), Layer):
            return Way(at, tuple(reversed(steps)), turned)
        if at.target is not operator.getitem:  # one of the parts that the next node makes
            name, rule = qualified_name(at.target), rule_for(at.target)
            moves = rule is not None and rule.move is not None
            if not moves and name not in COPIES and name not in DROPOUTS:
                return None
        steps.append(at)
        at = at.all_input_nodes[0]
    return None
