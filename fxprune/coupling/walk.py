"""The coupling walk: every operator's rule once over the graph, labels in, labels and ties out."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from math import prod

import numpy as np
import torch
from torch import fx

from fxprune import labels
from fxprune.coupling.accounts import Ledger, adrift, flaw
from fxprune.coupling.binding import bind, fake_tensors, held_tensors, macs_without_rule, shapes_of
from fxprune.coupling.cost import CostBuilder
from fxprune.coupling.groups import Pin
from fxprune.coupling.sizes import SYMBOLIC, concrete, concrete_shape, one_of_each, open_dims
from fxprune.errors import TraceError
from fxprune.graph.trace import Trace
from fxprune.labels import IntArray, varying
from fxprune.ops import qualified_name, rule_for, written_later
from fxprune.ops.base import Call, OpRule, Output, PinKind, Value
from fxprune.plans import Axis

__all__ = ["Layout", "Walk"]

Shape = tuple[int, ...]

# Integer constants up to this size are read, so that indexing by them can be followed.
READABLE = 1 << 16


@dataclass(eq=False)
class Layout:
    """Labels over several dimensions, outermost first, and the labels of their rows and columns.

    Attributes:
        cells: int64[n1, ..., nk].
        rows: For each level but the last, labels of its rows: int64[n1], int64[n1, n2], ...
        columns: int64[nk], set when something ties a column across all rows.
        node: Where it was first seen.
    """

    cells: IntArray
    rows: list[IntArray]
    columns: IntArray | None
    node: str


Placed = tuple[Layout, Shape, list[IntArray]]
"""A layout, the varying dimensions of an array from outside in, and per dimension its rows' numbers."""


@dataclass(eq=False)
class Walk:
    """Implements ``ops.base.Context`` and remembers what the rules said."""

    trace: Trace
    size: int = 0
    axes: dict[Axis, IntArray] = field(default_factory=dict)
    virtual: list[tuple[int, str]] = field(default_factory=list)
    ties: list[tuple[IntArray, IntArray, fx.Node]] = field(default_factory=list)
    pins: list[tuple[IntArray, Pin | tuple[str, PinKind, fx.Node]]] = field(default_factory=list)
    blurred: list[IntArray] = field(default_factory=list)
    needs: list[tuple[IntArray, int, fx.Node]] = field(default_factory=list)
    consumed: dict[fx.Node, list[tuple[str, tuple[IntArray, ...]]]] = field(default_factory=dict)
    restricted: dict[fx.Node, list[IntArray]] = field(default_factory=dict)
    produced_labels: list[IntArray] = field(default_factory=list)
    consumed_labels: list[IntArray] = field(default_factory=list)
    told: list[IntArray] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    layouts: dict[tuple[Shape, bytes], Layout] = field(default_factory=dict)
    placed: dict[int, tuple[weakref.ref[IntArray], Placed]] = field(default_factory=dict)
    values: dict[fx.Node, object] = field(default_factory=dict)
    calls: dict[fx.Node, Call] = field(default_factory=dict)
    origins: dict[str, PinKind] = field(default_factory=dict)
    unsupported: list[tuple[fx.Node, str]] = field(default_factory=list)
    costs: CostBuilder = field(default_factory=CostBuilder)
    counting: bool = True
    counted: bool = False
    node: fx.Node | None = None
    shared: set[fx.Node] = field(default_factory=set)

    # --- labels --------------------------------------------------------------------------------

    def _new(self, count: int) -> IntArray:
        self.size += count
        return np.arange(self.size - count, self.size, dtype=np.int64)

    def fresh(self, shape: Shape) -> IntArray:
        """New labels that belong to no parameter."""
        assert self.node is not None
        self.virtual.append((self.size, self.node.name))
        return self._new(prod(shape)).reshape(shape)

    def tensor_value(self, name: str) -> Value:
        """A parameter, buffer or constant: one label per index of every dimension."""
        name = self.trace.aliases.get(name, name)
        tensor = self.trace.tensor(name)
        shape = tuple(tensor.shape)
        arrays = []
        # What a recording met outside the model is data of that one run.
        widths = shape if self.trace.kind == "export" or name in self.trace.aliases else ()
        for dim, n in enumerate(widths):
            if n > 1:
                axis = (name, dim)
                if axis not in self.axes:
                    self.axes[axis] = self._new(n)
                arrays.append(labels.along(self.axes[axis], dim, len(shape)))
        data = None
        readable = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
        if readable and tensor.device.type != "meta" and tensor.numel() <= READABLE:
            data = tensor.detach().cpu().numpy().astype(np.int64)
        return Value(shape, tuple(arrays), "a constant", data)

    # --- what rules say ------------------------------------------------------------------------

    def tie(self, a: IntArray, b: IntArray) -> None:
        """Labels at the same position live or die together."""
        if a is b:
            return
        assert self.node is not None
        if a.shape != b.shape:
            a, b = np.broadcast_arrays(a, b)
        self.ties.append((a.ravel(), b.ravel(), self.node))

    def pin(self, arrays: Sequence[IntArray], reason: str, kind: PinKind = "contract") -> None:
        """None of these labels may go."""
        assert self.node is not None
        self.told.extend(arrays)
        self.pins.extend((a.ravel(), (reason, kind, self.node)) for a in arrays)

    def inexact(self, arrays: Sequence[IntArray]) -> None:
        """Removing these labels changes what is computed from the others."""
        assert self.node is not None
        self.told.extend(arrays)
        self.blurred.extend(a.ravel() for a in arrays)
        self.restricted.setdefault(self.node, []).extend(arrays)

    def need(self, rows: IntArray, count: int) -> None:
        """Every row of labels ``[h, n]`` that keeps anything keeps ``count`` positions, or as many as it has."""
        if count > 1:
            assert self.node is not None
            self.needs.append((rows, min(count, rows.shape[1]), self.node))

    def consume(self, argument: str, arrays: Sequence[IntArray]) -> None:
        """The call sums over these labels of an argument."""
        assert self.node is not None
        self.told.extend(arrays)
        self.consumed.setdefault(self.node, []).append((argument, tuple(arrays)))

    def role(self, produced: Sequence[IntArray], consumed: Sequence[IntArray]) -> None:
        """Weight labels that make units, and those that read them."""
        self.told.extend(consumed)
        self.produced_labels.extend(a.ravel() for a in produced)
        self.consumed_labels.extend(a.ravel() for a in consumed)

    def macs(self, constant: float, arrays: Sequence[IntArray], divisor: IntArray | None = None) -> None:
        """Multiply-accumulates of the call."""
        self.counted = True
        if self.counting:
            below = None if divisor is None else self.costs.form(divisor)
            assert self.node is not None
            count = one_of_each(int(constant), fake_tensors(self.node))
            self.costs.add_macs(count, *(self.costs.form(a) for a in arrays), divisor=below)

    # --- layouts -------------------------------------------------------------------------------

    def _layout(self, array: IntArray) -> Placed:
        """Where an array lies; rules and later stages ask again and again for the same ones."""
        known = self.placed.get(id(array))
        # The reference says whether this is still the array that once had this id.
        if known is None or known[0]() is not array:
            self.placed[id(array)] = known = (weakref.ref(array), self._place(array, None))
        return known[1]

    def _place(self, array: IntArray, nest: Sequence[int] | None) -> Placed:
        """Find or register the layout of an array.

        Equal slices along a dimension (heads repeated for every sample) count once.
        """
        axes = varying(array) if nest is None else tuple(nest)
        cells = array.reshape([n for n in array.shape if n > 1])
        cells = cells.transpose(np.argsort(np.argsort(axes))) if nest is not None else cells
        numbers = []
        for d in range(cells.ndim):
            cells, number = _distinct_slices(cells, d)
            numbers.append(number)
        for turn in permutations(range(cells.ndim)):
            turned = np.ascontiguousarray(cells.transpose(turn))
            found = self.layouts.get((turned.shape, turned.tobytes()))
            if found is not None:
                self._even(found, numbers[turn[-1]])
                return found, tuple(axes[t] for t in turn), [numbers[t] for t in turn]
        assert self.node is not None
        cells = np.ascontiguousarray(cells)
        rows = [self.fresh(cells.shape[:level]) for level in range(1, cells.ndim)]
        layout = Layout(cells, rows, None, self.node.name)
        self.layouts[(cells.shape, cells.tobytes())] = layout
        if numbers:
            self._even(layout, numbers[-1])
        return layout, axes, numbers

    def _even(self, layout: Layout, positions: IntArray) -> None:
        """Where some columns lie in more places than others, counts say nothing: all rows must keep the same ones."""
        if layout.cells.ndim > 1 and np.ptp(np.bincount(positions)) > 0:
            self._columns(layout)

    def _columns(self, layout: Layout) -> IntArray:
        if layout.columns is None:
            layout.columns = self.fresh(layout.cells.shape[-1:])
        return layout.columns

    def nest(self, array: IntArray, order: Sequence[int]) -> None:
        """Register an array over several dimensions with its nesting."""
        self._place(array, order)

    def order(self, array: IntArray) -> Shape:
        """The varying dimensions from the outermost to the innermost."""
        axes = varying(array)
        return axes if len(axes) < 2 else self._layout(array)[1]

    def project(self, array: IntArray, dims: Sequence[int]) -> IntArray:
        """Labels of rows or columns of a layout."""
        wanted = set(dims)
        axes = varying(array)
        if wanted >= set(axes):
            return array
        layout, order, numbers = self._layout(array)
        level = len(wanted)
        if set(order[:level]) == wanted:
            part = layout.rows[level - 1]
            used = list(range(level))
        elif wanted == {order[-1]}:
            part, used = self._columns(layout), [len(order) - 1]
        else:
            self.pin([array], "rows of a layout that is too irregular to slice")
            part = self.fresh(tuple(layout.cells.shape[order.index(d)] for d in sorted(wanted)))
            self.pin([part], "rows of a layout that is too irregular to slice")
            used = [order.index(d) for d in sorted(wanted)]
        part = part[np.ix_(*(numbers[k] for k in used))]
        target = [order[k] for k in used]
        part = part.transpose(np.argsort(target))
        return part.reshape([n if d in wanted else 1 for d, n in enumerate(array.shape)])

    # --- broadcasting --------------------------------------------------------------------------

    def merge(self, operands: Sequence[Value], shape: Shape) -> tuple[IntArray, ...]:
        """Broadcast operands elementwise and tie what meets."""
        operands = self._composed(operands)
        result: list[IntArray] = []
        opaque: set[int] = set()
        for value in operands:
            fixed = {d for d, n in enumerate(value.shape) if n > 1} - {
                d for a in value.arrays for d in varying(a)
            }
            if fixed:
                self._pin_against(value, fixed, operands)
                opaque |= fixed
        for value in operands:
            met: list[IntArray] = list(result)
            for array in value.arrays:
                # What was just pinned is an axis without units from here on.
                if not set(varying(array)) <= opaque:
                    met = self._meet(met, array, len(result))
            result = met
        return tuple(result)

    def _composed(self, operands: Sequence[Value]) -> Sequence[Value]:
        """Turn several arrays along one axis (rows and columns of what was flattened) into one where it meets others.

        A position dies with its row or with its column: tying it to both would tie all rows to all
        columns.  Operands with the very same arrays meet as they are.
        """
        result = list(operands)
        for k, value in enumerate(operands):
            by_axes: dict[Shape, list[IntArray]] = {}
            for array in value.arrays:
                by_axes.setdefault(varying(array), []).append(array)
            for axes, arrays in by_axes.items():
                if len(arrays) < 2 or not axes:
                    continue
                others = [
                    [a for a in v.arrays if set(varying(a)) & set(axes)] for v in result if v is not result[k]
                ]
                others = [o for o in others if o]
                if not others:
                    continue
                if all(_equal_arrays(arrays, o) for o in others):
                    for j in range(k + 1, len(result)):
                        left = tuple(a for a in result[j].arrays if not set(varying(a)) & set(axes))
                        result[j] = replace(result[j], arrays=left)
                    continue
                cells = arrays[0]
                for array in arrays[1:]:
                    joined = self._grid(cells, array)
                    if joined is None:
                        break
                    cells = joined
                else:
                    rest = tuple(a for a in result[k].arrays if not any(a is b for b in arrays))
                    result[k] = replace(result[k], arrays=(*rest, cells))
        return result

    def _grid(self, rows: IntArray, columns: IntArray) -> IntArray | None:
        """New labels for the cells of a grid that lies along one axis; None if it is not a complete grid."""
        names, row = np.unique(rows.ravel(), return_inverse=True)
        others, column = np.unique(columns.ravel(), return_inverse=True)
        for single, array, rest in ((names, rows, columns), (others, columns, rows)):
            if len(single) == 1:  # without it nothing would be left
                self.pin([array], "the only row of what was flattened here")
                return rest
        if len(np.unique(row * len(others) + column)) != len(names) * len(others):
            return None
        cells = self.fresh((len(names), len(others)))
        self.tie(self.project(cells, [0]).ravel(), names)
        self.tie(self.project(cells, [1]).ravel(), others)
        return cells[row, column].reshape(rows.shape)

    def _pin_against(self, value: Value, fixed: set[int], operands: Sequence[Value]) -> None:
        """Labels that meet an axis without units cannot go: of a layout its rows, or its columns, along that axis."""
        met = [a for v in operands if v is not value for a in v.arrays]
        bad = [self.project(a, sorted(fixed & set(varying(a)))) for a in met if fixed & set(varying(a))]
        if bad:
            what = value.origin or "data whose axis carries no units (positions, pixels, samples)"
            self.pin(bad, f"meets {what}", self.origins.get(what, "data"))

    def _meet(self, result: list[IntArray], array: IntArray, count: int) -> list[IntArray]:
        """Tie an operand's array with those of the operands before it (the first ``count``)."""
        axes = set(varying(array))
        covered = False
        out: list[IntArray] = []
        for k, other in enumerate(result):
            others = set(varying(other))
            shared = axes & others
            if k >= count or not shared:
                out.append(other)
                continue
            self.tie(self.project(other, sorted(shared)), self.project(array, sorted(shared)))
            if axes <= others:
                covered = True
            if not others < axes:
                out.append(other)
        return out if covered else [*out, array]

    # --- the walk ------------------------------------------------------------------------------

    def run(self, graph: fx.GraphModule, *, counting: bool) -> None:
        """Visit every node of a graph in order."""
        self.counting = counting
        self.shared = written_later(graph.graph)
        for node in graph.graph.nodes:
            self.node = node
            if node.op == "get_attr":
                owner = self.trace.aliases.get(str(node.target), str(node.target))
                if isinstance(_tensor_or_none(self.trace, owner), torch.Tensor):
                    self.values[node] = self.tensor_value(owner)
            elif node.op == "placeholder":
                self.values[node] = self._input(node)
            elif node.op == "output":
                self._pin_outputs(node)
            elif node.op == "call_function":
                self.values[node] = self._call(node)

    def _input(self, node: fx.Node) -> object:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            origin = f"the model input '{node.name}', whose width is part of the contract"
            self.origins[origin] = "input"
            return Value(concrete_shape(value), (), origin)
        return concrete(value)

    def _pin_outputs(self, node: fx.Node) -> None:
        for value in held_tensors(node.args, self.values):
            if value.arrays:
                self.pin(value.arrays, "the model's output, whose width is part of the contract", "output")

    def _call(self, node: fx.Node) -> object:
        if getattr(node.target, "__name__", "") == "getitem":
            source = self.values.get(node.args[0])  # type: ignore[arg-type]
            index = node.args[1]
            return source[index] if isinstance(source, list) and isinstance(index, int) else None
        result = node.meta.get("val")
        if isinstance(result, (int, float, bool, *SYMBOLIC)):
            return concrete(result)
        if not isinstance(node.target, torch._ops.OpOverload):
            return None if result is None else self._unknown(node, [])
        call = bind(node, self.values, self.shared)
        rule = rule_for(node.target)
        if rule is not None and call.unsettled:
            call = self._held_fast(call, adrift(call, rule))
        self.calls[node] = call
        if rule is None:
            self.macs(macs_without_rule(node), [])
            return self._unknown(node, call.tensors())
        found = self._by_rule(node, rule, call)
        operands = call.tensors()
        if isinstance(found, Value) and (rule.fills or (operands and all(v.filled for v in operands))):
            return replace(found, filled=True)
        return found

    def _by_rule(self, node: fx.Node, rule: OpRule, call: Call) -> Output:
        """What the rule says; where it fails, or cannot be right, the operator is one without a rule."""
        self.told, self.counted, before = [], False, len(self.ties)
        try:
            found = rule.couple(self, call)
            wrong = flaw(call, found)
            # What only moves positions is run on them.
            followed = rule.move is None and not rule.fills and not wrong
            if followed and self.ledger.forgets(call, found, self.told, self.ties[before:], self.size):
                wrong = "forgets channels"
        except Exception as error:  # noqa: BLE001 - whatever a rule did not foresee, its labels stay
            wrong = f"fails ({type(error).__name__}: {error})"
        if wrong:
            if not self.counted:  # what it costs is known without its rule
                self.macs(macs_without_rule(node), [])
            return self._unknown(node, call.tensors(), f"the rule for {qualified_name(node.target)} {wrong}")
        return self._settled(node, found)

    def _held_fast(self, call: Call, arrays: Sequence[IntArray]) -> Call:
        """The call without labels that a number moves which only the data know: they stay."""
        if not arrays:
            return call
        origin = self._stay(arrays, "a number that depends on data decides which positions are meant", "size")
        stay = {id(a) for a in arrays}

        def without(argument: object) -> object:
            if isinstance(argument, Value):
                left = tuple(a for a in argument.arrays if id(a) not in stay)
                return replace(argument, arrays=left, origin=origin)
            return [without(a) for a in argument] if isinstance(argument, list) else argument

        return replace(call, args={name: without(a) for name, a in call.args.items()})

    def _settled(self, node: fx.Node, found: Output) -> Output:
        """Labels along a dimension whose size only the data know stay."""
        made = node.meta["val"]
        if isinstance(found, list):
            return [self._along_settled(v, open_dims(t)) for v, t in zip(found, made, strict=True)]
        return self._along_settled(found, open_dims(made)) if isinstance(found, Value) else found

    def _along_settled(self, value: Value, dims: frozenset[int]) -> Value:
        loose = [a for a in value.arrays if dims & set(varying(a))] if dims else []
        if not loose:
            return value
        origin = self._stay(loose, "the data decide how many positions there are", "size")
        left = tuple(a for a in value.arrays if not dims & set(varying(a)))
        return replace(value, arrays=left, origin=origin)

    def _unknown(self, node: fx.Node, operands: Sequence[Value], why: str = "") -> Output:
        """An op without a rule: everything that reaches it stays, and it says so."""
        why = why or f"no rule for {qualified_name(node.target)}"
        arrays = [a for v in operands or held_tensors(node.all_input_nodes, self.values) for a in v.arrays]
        if arrays:
            self.unsupported.append((node, why))
        origin = self._stay(arrays, why, "unknown")
        shapes = shapes_of(node)
        if isinstance(shapes, list):
            return [Value(s, origin=origin) for s in shapes]
        return None if shapes is None else Value(shapes, origin=origin)

    def _stay(self, arrays: Sequence[IntArray], why: str, kind: PinKind) -> str:
        """Pin labels that are followed no further; what is made of them has this origin, for whoever meets it."""
        assert self.node is not None
        self.pin(arrays, why, kind)
        origin = f"the result of '{self.node.name}' ({why})"
        self.origins[origin] = kind
        return origin


def _tensor_or_none(trace: Trace, name: str) -> torch.Tensor | None:
    try:
        return trace.tensor(name)
    except TraceError:
        return None


def _distinct_slices(cells: IntArray, dim: int) -> tuple[IntArray, IntArray]:
    """Drop repeated slices along a dimension; returns what is left and each old slice's new number."""
    n = cells.shape[dim]
    lines = np.moveaxis(cells, dim, 0).reshape(n, -1)
    if len(np.unique(lines[:, 0])) == n:
        return cells, np.arange(n, dtype=np.int64)
    # Sorting whole lines is slow: sums of random multiples stand for them, and are checked.
    marks = np.random.default_rng(0).integers(1, 2**63, lines.shape[1], np.uint64)
    sums = (lines.astype(np.uint64) * marks).sum(axis=1, dtype=np.uint64)
    _, first, inverse = np.unique(sums, return_index=True, return_inverse=True)
    assert (lines == lines[first][inverse]).all(), "two lines of labels have the same sum"
    ranks = np.argsort(np.argsort(first))
    return cells.take(np.sort(first), axis=dim), ranks[inverse.ravel()].astype(np.int64)


def _equal_arrays(one: Sequence[IntArray], two: Sequence[IntArray]) -> bool:
    return len(one) == len(two) and all(map(np.array_equal, one, two))
