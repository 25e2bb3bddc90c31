"""What a sample is: one small call of an operator, on which the laws of rules run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fxprune.errors import FxpruneError

__all__ = [
    "Operand",
    "Sample",
    "aten",
    "buffer",
    "complex_parameter",
    "given",
    "parameter",
    "positive",
]


@dataclass(frozen=True)
class Operand:
    """A tensor of a sample: a parameter whose every dimension carries units, or an input without.

    Attributes:
        make: Makes its value.
        labelled: It is a parameter or buffer.
    """

    make: Callable[[], torch.Tensor]
    labelled: bool = True


@dataclass(frozen=True, eq=False)
class Sample:
    """One call of an operator.

    Dimensions of different sizes show confusions as crashes, dimensions of equal sizes show them as wrong numbers:
    give a sample of each kind.

    Attributes:
        op: The operator, as ``"mylib::swish"``, or with an overload, as ``"aten.add.Tensor"``.
        args: Positional arguments; operands stand for tensors.
        free: Which dimensions of which labelled operands hold units that may go, as ``"01 0"``: dimensions
            0 and 1 of the first, 0 of the second operand; ``-`` for none.  None if nothing is expected.
        kwargs: Keyword arguments by name.
        chance: The result is random, so only shapes are compared.

    Example:
        >>> sample = Sample("aten.linear.default", (given(5, 3), parameter(4, 3)), free="0")
        >>> sample.name, sample.target
        ('aten::linear', <OpOverload(op='aten.linear', overload='default')>)
    """

    op: str
    args: tuple[object, ...]
    free: str | None = None
    kwargs: tuple[tuple[str, object], ...] = ()
    chance: bool = False

    @property
    def name(self) -> str:
        """The operator without overload, as ``"aten::conv2d"``; rules are filed under it."""
        namespace, op = self._parts[:2]
        return f"{namespace}::{op}"

    @property
    def target(self) -> torch._ops.OpOverload:
        """The operator itself.

        Raises:
            FxpruneError: Torch knows no operator of this name.
        """
        namespace, op, variant = (*self._parts, "default")[:3]
        try:
            operator: object = getattr(getattr(getattr(torch.ops, namespace), op), variant)
        except AttributeError as error:
            raise FxpruneError(
                f"torch knows no operator '{self.op}'",
                advice="import what defines it first, and write mylib::swish",
            ) from error
        assert isinstance(operator, torch._ops.OpOverload)
        return operator

    @property
    def _parts(self) -> tuple[str, ...]:
        parts = tuple(self.op.replace("::", ".").split("."))
        if len(parts) not in (2, 3):
            raise FxpruneError(f"'{self.op}' is no name of an operator", advice="write it as mylib::swish")
        return parts


def parameter(*shape: int) -> Operand:
    """A parameter with random entries, float64 of this shape."""
    return Operand(lambda: torch.randn(shape, dtype=torch.float64))


def positive(*shape: int) -> Operand:
    """A parameter with entries between 0.1 and 0.9, float64 of this shape."""
    return Operand(lambda: torch.rand(shape, dtype=torch.float64) * 0.8 + 0.1)


def given(*shape: int) -> Operand:
    """An input of the model, whose axes carry no units, float64 of this shape."""
    return Operand(lambda: torch.randn(shape, dtype=torch.float64), labelled=False)


def complex_parameter(*shape: int) -> Operand:
    """A complex parameter, complex128 of this shape."""
    return Operand(lambda: torch.randn(shape, dtype=torch.complex128))


def buffer(*entries: object) -> Operand:
    """A buffer of these integers or booleans."""
    return Operand(lambda: torch.tensor(entries))


def aten(name: str, *args: object, free: str, chance: bool = False, **kwargs: object) -> Sample:
    """A sample of one of PyTorch's own operators."""
    full = name if "." in name else f"{name}.default"
    return Sample(f"aten.{full}", args, free, tuple(kwargs.items()), chance)
