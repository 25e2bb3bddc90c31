"""What a rule sees of the graph: values with labels, calls with named arguments, a context to act on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fxprune.labels import IntArray, varying
from fxprune.support.briefly import brief

__all__ = [
    "Argument",
    "Call",
    "Context",
    "OpRule",
    "Output",
    "Rewrite",
    "Scaled",
    "Value",
    "across",
    "solid",
]

Shape = tuple[int, ...]
PinKind = Literal["input", "output", "contract", "data", "size", "unknown"]


@brief
@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph: its shape on the example inputs and its label arrays.

    Attributes:
        shape: Concrete sizes.
        arrays: Label arrays; a position is gone as soon as one of its labels is.
        origin: Where data without labels comes from ("the model input 'x'"), for messages.
        data: Entries of an integer constant that is known before the model runs.
        filled: The entries depend on no tensor's entries, only on sizes: their sum is a count.
    """

    shape: Shape
    arrays: tuple[IntArray, ...] = ()
    origin: str = ""
    data: IntArray | None = None
    filled: bool = False

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


Output = Value | list[Value] | None
Argument = object


@dataclass(frozen=True)
class Scaled:
    """A symbolic size argument that must be multiplied by ``numerator / denominator``."""

    numerator: int
    denominator: int


@brief
@dataclass(frozen=True, eq=False)
class Call:
    """One operator call with its arguments by the names of the operator's schema.

    Attributes:
        op: Qualified operator name without overload, as ``aten::conv2d``.
        args: Tensors as Value, lists of tensors as lists of Value, the rest as plain numbers.
        out: Shape of the result, or the list of shapes where there are several.
        symbolic: Names of arguments (with the list position) that are symbolic sizes.
        unsettled: The same of numbers that only the data know; another number stands for each.
        used: Numbers of the results that are read, where there are several.
        shared: The result shares memory that a later operator writes to.
        stacked: The result is read as states: layers along the first dimension, units of each along the last.
        regrouped: The result is read by an operator that merges or splits dimensions.
    """

    op: str
    args: Mapping[str, Argument]
    out: Shape | list[Shape]
    symbolic: frozenset[tuple[str, int]] = frozenset()
    unsettled: frozenset[tuple[str, int]] = frozenset()
    used: frozenset[int] = frozenset()
    shared: bool = False
    stacked: bool = False
    regrouped: bool = False

    def tensor(self, name: str) -> Value:
        """A tensor argument that must be there."""
        value = self.args[name]
        assert isinstance(value, Value), (self.op, name, value)
        return value

    def optional(self, name: str) -> Value | None:
        """A tensor argument that may be None."""
        value = self.args.get(name)
        return value if isinstance(value, Value) else None

    def tensors(self) -> list[Value]:
        """Every tensor argument, lists flattened, in order."""
        tensors: list[Value] = []
        for value in self.args.values():
            if isinstance(value, Value):
                tensors.append(value)
            elif isinstance(value, (list, tuple)):
                tensors.extend(v for v in value if isinstance(v, Value))
        return tensors

    def integer(self, name: str, default: int = 0) -> int:
        """An integer argument."""
        value = self.args.get(name)
        return default if value is None else int(value)  # type: ignore[call-overload]

    def integers(self, name: str) -> list[int]:
        """A list of integers; a single number becomes a list of one."""
        value = self.args.get(name)
        if value is None:
            return []
        return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]  # type: ignore[call-overload]

    @property
    def shape(self) -> Shape:
        """Shape of the only result."""
        assert isinstance(self.out, tuple), self.op
        return self.out

    def others(self) -> list[IntArray]:
        """Label arrays of every tensor but the first: a rule that lets them go must pin them."""
        return [a for v in self.tensors()[1:] for a in v.arrays]


class Context(Protocol):
    """What a rule may do with labels; the coupling walk implements it."""

    def tie(self, a: IntArray, b: IntArray) -> None:
        """Labels at the same position live or die together (shapes broadcast)."""

    def pin(self, arrays: Sequence[IntArray], reason: str, kind: PinKind = "contract") -> None:
        """None of these labels may go."""

    def inexact(self, arrays: Sequence[IntArray]) -> None:
        """Removing these labels changes what is computed from the others."""

    def need(self, rows: IntArray, count: int) -> None:
        """Every row of labels ``[h, n]`` that keeps anything keeps ``count`` positions (or all it has)."""

    def consume(self, argument: str, arrays: Sequence[IntArray]) -> None:
        """The call sums over these labels of the named argument: zeroing there is removing."""

    def project(self, array: IntArray, dims: Sequence[int]) -> IntArray:
        """Labels of the rows (or columns) of a layout over several dimensions."""

    def merge(self, operands: Sequence[Value], shape: Shape) -> tuple[IntArray, ...]:
        """Broadcast operands elementwise, tie what meets, and return the labels of the result."""

    def fresh(self, shape: Shape) -> IntArray:
        """New labels that belong to no parameter."""

    def padding(self, shape: Shape) -> IntArray:
        """New labels of positions that hold a constant: they stay unless they meet units that a layer makes."""

    def role(self, produced: Sequence[IntArray], consumed: Sequence[IntArray]) -> None:
        """Weight labels that make units, and those that read them."""

    def macs(self, constant: float, arrays: Sequence[IntArray], divisor: IntArray | None = None) -> None:
        """Multiply-accumulates of the call: constant times the number of positions in each array."""

    def nest(self, array: IntArray, order: Sequence[int]) -> None:
        """Say that this array over several dimensions nests in the given order, outermost first."""

    def order(self, array: IntArray) -> tuple[int, ...]:
        """The varying dimensions from the outermost to the innermost."""


@brief
@dataclass(frozen=True, eq=False)
class Rewrite:
    """New arguments of a call for the slim shapes.

    Attributes:
        args: Changed arguments by name; list entries may be ``Scaled``.
        op: Another operator to call instead (``aten::split_with_sizes``), or empty.
    """

    args: Mapping[str, Argument] = field(default_factory=dict)
    op: str = ""


def solid(ctx: Context, value: Value, first: int, reason: str) -> Value:
    """Make the dimensions from ``first`` on one piece: an op works on them as a whole.

    Rows of pixels live or die with their channel; labels of these dimensions alone are pinned.

    Args:
        ctx: Receives ties and pins.
        value: A tensor.
        first: First dimension of the piece.
        reason: Why positions inside it cannot go.

    Returns:
        The value without these dimensions.
    """
    good = []
    for array in value.arrays:
        axes = varying(array)
        if axes and axes[0] >= first:
            ctx.pin([array], reason)
        elif axes:
            head = array[(slice(None),) * first + (slice(0, 1),) * (array.ndim - first)]
            if axes[-1] >= first:
                ctx.tie(array, head)
            good.append(head.reshape(array.shape[:first]))
    return Value(value.shape[:first], tuple(good), value.origin)


def across(ctx: Context, arrays: Sequence[IntArray], dims: Iterable[int]) -> list[IntArray]:
    """The law of every op that works along some dimensions: positions that it brings together stay together.

    Where labels vary along these dimensions and along others (rows of a view, stacked branches), the op meets
    the cells of a column, or the columns of a row, wherever they lie: what is left must still lie side by side.

    Args:
        ctx: Is asked for the labels of what lies side by side, which ties it.
        arrays: Label arrays of what the op reads.
        dims: The dimensions it works along.

    Returns:
        The labels of each array that do not depend on these dimensions; none for arrays that vary along no others.
    """
    worked = set(dims)
    rest = [[d for d in varying(a) if d not in worked] for a in arrays]
    return [
        ctx.project(a, r) if worked & set(varying(a)) else a for a, r in zip(arrays, rest, strict=True) if r
    ]


Move = Callable[[Call, IntArray, Shape], IntArray | list[IntArray]]


@dataclass(frozen=True)
class OpRule:
    """All that fxprune knows about a family of operators.

    Attributes:
        ops: Qualified names without overload; in-place variants (``relu_``) follow by themselves.
        couple: Labels in, labels out; ties, pins and costs go to the context.
        resize: Arguments that hold widths, for the slim shapes; None if there are none.
        move: For ops that only move positions of their first tensor: what they do to one label
            array.  The slim op is checked against it and, where it cannot express the same
            positions any more, replaced by a gather.
        gathers: The op's values depend on the position: made at full width, then gathered.
        aligned: For ops whose result keeps the positions of their first tensor: by name, along which
            of its dimensions the other operands lie.  The oracle goes by it rather than by labels.
        stacked: Reads states that hold layers along the first dimension and the units of each along the last.
        fills: The result's entries depend on no operand's entries (``ones_like``).
        regroups: Merges or splits dimensions.
    """

    ops: tuple[str, ...]
    couple: Callable[[Context, Call], Output]
    resize: Callable[[Call, Call], Rewrite] | None = None
    move: Move | None = None
    gathers: bool = False
    aligned: Callable[[Call], Mapping[str, tuple[int, ...]]] | None = None
    stacked: bool = False
    fills: bool = False
    regroups: bool = False
