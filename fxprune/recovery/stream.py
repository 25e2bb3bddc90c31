"""Sums: a layer whose result is added to another value makes up for what that one is off by.

Between the layer and the sum may lie what multiplies each channel (batch norm, a scale) and what only moves positions
(views, permutations, rolls of windows); the difference goes back through them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxprune.graph.drafts import arguments_by_name
from fxprune.ops import DROPOUTS, qualified_name, rule_for
from fxprune.ops.named import ADD, COPIES, SCALINGS
from fxprune.ops.normalise import BATCH_NORMS
from fxprune.recovery.batch_norm import Norm
from fxprune.recovery.lockstep import Lockstep, Pair

__all__ = ["Stream"]

SMALLEST = 1e-3
"""Scales below are taken for none: what comes behind them could not be made up for."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The way from a layer to a sum.

    Attributes:
        steps: The nodes in between, in order, each with the operand that comes from the layer.
        other: What is added.
        twin: The dense node of what is added.
    """

    steps: tuple[tuple[fx.Node, fx.Node], ...]
    other: fx.Node
    twin: fx.Node

    @staticmethod
    def of(pair: Pair) -> Stream | None:
        """The way from the layer at a pair of nodes, if it leads to a sum whose other operand is there already."""
        at, steps = pair.node, list[tuple[fx.Node, fx.Node]]()
        while len(at.users) == 1:
            reader = next(iter(at.users))
            name = _name(reader)
            if name == ADD:
                other = _other(reader, at)
                twin = None if other is None else pair.step.twins.get(other.name)
                ready = other in pair.step.slim.values and twin in pair.step.dense.values
                return Stream(tuple(steps), other, twin) if ready and other and twin else None
            if not name or not _passes(name, reader, at):
                return None
            steps.append((reader, at))
            at = reader
        return None

    def missing(self, step: Lockstep, like: Tensor, k: int) -> Tensor | None:
        """What to add to a layer's target of a chunk so that the sum comes out right; None if it cannot be said.

        Args:
            step: The run.
            like: The target.
            k: Number of the chunk.
        """
        mine, wanted = step.slim.value(self.other, k), step.left_of(self.twin, k)
        if not isinstance(mine, Tensor) or wanted is None or mine.shape != wanted.shape:
            return None
        # What the sum sees of each entry of the layer's output: which one it is, and times what.
        scale, places = torch.ones_like(like), None
        for node, operand in self.steps:
            name = _name(node)
            if name in BATCH_NORMS:
                scale = scale * Norm.of(node, step.slim.calls.tensors).scale(scale.ndim)
            elif name in SCALINGS:
                scale = _tensor(step.slim.call(node, k, {operand: scale}))
            elif name not in COPIES and name not in DROPOUTS:
                if places is None:
                    places = torch.arange(like.numel(), device=like.device).view(like.shape)
                places = _tensor(step.slim.call(node, k, {operand: places}))
                scale = _tensor(step.slim.call(node, k, {operand: scale}))
        off = wanted - mine
        if off.shape != scale.shape or off.numel() != like.numel():
            return None
        off = torch.where(scale.abs() < SMALLEST, 0.0, off / scale)
        if places is None:
            return off
        back = torch.zeros_like(like).flatten()
        back[places.flatten()] = off.flatten()
        return back.view(like.shape)


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _name(node: fx.Node) -> str:
    """Name of the operator; in-place ones are called like the others."""
    return qualified_name(node.target).rstrip("_") if isinstance(node.target, torch._ops.OpOverload) else ""


def _other(node: fx.Node, mine: fx.Node) -> fx.Node | None:
    """The other operand of a sum, if it is one of two tensors as they are."""
    values = arguments_by_name(node)
    both = [values.get(n) for n in ("self", "other")]
    if values.get("alpha", 1) != 1 or both.count(mine) != 1:
        return None
    other = both[1 - both.index(mine)]
    return other if isinstance(other, fx.Node) and other.op != "get_attr" else None


def _passes(name: str, node: fx.Node, operand: fx.Node) -> bool:
    """Whether a difference can go back through a call."""
    values = arguments_by_name(node)
    if name == BATCH_NORMS[0]:
        return values["input"] is operand and values["running_mean"] is not None and not values["training"]
    if name in SCALINGS:
        others = [n for n in node.all_input_nodes if n is not operand]
        return len(others) == 1 and others[0].op == "get_attr"
    if name in COPIES or name in DROPOUTS:
        return True
    rule = rule_for(node.target)
    moves = rule is not None and rule.move is not None
    return moves and node.all_input_nodes[:1] == [operand] and isinstance(node.meta.get("val"), Tensor)
