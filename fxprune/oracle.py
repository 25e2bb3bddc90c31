"""The dense model with dead units zeroed where they are read: what a slim model must equal.

At every contraction (convolution, linear layer, matrix product, sum) the positions of dead units
are zeroed in what it reads, so the result is that of a model in which they were removed, whatever
the dead channels carry.  Operators that would notice the zeros (layer norm, softmax over channels)
are run on what is left and their result is spread out again.  Borders that kernels lose are zeroed in the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
import torch
from torch import fx

from fxprune.couple import flow
from fxprune.crop import outside
from fxprune.labels import nested_shape, varying
from fxprune.ops import rule_for
from fxprune.ops.base import Call, Scaled, Value
from fxprune.proof.conditions import cast
from fxprune.resize import Resolution
from fxprune.trace import Trace
from fxprune.types import Crop

__all__ = ["Oracle", "wide"]


@contextlib.contextmanager
def wide(dtype: torch.dtype) -> Iterator[None]:
    """Let tensors that code makes without naming a type have this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Oracle(fx.Interpreter):
    """Runs the traced graph with the dead units of a resolution zeroed.

    Args:
        trace: The trace.
        found: What lives and dies.
        dtype: Floating type to compute in.
        restrict: Run operators that would notice zeros on what is left; without it they see
            the zeros, which shows how inexact a removal is.
        silent: Nodes whose results are multiplied by zero: structures that a plan cuts.
        crops: Kernels whose borders are zeroed.
    """

    def __init__(
        self,
        trace: Trace,
        found: Resolution,
        dtype: torch.dtype,
        *,
        restrict: bool = True,
        silent: Set[fx.Node] = frozenset(),
        crops: Sequence[Crop] = (),
    ) -> None:
        super().__init__(trace.graph)
        self.silent = silent
        self.crops = {crop.tensor: crop for crop in crops}
        self.trace = trace
        self.found = found
        self.dtype = dtype
        self.restrict = restrict
        self.flow = flow(trace)
        self.own: dict[str, torch.Tensor] = {}

    def get_attr(self, target: object, args: object, kwargs: object) -> torch.Tensor:
        """Tensors come from the model as it is now; each run has its own, which it may write into."""
        name = str(target)
        if name not in self.own:
            tensor = self.trace.tensor(name).detach()
            if crop := self.crops.get(name):
                tensor = tensor.masked_fill(outside(crop, tensor), 0)
            self.own[name] = cast(tensor, self.dtype, copy=True)
        return self.own[name]

    def run_node(self, n: fx.Node) -> object:
        """The node's result, or zeros if it is silent."""
        result = self._result(n)
        if n in self.silent:
            assert isinstance(result, torch.Tensor)
            return torch.zeros_like(result)
        return result

    def _result(self, n: fx.Node) -> object:
        """Zero what is consumed, or compute on what is left."""
        if n.op != "call_function" or n not in self.flow.walk.calls:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        values = self._named(n, args, kwargs)
        if n in self.flow.walk.restricted and self.restrict and self._touched(n):
            return self._restricted(n, values)
        for name, arrays in self.flow.walk.consumed.get(n, []):
            values = self._zeroed(values, name, arrays)
        return n.target(**values)  # type: ignore[operator]

    def _named(
        self, node: fx.Node, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> dict[str, object]:
        """Arguments by schema name, computed in the oracle's type."""
        names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
        values = {**dict(zip(names, args, strict=False)), **kwargs}
        return {k: self.dtype if v is torch.float32 else v for k, v in values.items()}

    def _live(self, arrays: tuple[np.ndarray, ...]) -> torch.Tensor:
        mask = np.ones((), bool)
        for array in arrays:
            mask = mask & self.found.keep[self.flow.units(array)]
        return torch.from_numpy(np.ascontiguousarray(mask))

    def _zeroed(
        self, values: dict[str, object], name: str, arrays: tuple[np.ndarray, ...]
    ) -> dict[str, object]:
        mask = self._live(arrays)
        if bool(mask.all()):
            return values
        list_name, _, number = name.partition(".")
        if number:
            items = list(values[list_name])  # type: ignore[call-overload]
            items[int(number)] = torch.where(mask, items[int(number)], 0)
            return {**values, list_name: items}
        tensor = values[name]
        assert isinstance(tensor, torch.Tensor)
        return {**values, name: torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype))}

    def _touched(self, node: fx.Node) -> bool:
        """Something is gone that others see; what is exact is left to zeros, which need no labels of the result."""
        return any(not self._live((a,)).all() for a in self.flow.walk.restricted[node])

    def _restricted(self, node: fx.Node, values: dict[str, object]) -> object:
        """Run the op on what is left of its operands and spread the result out again."""
        call = self.flow.walk.calls[node]
        places = self._places(node, call)
        for name, value in call.args.items():
            if isinstance(value, Value):
                values[name] = self._compressed(values[name], places.get(name, value))  # type: ignore[arg-type]
        rewrite = self.found.rewrites.get(node)
        for name, new in rewrite.args.items() if rewrite else ():
            old = values.get(name)
            if isinstance(new, list) and isinstance(old, list):
                new = [o if n is None else n for o, n in zip(old, new, strict=True)]
            assert not isinstance(new, Scaled)
            values[name] = new
        result = node.target(**values)  # type: ignore[operator]
        dense = self.flow.walk.values[node]
        if isinstance(dense, list):
            first, *others = dense
            held = [places.get("", first), *others]
            return [self._spread(r, v) for r, v in zip(result, held, strict=True)]
        return self._spread(result, places.get("", dense))  # type: ignore[arg-type]

    def _places(self, node: fx.Node, call: Call) -> dict[str, Value]:
        """Operands, and the result under an empty name, by the positions of the first tensor.

        Labels that a rule has put in a wrong place, or tied wrongly, then do not fit what is sliced by them.
        """
        rule = rule_for(node.target)
        if rule is None or rule.aligned is None:
            return {}
        x = call.tensors()[0]
        found = {"": x}
        for name, dims in rule.aligned(call).items():
            operand = call.optional(name)
            arrays = [a for a in x.arrays if set(varying(a)) & set(dims)]
            if operand is not None and all(set(varying(a)) <= set(dims) for a in arrays):
                lines = tuple(a.reshape([a.shape[d] for d in dims]) for a in arrays)
                found[name] = Value(operand.shape, lines)
        return found

    def _lines(self, value: Value) -> list[tuple[list[int], np.ndarray]]:
        """For each set of labelled dimensions, outermost first, the mask of what is left."""
        lines: dict[tuple[int, ...], np.ndarray] = {}
        for array in value.arrays:
            order = self.flow.walk.order(array)
            if order:
                moved = array.transpose([*order, *(d for d in range(array.ndim) if d not in order)])
                cells = moved.reshape([array.shape[d] for d in order])
                mask = self.found.keep[self.flow.units(cells)]
                lines[order] = lines[order] & mask if order in lines else mask
        return [(list(order), mask) for order, mask in lines.items()]

    def _compressed(self, tensor: torch.Tensor, value: Value) -> torch.Tensor:
        for order, mask in self._lines(value):
            rest = [d for d in range(tensor.ndim) if d not in order]
            moved = tensor.permute([*order, *rest])
            sizes = nested_shape(mask)
            assert sizes is not None
            left = moved[torch.from_numpy(mask)].reshape([*sizes, *moved.shape[len(order) :]])
            tensor = left.permute(np.argsort([*order, *rest]).tolist())
        return tensor

    def _spread(self, tensor: torch.Tensor, value: Value) -> torch.Tensor:
        for order, mask in self._lines(value):
            rest = [d for d in range(tensor.ndim) if d not in order]
            moved = tensor.permute([*order, *rest])
            out = moved.new_zeros([*mask.shape, *moved.shape[len(order) :]])
            out[torch.from_numpy(mask)] = moved.reshape([-1, *moved.shape[len(order) :]])
            tensor = out.permute(np.argsort([*order, *rest]).tolist())
        return tensor
