"""The dense model with dead units zeroed where they are read: what a slim model must equal.

At every contraction (convolution, linear layer, matrix product, sum) the positions of dead units
are zeroed in what it reads, so the result is that of a model in which they were removed, whatever
the dead channels carry.  Operators that would notice the zeros (layer norm, softmax over channels)
are run over what is left.  Borders that kernels lose are zeroed in the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import cached_property

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxprune.models.conditions import cast, unfused
from fxprune.ops import qualified_name
from fxprune.ops.base import Value
from fxprune.plans import Crop
from fxprune.proof.masks.call import Unknown
from fxprune.proof.masks.masked import Masked
from fxprune.proof.masks.states import ALIVE, DEAD
from fxprune.resizing.resolve import Resolution
from fxprune.slimming.crop import outside

__all__ = ["Oracle"]


class Oracle(fx.Interpreter):
    """Runs the traced graph with the dead units of a resolution zeroed.

    Args:
        resolution: What lives and dies.
        dtype: Floating type to compute in.
        restrict: Run operators that would notice zeros on what is left; without it they see
            the zeros, which shows how inexact a removal is.
        silent: Nodes whose results are multiplied by zero: structures that a plan cuts.
        crops: Kernels whose borders are zeroed.
    """

    def __init__(
        self,
        resolution: Resolution,
        dtype: torch.dtype,
        *,
        restrict: bool = True,
        silent: Set[fx.Node] = frozenset(),
        crops: Sequence[Crop] = (),
    ) -> None:
        super().__init__(resolution.analysis.trace.graph)
        self.silent = silent
        self.crops = {crop.tensor: crop for crop in crops}
        self.resolution = resolution
        self.analysis = resolution.analysis
        self.dtype = dtype
        self.restrict = restrict
        self.own: dict[str, torch.Tensor] = {}

    def get_attr(self, target: object, args: object, kwargs: object) -> torch.Tensor:
        """Tensors come from the model as it is now; each run has its own, which it may write into."""
        name = str(target)
        if name not in self.own:
            tensor = self.analysis.trace.tensor(name).detach()
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
        if n.op != "call_function" or n not in self.analysis.calls:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        values = self._named(n, args, kwargs)
        if n in self.analysis.restricted and self.restrict and self._touched(n):
            return self._restricted(n, values)
        if self.restrict or not self._of_literals(n):
            for name, arrays in self.analysis.consumed.get(n, []):
                values = self._zeroed(values, name, arrays)
        return n.target(**values)  # type: ignore[operator]

    def _of_literals(self, node: fx.Node) -> bool:
        """It reads only numbers that the code writes down: they are no channels, and zeros do not change them."""
        return self.literals.issuperset(node.all_input_nodes)

    @cached_property
    def literals(self) -> frozenset[fx.Node]:
        """Nodes whose numbers depend on no input and no tensor of the model (``ones_like`` reads a shape)."""
        literals: set[fx.Node] = set()
        for node in self.graph.nodes:
            name = qualified_name(node.target) if node.op == "call_function" else ""
            if name.endswith("_like") or (name and literals.issuperset(node.all_input_nodes)):
                literals.add(node)
        return frozenset(literals)

    def _named(
        self, node: fx.Node, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> dict[str, object]:
        """Arguments by schema name.

        Types written in the code are for ``Conditions`` to change, which sees whether a conversion copies: one to the
        type that a tensor has already would be the tensor itself, and later writes would reach it.
        """
        names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def _live(self, arrays: tuple[np.ndarray, ...]) -> torch.Tensor:
        mask = np.ones((), bool)
        for array in arrays:
            mask = mask & self.resolution.keep[self.analysis.units(array)]
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
        return any(not self._live((a,)).all() for a in self.analysis.restricted[node])

    def _restricted(self, node: fx.Node, values: dict[str, object]) -> object:
        """Run the op over what its operands' labels leave, by laws that are not those of the rules.

        Every position stays where it is in the dense model: labels that a rule has put in a wrong place, or tied
        wrongly, then do not fit what is sliced by them.
        """
        mode = Masked(self.dtype, follow=True)
        for name, labelled in self.analysis.calls[node].args.items():
            several = isinstance(labelled, list)
            held = zip(labelled, values[name]) if several else [(labelled, values.get(name))]  # type: ignore[call-overload]
            for value, tensor in held:
                if isinstance(value, Value) and isinstance(tensor, torch.Tensor):
                    mode.states.set(tensor, torch.where(self._live(value.arrays), ALIVE, DEAD))
        with mode, unfused():
            result = node.target(**values)  # type: ignore[operator]
        for tensor in pytree.tree_leaves(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            if why := mode.states.lost(tensor):
                raise Unknown(why)
            state = mode.states.of(tensor)
            if state is not None and bool((odd := (state == DEAD) & ~tensor.isfinite()).any()):
                tensor.masked_fill_(odd, 0)  # a softmax over nothing, which would outlast a product with zero
        return result
