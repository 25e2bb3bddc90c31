"""The coupling walk: every operator's rule once over the graph, labels in, labels and ties out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch
from torch import fx

from fxprune import labels
from fxprune.coupling.accounts import Ledger, adrift, flaw
from fxprune.coupling.binding import bind, fake_tensors, held_tensors, macs_without_rule, shapes_of
from fxprune.coupling.cost import CostBuilder
from fxprune.coupling.groups import Pin
from fxprune.coupling.layouts import Layouts
from fxprune.coupling.meeting import merge
from fxprune.coupling.sizes import SYMBOLIC, concrete, concrete_shape, one_of_each, open_dims
from fxprune.errors import TraceError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, IntArray, varying
from fxprune.ops import qualified_name, rule_for, written_later
from fxprune.ops.base import Call, OpRule, Output, PinKind, Value
from fxprune.plans import Axis

__all__ = ["Walk"]

Shape = tuple[int, ...]

UNMADE = "padding that is counted, and that no layer makes"

# Integer constants up to this size are read, so that indexing by them can be followed.
READABLE = 1 << 16


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
    padded: list[IntArray] = field(default_factory=list)
    # Padding that has met nothing else so far; labels beyond the end are of something else.
    unmade: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    told: list[IntArray] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    layouts: Layouts = field(default_factory=Layouts)
    values: dict[fx.Node, object] = field(default_factory=dict)
    calls: dict[fx.Node, Call] = field(default_factory=dict)
    origins: dict[str, PinKind] = field(default_factory=dict)
    unsupported: list[tuple[fx.Node, str]] = field(default_factory=list)
    costs: CostBuilder = field(default_factory=CostBuilder)
    counting: bool = True
    counted: bool = False
    counted_at: list[fx.Node] = field(default_factory=list)
    node: fx.Node | None = None
    shared: set[fx.Node] = field(default_factory=set)

    @property
    def at(self) -> str:
        """Name of the node that the walk has come to."""
        assert self.node is not None
        return self.node.name

    # --- labels --------------------------------------------------------------------------------

    def _new(self, count: int) -> IntArray:
        self.size += count
        return np.arange(self.size - count, self.size, dtype=np.int64)

    def fresh(self, shape: Shape) -> IntArray:
        """New labels that belong to no parameter."""
        self.virtual.append((self.size, self.at))
        return self._new(prod(shape)).reshape(shape)

    def padding(self, shape: Shape) -> IntArray:
        """New labels of positions that hold a constant."""
        padding = self.fresh(shape)
        self.padded.append(padding.ravel())
        self.unmade = np.append(self.unmade, np.zeros(self.size - len(self.unmade), bool))
        self.unmade[padding] = True
        return padding

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
        if len(self.unmade):
            both = self._unmade(a) & self._unmade(b)
            for met in (a, b):
                self.unmade[met[self._unmade(met) & ~both]] = False

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
        lone = [a[at] for a in arrays if (at := self._unmade(a)).any()]
        if lone:
            # What reads it further on could let it go, but nothing that is computed up to here says which are left.
            self.pin(lone, UNMADE, "data")

    def _unmade(self, array: IntArray) -> BoolArray:
        known = array < len(self.unmade)
        return known & self.unmade[np.where(known, array, 0)] if len(self.unmade) else known

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
            self.counted_at.append(self.node)

    def count_parameters(self) -> None:
        """Every parameter counts once, pruned along its labelled axes."""
        for name, parameter in self.trace.model.named_parameters():
            dims = [d for d in range(parameter.ndim) if (name, d) in self.axes]
            rest = parameter.numel()
            for d in dims:
                rest //= parameter.shape[d]
            self.costs.add_params(rest, *(self.costs.form(self.axes[name, d]) for d in dims))

    # --- layouts -------------------------------------------------------------------------------

    def nest(self, array: IntArray, order: Sequence[int]) -> None:
        """Register an array over several dimensions with its nesting."""
        self.layouts.place(array, self, order)

    def order(self, array: IntArray) -> Shape:
        """The varying dimensions from the outermost to the innermost."""
        axes = varying(array)
        return axes if len(axes) < 2 else self.layouts.placed(array, self).axes

    def project(self, array: IntArray, dims: Sequence[int]) -> IntArray:
        """Labels of rows or columns of a layout."""
        return array if set(dims) >= set(varying(array)) else self.layouts.project(array, dims, self)

    def merge(self, operands: Sequence[Value], shape: Shape) -> tuple[IntArray, ...]:
        """Broadcast operands elementwise and tie what meets."""
        return merge(self, operands, self.origins)

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
        output = self._by_rule(node, rule, call)
        operands = call.tensors()
        if isinstance(output, Value) and (rule.fills or (operands and all(v.filled for v in operands))):
            return replace(output, filled=True)
        return output

    def _by_rule(self, node: fx.Node, rule: OpRule, call: Call) -> Output:
        """What the rule says; where it fails, or cannot be right, the operator is one without a rule."""
        self.told, self.counted, before = [], False, len(self.ties)
        try:
            output = rule.couple(self, call)
            wrong = flaw(call, output)
            # What only moves positions is run on them.
            followed = rule.move is None and not rule.fills and not wrong
            if followed and self.ledger.forgets(call, output, self.told, self.ties[before:], self.size):
                wrong = "forgets channels"
        except Exception as error:  # noqa: BLE001 - whatever a rule did not foresee, its labels stay
            wrong = f"fails ({type(error).__name__}: {error})"
        if wrong:
            if not self.counted:  # what it costs is known without its rule
                self.macs(macs_without_rule(node), [])
            return self._unknown(node, call.tensors(), f"the rule for {qualified_name(node.target)} {wrong}")
        return self._settled(node, output)

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

    def _settled(self, node: fx.Node, output: Output) -> Output:
        """Labels along a dimension whose size only the data know stay."""
        result = node.meta["val"]
        if isinstance(output, list):
            return [self._along_settled(v, open_dims(t)) for v, t in zip(output, result, strict=True)]
        return self._along_settled(output, open_dims(result)) if isinstance(output, Value) else output

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
