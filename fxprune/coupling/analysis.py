"""Analysis: what the walk over a trace found, frozen when its units are closed, and passed on from stage to stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import fx

from fxprune.coupling.groups import Coupling
from fxprune.coupling.layouts import Layouts
from fxprune.graph.trace import Trace
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Call, Value
from fxprune.plans import Axis
from fxprune.support.briefly import brief
from fxprune.support.memo import Memo

__all__ = ["Analysis"]


@brief
@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything the later stages need to know of a traced model.

    What is asked of it later computes; nothing is added to it.

    Attributes:
        trace: The traced model.
        coupling: Groups of units, their layouts and costs.
        unit_of_label: int64[n_labels].
        labels: For every axis int64[n], the labels along it.
        values: For every node that makes a tensor its shape and labels; lists for several results.
        calls: For every operator its arguments.
        consumed: For every node that sums over units the arguments it reads them in, and their labels there.
        restricted: For every node that sees which units are gone (statistics) their labels.
        ties: Labels that were tied, and the node that ties them.
        virtual: First label and node of those that belong to no tensor.
        counted_at: The node of every term of multiply-accumulates in ``coupling.cost.macs``.
        unsupported: Nodes whose operator has no rule to be believed, and why.
    """

    trace: Trace
    coupling: Coupling
    unit_of_label: IntArray
    labels: Mapping[Axis, IntArray]
    values: Mapping[fx.Node, object]
    calls: Mapping[fx.Node, Call]
    consumed: Mapping[fx.Node, Sequence[tuple[str, tuple[IntArray, ...]]]]
    restricted: Mapping[fx.Node, Sequence[IntArray]]
    ties: Sequence[tuple[IntArray, IntArray, fx.Node]]
    virtual: Sequence[tuple[int, str]]
    counted_at: Sequence[fx.Node]
    unsupported: Sequence[tuple[fx.Node, str]]
    layouts: Layouts = field(repr=False)
    memo: Memo = field(default_factory=Memo, init=False, repr=False)

    def units(self, array: IntArray) -> IntArray:
        """Unit ids instead of labels."""
        return self.unit_of_label[array]

    def order(self, array: IntArray) -> tuple[int, ...]:
        """The varying dimensions of a label array from the outermost to the innermost."""
        return self.layouts.order(array)

    @cached_property
    def counts_samples(self) -> bool:
        """Units repeat from sample to sample along some axis (heads are laid into the batch, say)."""
        if not self.trace.dynamic_batch:
            return False
        for node, held in self.values.items():
            tensor = node.meta.get("val")
            if not isinstance(held, Value) or not isinstance(tensor, torch.Tensor):
                continue
            counted = {d for d, n in enumerate(tensor.shape) if type(n) is not int}
            if any(counted & set(varying(a)) for a in held.arrays):
                return True
        return False
