"""From a trace and what is left of it to the slim tensors and the slim graph."""

from __future__ import annotations

import contextlib
import copy
import operator
import pickle
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from fxprune.coupling.couple import analyse
from fxprune.errors import SliceError
from fxprune.graph.drafts import Draft, arguments_by_name, draft, is_dead
from fxprune.graph.graph_module import NamedGraph, is_plain, set_tensor, tensor_at
from fxprune.graph.trace import Trace, trace_as
from fxprune.graph.values import Calls, DryRun, Inputs, Names, UnknownValue
from fxprune.models.copies import copied
from fxprune.ops import overload
from fxprune.ops.base import Rewrite, Scaled
from fxprune.ops.named import FLATTEN, INDEX_SELECT, UNFLATTEN
from fxprune.plans import Plan
from fxprune.resizing.resolve import Gather, Resolution, keep_mask, resolve
from fxprune.slimming.crop import crop_calls
from fxprune.slimming.own_numbers import own_numbers
from fxprune.slimming.slim_graph import Leaf, Made, SlimGraph, Way
from fxprune.structures.cut import cut, drop_gaps

__all__ = ["Parts"]


@dataclass(frozen=True, eq=False)
class Parts:
    """What the two kinds of slim model have in common; each is made at most once.

    The module copy and the graph hold the same tensors: one of them is returned, the other only compared with it.

    Attributes:
        trace: A traced model.
        resolution: What is left of it.
        plan: The plan that says so.
    """

    trace: Trace
    resolution: Resolution
    plan: Plan

    @cached_property
    def tensors(self) -> dict[int, torch.Tensor]:
        """Slim counterpart of every parameter and buffer of the model, by the dense tensor's id."""
        named = {name: self.trace.tensor(name) for name in self.trace.names}
        return {id(t): _sliced(t, name, self.resolution) for name, t in named.items()}

    @cached_property
    def calls(self) -> Calls:
        """What the graph computes, before there is a module for it."""
        trace, resolution = self.trace, self.resolution
        own = {n: self.tensors[id(trace.tensor(a))] for n, a in trace.aliases.items()}
        if (
            not resolution.rewrites
            and not resolution.gathers
            and not any(map(is_dead, trace.graph.graph.nodes))
        ):
            # There is nothing to rewrite in a copy: only tensors are smaller.
            constants = {name: _sliced(trace.tensor(name), name, resolution) for name in _constants(trace)}
            return Calls(trace.graph.graph, {**constants, **own})
        root = NamedGraph(type(trace.model).__name__)
        rewritten = _rewritten(trace, resolution, root, "")
        return Calls(rewritten.swept(), {**dict(root.named_buffers()), **own})

    @cached_property
    def graph(self) -> SlimGraph:
        """The slim model as a graph; batch norm and dropout follow train and eval."""
        trace = self.trace
        if trace.kind == "recorded":
            raise SliceError("a recorded graph is for analysis only", advice="use the module copy")
        root = SlimGraph(type(trace.model).__name__, _Again.of(trace, self.plan))
        persistent = set(trace.model.state_dict(keep_vars=True))
        for name, alias in trace.aliases.items():
            slim = self.tensors[id(trace.tensor(alias))]
            set_tensor(root, name, slim, persistent=name in persistent)
        graph = _rewritten(trace, self.resolution, root, "").finish()
        way = Way.of(trace.model, trace.args, trace.kwargs)
        for name, value in _plain_attributes(trace.model).items():
            setattr(root, name, value)
        for (path, name), number in own_numbers(trace.model, self.resolution).items():
            if not path and hasattr(root, name):
                setattr(root, name, number)
        root.settle(Made(graph, replace(way, training=False), trace.dynamic_batch, trains=False))
        root.train(trace.model.training)
        return root


def _plain_attributes(model: nn.Module) -> dict[str, object]:
    """Copies of what a model says of itself: names of classes, strides, a configuration; no tensors, nothing that only lives here."""
    found: dict[str, object] = {}
    for name, value in vars(model).items():
        if name.startswith("_") or not is_plain(name) or callable(value):
            continue
        if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)):
            continue
        with contextlib.suppress(Exception):  # a copy of the slim model must not fail for it
            pickle.dumps(value)
            found[name] = copy.deepcopy(value)
    return found


def _sliced(tensor: torch.Tensor, name: str, resolution: Resolution) -> torch.Tensor:
    """A copy of the tensor with the kept indices of every axis."""
    result = tensor.detach()
    for dim in range(tensor.ndim):  # rows first: they lie together
        index = resolution.kept.get((name, dim))
        if index is not None:
            chosen = torch.from_numpy(np.fromiter(index, np.int64, len(index)))
            result = result.index_select(dim, chosen.to(tensor.device))
    in_order = list(tensor.stride()) == sorted(tensor.stride(), reverse=True) and result.is_contiguous()
    if not in_order or not any((name, dim) in resolution.kept for dim in range(tensor.ndim)):
        # Channels last stays channels last: the dimensions lie in memory in the order in which they lay.
        laid = torch.empty_permuted(
            result.shape, tensor.dim_order(), dtype=result.dtype, device=result.device
        )
        result = laid.copy_(result)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result, requires_grad=tensor.requires_grad)
    return result


def _rewritten(trace: Trace, resolution: Resolution, root: NamedGraph, prefix: str) -> Draft:
    """The traced graph with slim sizes, frozen in evaluation.

    Args:
        trace: The trace.
        resolution: What is left of it.
        root: Takes what else the graph reads besides the model's tensors.
        prefix: What names of such parts begin with.
    """
    rewritten = draft(trace, root)
    _attach_constants(trace, resolution, rewritten, prefix)
    for node, rewrite in resolution.rewrites.items():
        if node in rewritten.copies:
            _apply(rewritten.graph, rewritten.copies[node], rewrite)
    for node, gather in resolution.gathers.items():
        if node in rewritten.copies:
            name = _unused(f"fxprune_index.{prefix}{node.name}", trace, root)
            _apply_gather(rewritten.graph, root, rewritten.copies[node], gather, name)
    drop_gaps(rewritten.graph)
    return rewritten


def _attach_constants(trace: Trace, resolution: Resolution, rewritten: Draft, prefix: str) -> None:
    """Tensors that the graph made itself, under names that no other graph of the root uses."""
    for name, nodes in _constants(trace).items():
        constant = _sliced(trace.tensor(name), name, resolution)
        own = _unused(prefix + name, trace, rewritten.root)
        set_tensor(rewritten.root, own, constant, persistent=False)
        for node in nodes:
            rewritten.copies[node].target = own


def _unused(name: str, trace: Trace, root: nn.Module) -> str:
    """A name that the model's own tensors leave free: it may be a slim graph, with such names already."""
    while name in trace.aliases or tensor_at(root, name) is not None:
        name += "_"
    return name


def _constants(trace: Trace) -> dict[str, list[fx.Node]]:
    """Tensors that the graph reads and the model does not hold, and where."""
    constants: dict[str, list[fx.Node]] = {}
    for node in trace.graph.graph.nodes:
        if node.op == "get_attr" and str(node.target) not in trace.aliases:
            constants.setdefault(str(node.target), []).append(node)
    return constants


def _apply(graph: fx.Graph, node: fx.Node, rewrite: Rewrite) -> None:
    """Write new arguments into a call."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    names = [a.name for a in target._schema.arguments]
    values = arguments_by_name(node)
    for name, new in rewrite.args.items():
        values[name] = _merged(graph, node, values.get(name), new)
    if rewrite.op:
        target = overload(rewrite.op)
        names = [a.name for a in target._schema.arguments]
        node.target = target
    node.args = ()
    node.kwargs = {n: values[n] for n in names if n in values}  # type: ignore[misc]


def _merged(graph: fx.Graph, node: fx.Node, old: object, new: object) -> object:
    if isinstance(new, list) and isinstance(old, (list, tuple)) and len(old) == len(new):
        return [_entry(graph, node, o, n) for o, n in zip(old, new, strict=True)]
    return _entry(graph, node, old, new)


def _entry(graph: fx.Graph, node: fx.Node, old: object, new: object) -> object:
    """One size: kept, replaced, or a symbolic size scaled by a ratio of widths."""
    if new is None:
        return old
    if not isinstance(new, Scaled):
        return new
    with graph.inserting_before(node):
        product = graph.call_function(operator.mul, (old, new.numerator))  # type: ignore[arg-type]
        return graph.call_function(operator.floordiv, (product, new.denominator))


def _apply_gather(graph: fx.Graph, root: nn.Module, node: fx.Node, gather: Gather, name: str) -> None:
    """Take positions of some neighbouring dimensions, by an index of this name, after the node or in its place."""
    set_tensor(root, name, torch.from_numpy(gather.index.ravel()), persistent=False)
    readers = list(node.users)
    taken = node if gather.of_result else node.all_input_nodes[0]
    with graph.inserting_before(node.next):
        index = graph.get_attr(name)
        if gather.stop - gather.start > 1:
            flat = (taken, gather.start, gather.stop - 1)
            taken = graph.call_function(overload(*FLATTEN), flat)
        taken = graph.call_function(overload(INDEX_SELECT), (taken, gather.start, index))
        if gather.index.ndim > 1:
            sizes = list(gather.index.shape)
            taken = graph.call_function(overload(*UNFLATTEN), (taken, gather.start, sizes))
    node.replace_all_uses_with(taken, delete_user_cb=readers.__contains__)


# --- other ways to call -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Again:
    """The user's model without numbers, and the plan: enough for a graph of any way to call it.

    Attributes:
        blueprint: A copy whose parameters and decimal buffers are on the meta device.
        plan: What was removed.
    """

    blueprint: nn.Module
    plan: Plan

    @staticmethod
    def of(trace: Trace, plan: Plan) -> _Again | None:
        """None where the model cannot be copied."""
        dense = trace if trace.parent is None else trace.parent
        own = {id(dense.tensor(name)) for name in dense.names}

        def emptied(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) in own and tensor.is_floating_point():
                return torch.empty_like(tensor, device="meta")
            return tensor.detach().clone()

        try:
            return _Again(copied(dense.model, emptied), plan)
        except SliceError:
            return None

    def make(self, owner: SlimGraph, way: Way, number: int) -> Made:
        """Trace the blueprint in this way and apply the plan."""
        trace = self._traced(owner, way)
        small = cut(trace, self.plan.removed)
        plan = replace(self.plan, fingerprint=trace.fingerprint)
        prefix = f"fxprune_{number}_"
        analysis = analyse(small)
        resolution = resolve(analysis, keep_mask(analysis, plan))
        graph = _rewritten(small, resolution, owner, prefix).finish(prefix)
        for crop in plan.crops:
            crop_calls(graph, crop)
        return Made(graph, way, trace.dynamic_batch, False)

    def _traced(self, owner: SlimGraph, way: Way) -> Trace:
        """A trace of the blueprint with the types and devices that the owner has now."""
        named = [*self.blueprint.named_parameters(), *self.blueprint.named_buffers()]
        like = {id(t): tensor_at(owner, name) for name, t in named}
        device = next((t.device for t in owner.parameters()), torch.device("cpu"))

        def fake(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in like:
                return tensor.to(device)
            now = like[id(tensor)]
            shape, strides = tensor.size(), tensor.stride()
            dtype, place = (tensor.dtype, device) if now is None else (now.dtype, now.device)
            return torch.empty_strided(shape, strides, dtype=dtype, device=place)

        mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
        with mode:
            model = copied(self.blueprint, fake)
            args, kwargs = _arguments(way, None)
        trace = trace_as(model, args, dict(kwargs), training=way.training)
        return replace(trace, model=self.blueprint)

    def trains_alike(self, way: Way) -> bool:
        """Whether the user's code does nothing else in training, but for batch norm and dropout."""
        names = Names()
        names.share({**dict(self.blueprint.named_parameters()), **dict(self.blueprint.named_buffers())})
        run = DryRun(self.blueprint, names)
        inputs = _arguments(way, torch.device("meta"))
        try:
            return run.outputs(inputs) == run.outputs(inputs, training=True, whole=True)
        except UnknownValue:
            return False


def _arguments(way: Way, device: torch.device | None) -> Inputs:
    """Inputs of a way without their numbers."""
    leaves = [
        torch.empty(a.shape, dtype=a.dtype, device=device or a.device) if isinstance(a, Leaf) else a
        for a in way.leaves
    ]
    args, kwargs = pytree.tree_unflatten(leaves, way.spec)
    return args, kwargs
