"""Samples of single operators as whole networks, for the complete chain from trace to verify."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from fxprune.graph.trace import Trace, trace
from fxprune.testing.lone import tensors
from fxprune.testing.samples.base import Operand, Sample

__all__ = ["framed"]


class Framed(nn.Module):
    """One operator call on parameters, whose results and operands are weighed and summed to a single number.

    The number does not depend on any width, so units may go from every dimension.  The sums read the
    operands as well as the results: a rule that loses the labels of its result leaves units that may
    still go, with an operator that was not told.
    """

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.call = sample.target
        self.operands: list[str] = []
        self.inputs: list[torch.Tensor] = []
        self.given = [self._placed(a) for a in sample.args]
        self.named = {name: self._placed(a) for name, a in sample.kwargs}
        with torch.no_grad():
            results = self._results(tuple(self.inputs))
        self.readers = nn.ParameterList([torch.randn(t.shape) for t in results])
        self.second = nn.ParameterList([torch.randn(self.get_parameter(n).shape) for n in self.operands])

    def _placed(self, argument: object) -> object:
        """Operands become parameters, buffers or inputs; a function that fetches them takes their place."""
        if isinstance(argument, list):
            return [self._placed(a) for a in argument]
        if argument is torch.float64:
            return torch.float32
        if not isinstance(argument, Operand):
            return argument
        tensor = argument.make()
        if tensor.is_floating_point():
            tensor = tensor.float()
        if not argument.labelled:
            self.inputs.append(tensor)
            return _Input(len(self.inputs) - 1)
        name = f"t{len(self._parameters) + len(self._buffers)}"
        if tensor.is_floating_point() or tensor.is_complex():
            # Statistics that want gradients would be written to, which torch.export refuses.
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
            self.operands.append(name)
        else:
            self.register_buffer(name, tensor)
        return _Own(name)

    def _fetched(self, argument: object, inputs: tuple[torch.Tensor, ...]) -> object:
        if isinstance(argument, list):
            return [self._fetched(a, inputs) for a in argument]
        if isinstance(argument, _Input):
            return inputs[argument.number]
        return getattr(self, argument.name) if isinstance(argument, _Own) else argument

    def _results(self, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        given = [self._fetched(a, inputs) for a in self.given]
        named = {name: self._fetched(a, inputs) for name, a in self.named.items()}
        return tensors(self.call(*given, **named))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        # Something of every input, so that a sample without inputs has a batch to run on.
        total = inputs[0].sum()
        for result, reader in zip(self._results(inputs), self.readers):
            total = total + (result * reader).sum()
        for name, reader in zip(self.operands, self.second):
            total = total + (self.get_parameter(name) * reader).sum()
        return total


class _Input:
    """Stands for an input of the network."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Own:
    """Stands for a parameter or buffer."""

    def __init__(self, name: str) -> None:
        self.name = name


@cache
def framed(sample: Sample) -> Trace:
    """The network of a sample, traced; the same one whenever it is asked for."""
    torch.manual_seed(0)
    model = Framed(sample)
    return trace(model.eval(), tuple(model.inputs) or torch.randn(2, 3))
