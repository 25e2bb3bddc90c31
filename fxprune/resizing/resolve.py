"""Resize: what every node's shape and arguments become when some units go.

The labels of a node say which of its positions stay; their order is always that of the dense
model.  Rules rewrite the sizes that the graph holds; ops that only move positions are run on the
labels that are left, and where the slim op cannot express the same positions any more (every
second channel of an odd selection, say) a gather takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import fx

from fxprune import labels
from fxprune.coupling.analysis import Analysis
from fxprune.coupling.blocks import close, scarce
from fxprune.errors import PlanError, TraceError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, IntArray, varying
from fxprune.ops import rule_for
from fxprune.ops.base import Call, OpRule, Rewrite, Scaled, Value
from fxprune.ops.moving import UnevenError, live_positions
from fxprune.plans import Axis, Cost, Plan
from fxprune.resizing.movement import Gather, Movement, alive_positions
from fxprune.support.briefly import brief
from fxprune.support.memo import latest
from fxprune.support.source_lines import source_of

__all__ = ["CrossedError", "EmptiedError", "Gather", "Resolution", "expect", "keep_mask", "resolve"]

Shape = tuple[int, ...]

WHOLE_ROWS = "remove whole rows (heads, groups), or equally many units of each"


@brief
@dataclass(frozen=True, eq=False)
class Resolution:
    """A keep mask carried through the graph.

    Attributes:
        analysis: Of the traced model.
        keep: bool[n_units].
        kept: For every axis that loses something, the kept indices in order.
        rewrites: New arguments by node; sizes that stay as they are do not appear.
        gathers: Nodes that a gather replaces.
        movements: What operators that move positions do to those that are left, where some are gone.
        values: Slim value (shape, unit ids) of every node that changed, lists for several results.
        cost: Cost of the slim model.
    """

    analysis: Analysis
    keep: BoolArray
    kept: Mapping[Axis, tuple[int, ...]]
    rewrites: Mapping[fx.Node, Rewrite]
    gathers: Mapping[fx.Node, Gather]
    movements: Mapping[fx.Node, Movement]
    values: Mapping[fx.Node, Value | list[Value]]
    cost: Cost

    @staticmethod
    def whole(analysis: Analysis) -> Resolution:
        """A resolution in which every unit stays."""
        coupling = analysis.coupling
        return Resolution(analysis, np.ones(coupling.n_units, bool), {}, {}, {}, {}, {}, coupling.cost.dense)


def resolve(analysis: Analysis, keep: BoolArray) -> Resolution:
    """Carry a keep mask through the graph; plan, slim and verify ask for the same one, so the last is remembered.

    Args:
        analysis: Of a traced model.
        keep: bool[n_units], units that stay.

    Raises:
        PlanError: A node would be emptied, or what is left of it is not rectangular.
    """
    return _resolved(analysis, keep.tobytes())


@latest
def _resolved(analysis: Analysis, keep: bytes) -> Resolution:
    return _Resolver(analysis, np.frombuffer(keep, bool)).run()


def expect(trace: object, plan: object) -> None:
    """Say it in words where a model stands in the place of a trace, or a path in that of a plan.

    Raises:
        TraceError: The first is no Trace.
        PlanError: The second is no Plan.
    """
    if not isinstance(trace, Trace):
        raise TraceError(
            f"expected a Trace, got {type(trace).__name__}",
            advice="trace the model first: fxprune.trace(model, example_inputs)",
        )
    if not isinstance(plan, Plan):
        raise PlanError(
            f"expected a Plan, got {type(plan).__name__}",
            advice="make one with fxprune.plan, or read one with Plan.from_json(text)",
        )


@latest
def keep_mask(analysis: Analysis, plan: Plan) -> BoolArray:
    """The units that a plan keeps; recounting, slim and verify ask for the same one.

    Returns:
        bool[n_units].

    Raises:
        PlanError: The plan was made for another model, names what does not exist, removes what
            is pinned, or removes only part of a unit.
    """
    coupling, cuts = analysis.coupling, analysis.trace.cuts
    if plan.fingerprint != coupling.fingerprint:
        raise PlanError(
            "the plan was made for another model",
            advice="plan again on this model (names, shapes and operators must be the same)",
        )
    if plan.removed != cuts:
        raise PlanError(
            f"the plan cuts {', '.join(plan.removed) or 'nothing'}, this trace is cut at {', '.join(cuts) or 'nothing'}",
            advice="apply the plan with fxprune.slim, or cut the trace at plan.removed first",
        )
    keep = np.ones(coupling.n_units, bool)
    for axis, index in plan.kept.items():
        units = coupling.axes.get(axis)
        if units is None:
            raise PlanError(f"the model has no prunable axis {axis[1]} of '{axis[0]}'", tensor=axis[0])
        dropped = np.ones(len(units), bool)
        if not index:
            raise PlanError(
                f"the plan keeps nothing of '{axis[0]}' along dimension {axis[1]}",
                tensor=axis[0],
                advice="keep at least one index of it",
            )
        positions = np.fromiter(index, np.int64, len(index))
        if positions[0] < 0 or positions[-1] >= len(units) or (positions[1:] <= positions[:-1]).any():
            raise PlanError(
                f"the kept indices of '{axis[0]}' along dimension {axis[1]} are not ascending positions below {len(units)}",
                tensor=axis[0],
                advice="make plans with fxprune.plan",
            )
        dropped[positions] = False
        keep[units[dropped]] = False
    if (coupling.pinned & ~keep).any():
        unit = int(np.flatnonzero(coupling.pinned & ~keep)[0])
        group = next(g for g in coupling.groups if unit in g.units)
        raise PlanError(f"the plan removes units of '{group.name}', which is pinned: {group.pinned}")
    for axis, units in coupling.axes.items():
        if np.count_nonzero(keep[units]) != len(plan.kept.get(axis, units)):
            raise PlanError(
                f"the plan contradicts itself at '{axis[0]}', dimension {axis[1]}: coupled axes keep other units",
                tensor=axis[0],
                advice="make plans with fxprune.plan",
            )
    keep = close(coupling.blocks, keep)  # rows of layouts are no axes: the plan does not name them
    keep.setflags(write=False)
    return keep


class EmptiedError(PlanError):
    """Too little would be left of a tensor, though something is of every parameter: half of a split, say.

    Attributes:
        needs: int64[n] each, the units of which so many (the number beside them) must stay.
    """

    def __init__(
        self, what: str, *, node: fx.Node, advice: str, needs: Sequence[tuple[IntArray, int]]
    ) -> None:
        super().__init__(what, node=node.name, op=str(node.target), source=source_of(node), advice=advice)
        self.needs = tuple(needs)


class CrossedError(PlanError):
    """What would be left cannot be laid out, or not by this operator: other units must go together.

    Attributes:
        arrays: Units as they lie in the tensors that the operator reads and makes, size 1 along dimensions without.
    """

    def __init__(self, what: str, *, node: fx.Node, advice: str, arrays: Sequence[IntArray]) -> None:
        super().__init__(what, node=node.name, op=str(node.target), source=source_of(node), advice=advice)
        self.arrays = tuple(arrays)


class _Positions(NamedTuple):
    """What is left of the arrays of a value."""

    arrays: list[IntArray]  # held, so that the ids under which this is known stay theirs
    units: list[IntArray]
    kept: list[IntArray | None]  # positions in the raveled array; None where they are not rectangular
    left: tuple[IntArray, ...]  # units there


class _Resolver:
    """One pass over the graph with the labels that are left."""

    def __init__(self, analysis: Analysis, keep: BoolArray) -> None:
        self.analysis = analysis
        self.keep = keep
        self.live = keep[analysis.unit_of_label]
        self.dense: dict[int, Value] = {}
        self.slim: dict[int, Value] = {}
        self.positions: dict[tuple[int, ...], _Positions] = {}
        self.changed: dict[fx.Node, Value | list[Value]] = {}
        self.rewrites: dict[fx.Node, Rewrite] = {}
        self.gathers: dict[fx.Node, Gather] = {}
        self.movements: dict[fx.Node, Movement] = {}

    def run(self) -> Resolution:
        self._check_needs()
        kept: dict[Axis, tuple[int, ...]] = {}
        for axis, array in self.analysis.labels.items():
            mask = self.live[array]
            if not mask.all():
                if not mask.any():
                    raise PlanError(
                        f"nothing would be left of '{axis[0]}' along dimension {axis[1]}",
                        tensor=axis[0],
                        advice="keep at least one unit of it",
                    )
                kept[axis] = tuple(np.flatnonzero(mask).tolist())
        for node, held in self.analysis.values.items():
            self._visit(node, held)
        cost = self.analysis.coupling.cost.cost(self.keep)
        changes = self.rewrites, self.gathers, self.movements, self.changed
        return Resolution(self.analysis, self.keep, kept, *changes, cost)

    def _check_needs(self) -> None:
        """Every operator finds the positions it needs."""
        lacking = [(need, row) for need in self.analysis.coupling.at_least for row in scarce(need, self.keep)]
        if lacking:
            first = lacking[0][0]
            node = next(n for n in self.analysis.calls if n.name == first.node)
            needs = [(need.units[row], need.count) for need, row in lacking]
            what = f"needs {first.count} positions or more, and fewer would be left"
            raise self._emptied(node, what, needs)

    def _visit(self, node: fx.Node, held: object) -> None:
        values = held if isinstance(held, list) else [held]
        slims = [self._slimmed(v, node) if isinstance(v, Value) else None for v in values]
        if any(s is not v for s, v in zip(slims, values, strict=True) if s is not None):
            self.changed[node] = slims if isinstance(held, list) else slims[0]  # type: ignore[assignment]
        call = self.analysis.calls.get(node)
        rule = rule_for(node.target) if call is not None else None
        if call is None or rule is None or not (rule.resize or rule.move or rule.gathers):
            return
        inputs = [self._slimmed(v, node) for v in call.tensors()]
        touched = any(s is not v for s, v in zip(inputs, call.tensors(), strict=True))
        if node in self.changed or touched:
            self._rewrite(node, rule, call, [s for s in slims if s is not None])

    def _slimmed(self, value: Value, node: fx.Node) -> Value:
        """What is left of a value; the value itself if nothing of it goes."""
        known = self.slim.get(id(value))
        if known is None:
            arrays = [a for a in value.arrays if varying(a)]
            if all(self.live[a].all() for a in arrays):
                known = value
            else:
                known = self._filtered(value, arrays, node)
            self.slim[id(value)] = known
        return known

    def _filtered(self, value: Value, arrays: list[IntArray], node: fx.Node) -> Value:
        shape = list(value.shape)
        _, units, positions, left = self._positions(arrays)
        for array, slim in zip(arrays, positions, strict=True):
            if slim is None:
                what = "would not stay rectangular: rows lose different numbers of units"
                raise self._crossed(node, what, units)
            for d in varying(array):
                if shape[d] not in (value.shape[d], slim.shape[d]):
                    what = f"would have two different sizes along dimension {d}"
                    raise self._crossed(node, what, units)
                shape[d] = slim.shape[d]
        # A recorded run may have met an empty tensor: no box on some level of a pyramid.
        if any(n == 0 < before for n, before in zip(shape, value.shape, strict=True)):
            empty = [u.ravel() for u, slim in zip(units, left, strict=True) if slim.size == 0]
            raise self._emptied(node, "would be emptied", [(np.concatenate(empty), 1)])
        return Value(tuple(shape), left, value.origin, None)

    def _positions(self, arrays: list[IntArray]) -> _Positions:
        """What is left of some arrays, worked out once for all values that carry these very ones."""
        key = tuple(map(id, arrays))
        known = self.positions.get(key)
        if known is None:
            units = [self.analysis.units(a) for a in arrays]
            positions = [
                labels.filtered(
                    np.arange(array.size).reshape(array.shape),
                    alive_positions(self.keep, units, k),
                    self.analysis.order(array),
                )
                for k, array in enumerate(arrays)
            ]
            left = [u.ravel()[p] for u, p in zip(units, positions, strict=True) if p is not None]
            known = self.positions[key] = _Positions(arrays, units, positions, tuple(left))
        return known

    def _emptied(self, node: fx.Node, what: str, needs: Sequence[tuple[IntArray, int]]) -> EmptiedError:
        return EmptiedError(f"the result of '{node.name}' {what}", node=node, advice=WHOLE_ROWS, needs=needs)

    def _crossed(self, node: fx.Node, what: str, arrays: Sequence[IntArray]) -> CrossedError:
        return CrossedError(
            f"the result of '{node.name}' {what}", node=node, advice=WHOLE_ROWS, arrays=arrays
        )

    def _in_units(self, value: Value) -> Value:
        """A dense value with unit ids instead of labels."""
        dense = self.dense.get(id(value))
        if dense is None:
            dense = replace(value, arrays=tuple(self.analysis.units(a) for a in value.arrays if varying(a)))
            self.dense[id(value)] = dense
        return dense

    def _mapped(self, node: fx.Node, argument: object, slim: bool) -> object:
        if isinstance(argument, Value):
            if not slim:
                return self._in_units(argument)
            left = self._slimmed(argument, node)
            return self._in_units(argument) if left is argument else left
        if isinstance(argument, (list, tuple)):
            return [self._mapped(node, a, slim) for a in argument]
        return argument

    def _call(self, node: fx.Node, call: Call, slim: bool) -> Call:
        """The call over unit ids, with its result as the extra argument ``result``."""
        result = self.analysis.values[node]
        args = {k: self._mapped(node, v, slim) for k, v in call.args.items()}
        mapped = self._mapped(node, result, slim)
        out: Shape | list[Shape] = call.out
        if isinstance(mapped, Value):
            out = mapped.shape
        elif isinstance(mapped, list):
            out = [v.shape if isinstance(v, Value) else () for v in mapped]
        return Call(call.op, {**args, "result": mapped}, out, call.symbolic)

    def _rewrite(self, node: fx.Node, rule: OpRule, call: Call, results: list[Value]) -> None:
        dense, slim = self._call(node, call, slim=False), self._call(node, call, slim=True)
        if rule.gathers:
            result, left = dense.args["result"], slim.args["result"]
            assert isinstance(result, Value) and isinstance(left, Value)
            self.gathers[node] = Gather(0, 1, live_positions(result, left, 0), of_result=True)
            return
        rewrite = self._resized(node, rule, call, dense, slim)
        if rule.move is not None:
            movement = Movement(
                self.analysis, self.keep, rule.move, call, self.analysis.values[node], dense, slim
            )
            self.movements[node] = movement
            if rewrite is None or not movement.expressed_by(_rewritten(slim, rewrite)):
                self.gathers[node] = self._gather(node, call, movement)
                return
        assert rewrite is not None
        if rewrite.args:
            self.rewrites[node] = rewrite

    def _resized(self, node: fx.Node, rule: OpRule, call: Call, dense: Call, slim: Call) -> Rewrite | None:
        """The call's new arguments; None where no numbers say what every row keeps."""
        if rule.resize is None:
            return Rewrite()
        try:
            return self._effective(call, rule.resize(dense, slim))
        except UnevenError as error:
            if rule.move is None:
                what = f"cannot be had by the same operator: {error}"
                raise self._crossed(node, what, _unit_arrays(dense)) from error
            return None

    def _gather(self, node: fx.Node, call: Call, movement: Movement) -> Gather:
        if call.shared:
            what = "is changed in place, and a selection of other channels would be a copy"
            raise self._crossed(node, what, _unit_arrays(movement.dense))
        read = node.all_input_nodes[0].meta.get("val")
        sizes = read.shape if isinstance(read, torch.Tensor) else ()
        fixed = max((d + 1 for d, n in enumerate(sizes) if type(n) is not int), default=0)
        gather = movement.gather(fixed)
        if isinstance(gather, str):
            raise self._crossed(node, gather, _unit_arrays(movement.dense))
        return gather

    def _effective(self, call: Call, rewrite: Rewrite) -> Rewrite:
        """Only what really changes; symbolic sizes are scaled rather than replaced."""
        changed: dict[str, object] = {}
        for name, new in rewrite.args.items():
            old = call.args.get(name)
            if isinstance(new, list) and isinstance(old, (list, tuple)) and len(new) == len(old):
                items = [
                    _scaled(o, n, (name, k) in call.symbolic)
                    for k, (o, n) in enumerate(zip(old, new, strict=True))
                ]
                if any(i is not None for i in items) or rewrite.op:
                    changed[name] = items
            elif old != new:
                changed[name] = _scaled(old, new, (name, -1) in call.symbolic)
        if rewrite.op and not self._needs_other_op(call, rewrite):
            return Rewrite()
        return Rewrite(changed, rewrite.op)

    @staticmethod
    def _needs_other_op(call: Call, rewrite: Rewrite) -> bool:
        """Another op is called only where the sizes really changed."""
        sizes = rewrite.args.get("split_sizes")
        dim = rewrite.args.get("dim")
        assert isinstance(call.out, list) and isinstance(dim, int)
        return sizes != [shape[dim] for shape in call.out]


def _scaled(old: object, new: object, symbolic: bool) -> object:
    """An entry of a size list: None if it stays, a scale if it is symbolic, else the number."""
    if old == new:
        return None
    return Scaled(int(new), int(old)) if symbolic else new  # type: ignore[call-overload]


def _unit_arrays(dense: Call) -> list[IntArray]:
    """Units along the operand of a movement and along its results."""
    result = dense.args["result"]
    values = [dense.tensors()[0], *(result if isinstance(result, list) else [result])]
    return [array for value in values if isinstance(value, Value) for array in value.arrays if varying(array)]


def _rewritten(slim: Call, rewrite: Rewrite) -> Call:
    """The slim call with its new arguments."""
    args = dict(slim.args)
    for name, new in rewrite.args.items():
        old = args.get(name)
        if isinstance(new, list) and isinstance(old, list) and len(old) == len(new):
            args[name] = [_plain(o, n) for o, n in zip(old, new, strict=True)]
        else:
            args[name] = new
    return Call(slim.op, args, slim.out, slim.symbolic)


def _plain(old: object, new: object) -> object:
    if new is None:
        return old
    return new.numerator if isinstance(new, Scaled) else new
