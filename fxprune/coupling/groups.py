"""What the coupling finds: pins, ties, layouts, groups of units that stand and fall together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fxprune.escaping import line
from fxprune.labels import BoolArray, IntArray
from fxprune.plans import Axis, WidthRow
from fxprune.support.briefly import brief

if TYPE_CHECKING:  # the nouns import no machinery when they run
    from fxprune.coupling.cost import CostModel
    from fxprune.graph.trace import Trace

__all__ = ["AtLeast", "Block", "Coupling", "Group", "Groups", "Pin", "Tie"]

_SHOWN = 6


@dataclass(frozen=True)
class Pin:
    """Why the units of a group cannot go.

    Attributes:
        reason: One sentence.
        op: The operator that pins, as ``aten.sort.default``.
        node: Its node in the graph.
        source: The user's source line, as ``model.py:31``.
        kind: ``"input"``, ``"output"``, ``"contract"`` (the op fixes this width, a kernel
            extent say), ``"data"`` (tied with an axis that carries no units), ``"size"`` (their number
            or their places depend on data) or ``"unknown"`` (no rule for the op, or none to be believed).
    """

    reason: str
    op: str = ""
    node: str = ""
    source: str = ""
    kind: Literal["input", "output", "contract", "data", "size", "unknown"] = "contract"

    def __str__(self) -> str:
        where = f" [{self.op} '{self.node}'" + (f" at {self.source}]" if self.source else "]")
        return self.reason + (where if self.op else "")


@dataclass(frozen=True)
class Tie:
    """Two tensor axes that share units, and the operator that makes them.

    Attributes:
        a: One axis.
        b: The other; a name in angle brackets is a node's own axis (padding, rows of heads).
        op: The operator, as ``aten.add.Tensor``.
        node: Its node in the graph.
        source: The user's source line.
    """

    a: Axis
    b: Axis
    op: str
    node: str
    source: str


@brief
@dataclass(frozen=True, eq=False)
class Block:
    """Units laid out as a matrix (heads x width, groups x channels) that must stay rectangular.

    A set of units may be kept if, after dropping the rows that die whole, every row keeps the
    same number of cells.  With ``columns`` the rows also keep the *same* cells.

    Attributes:
        rows: int64[h], unit id of each row: alive exactly if any cell of the row is.
        cells: int64[h, d], unit ids.  A unit may appear in several blocks.
        columns: int64[d] unit ids or None: a cell is alive exactly if row and column are.
        node: The node whose layout asks for it.
    """

    rows: IntArray
    cells: IntArray
    columns: IntArray | None
    node: str


@brief
@dataclass(frozen=True, eq=False)
class AtLeast:
    """An operator that needs several positions: the unbiased variance of one channel is no number.

    Attributes:
        units: int64[h, n], units at the positions of each row over which the operator runs.
        count: Positions that every row which keeps anything must keep.
        node: The node that asks for it.
    """

    units: IntArray
    count: int
    node: str


@dataclass(frozen=True, eq=False, repr=False)
class Group:
    """Units (channels, features, heads' columns) that occupy the same axes of the same tensors.

    Unit ``u`` of the group lives at ``indices[axis][u]`` along every member axis; removing it
    removes all of those slices together.

    Attributes:
        name: Unique and stable for a model: the module of the first producer.
        units: int64[width], ids of the units in the coupling.
        indices: For each member axis int64[width, k]: the k positions of each unit (k is 1
            except behind a flatten, a repeat, or where one tensor holds several tied parts).
        producers: Member axes along which units are made (output axis of a convolution).
        consumers: Member axes along which units are summed over (input axis).
        exact: Removing units equals zeroing them.
        pinned: None, or why nothing of the group can go.
        blocks: Layout constraints in which the units take part.
        trace: The trace the group was found in, so that methods that act on groups can plan.
    """

    name: str
    units: IntArray
    indices: Mapping[Axis, IntArray]
    producers: tuple[Axis, ...]
    consumers: tuple[Axis, ...]
    exact: bool
    pinned: Pin | None
    blocks: tuple[Block, ...] = ()
    trace: Trace | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        axes = f"{len(self.members)} {'axis' if len(self.members) == 1 else 'axes'}"
        sizes = dict.fromkeys("x".join(map(str, block.cells.shape)) for block in self.blocks)
        layout = f", in blocks {', '.join(sizes)}" if sizes else ""
        what = "exact" if self.exact else "inexact"
        what = f"pinned: {self.pinned.reason}" if self.pinned else what
        return line(f"Group('{self.name}': {self.width} units on {axes}{layout}; {what})")

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def members(self) -> tuple[Axis, ...]:
        """Every ``(tensor name, dim)`` the units occupy, in the order of the graph."""
        return tuple(self.indices)


class Groups(tuple[Group, ...]):
    """Groups in the order of the model: a tuple that prints in some lines."""

    __slots__ = ()

    def __repr__(self) -> str:
        free = [group for group in self if group.pinned is None]
        shown = [f"  {group!r}," for group in free[:_SHOWN]]
        rest = [f"  ... and {len(free) - _SHOWN} more"] if len(free) > _SHOWN else []
        return "\n".join([f"<{len(self)} groups, {len(free)} can be pruned", *shown, *rest]) + ">"


@brief
@dataclass(frozen=True, eq=False)
class Coupling:
    """Everything the engine knows about which indices live and die together.

    A unit is what goes or stays as one.  Some units are virtual (rows and columns of blocks,
    padding): they occupy no tensor and are in no group.

    Attributes:
        groups: Groups that touch at least one parameter or buffer, pinned ones included.
        blocks: Live layout constraints over unit ids.
        n_units: Unit ids are ``0 .. n_units - 1``.
        pinned: bool[n_units], units that cannot go.
        axes: For every labelled axis of every parameter and buffer, int64[size]: the unit at
            each index.
        cost: Parameters and MACs as functions of a keep mask.
        fingerprint: Of the model: names, shapes and the graph's operators.
        at_least: How many positions some operators need.
    """

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    n_units: int
    pinned: BoolArray
    axes: Mapping[Axis, IntArray]
    cost: CostModel
    fingerprint: str
    at_least: tuple[AtLeast, ...] = ()

    def widths(self, keep: BoolArray) -> tuple[WidthRow, ...]:
        """Units of every group that could be pruned, all of them and those that a mask keeps.

        Args:
            keep: bool[n_units].
        """
        return tuple(
            WidthRow(group.name, group.width, int(keep[group.units].sum()), len(group.members))
            for group in self.groups
            if not group.pinned
        )
