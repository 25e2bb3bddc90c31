"""Crop: kernels lose a border that nothing uses, and the padding shrinks along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.graph.drafts import arguments_by_name
from fxprune.graph.graph_module import set_tensor, tensor_at
from fxprune.graph.trace import Trace
from fxprune.ops import overload
from fxprune.ops.named import CROPPABLE, PAD
from fxprune.plans import Axis, Cost, Crop, Plan
from fxprune.support.source_lines import source_of

__all__ = [
    "Conv1dBorder",
    "Conv2dBorder",
    "Conv3dBorder",
    "crop_",
    "less_crops",
    "outside",
    "why_whole",
    "with_crops",
]

Ends = list[tuple[int, int]]
"""Zeros before and after each spatial dimension; fewer than none cut the input."""


class _Border(nn.modules.conv._ConvNd):
    """A convolution whose zero padding differs at the two ends of a dimension; below zero it cuts the input.

    Attributes:
        border: Before and after each dimension, the last dimension first, as ``torch.nn.functional.pad`` takes it.
    """

    border: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of the padded input."""
        return self._conv_forward(F.pad(x, self.border), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Adds the border."""
        return f"{super().extra_repr()}, border={self.border}"  # type: ignore[no-untyped-call]


class Conv1dBorder(_Border, nn.Conv1d):
    """``nn.Conv1d`` with another padding at each end."""


class Conv2dBorder(_Border, nn.Conv2d):
    """``nn.Conv2d`` with another padding at each end."""


class Conv3dBorder(_Border, nn.Conv3d):
    """``nn.Conv3d`` with another padding at each end."""


# Classes whose forward pass is known: a subclass may pad or scale by itself.
_BORDERS: Mapping[type[nn.Module], type[_Border]] = {
    nn.Conv1d: Conv1dBorder,
    nn.Conv2d: Conv2dBorder,
    nn.Conv3d: Conv3dBorder,
    **{kind: kind for kind in (Conv1dBorder, Conv2dBorder, Conv3dBorder)},
}


# --- plans -------------------------------------------------------------------------------------


def why_whole(trace: Trace, tensor: str) -> str:
    """Why the kernel of a weight cannot be cropped, or empty.

    Args:
        trace: A traced model.
        tensor: Name of the weight.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
        >>> trace = fxprune.trace(net, torch.zeros(1, 1, 8, 8))
        >>> why_whole(trace, "0.weight"), why_whole(trace, "1.weight")
        ('', "'1.weight' is not the weight of a convolution module that pads with zeros")
    """
    path, _, leaf = tensor.rpartition(".")
    conv = dict(trace.model.named_modules()).get(path)
    plain = type(conv) in _BORDERS and leaf in conv._parameters and leaf == "weight"  # type: ignore[union-attr]
    if not plain or getattr(conv, "padding_mode", "") != "zeros":
        return f"'{tensor}' is not the weight of a convolution module that pads with zeros"
    if sum(first == tensor for first in trace.aliases.values()) > 1:
        return f"'{tensor}' is tied to another parameter"
    for node in _reads(trace.graph.graph, tensor):
        for user in node.users:
            if _convolution(user) is not node:
                return f"'{tensor}' is also read by '{user.name}' ({source_of(user) or user.target})"
    return ""


def with_crops(trace: Trace, plan: Plan, crops: Sequence[Crop]) -> Plan:
    """A plan that also crops kernels.

    Args:
        trace: The trace it was made for.
        plan: A plan of channels.
        crops: At most one for each weight.

    Raises:
        PlanError: A kernel cannot be cropped, is of another size, is named twice, or nothing of it would be left.

    Example:
        >>> import fxprune
        >>> trace = fxprune.trace(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1)), torch.zeros(1, 1, 8, 8))
        >>> whole = fxprune.plan(trace, fxprune.Budget(channels=1.0))
        >>> plan = with_crops(trace, whole, [Crop("0.weight", (3, 3), (1, 0), (0, 0))])
        >>> small = fxprune.slim(trace, plan)
        >>> plan.predicted, small[0].weight.shape, small[0].border
        (Cost(params=28, macs=1536), torch.Size([4, 1, 2, 3]), (1, 1, 0, 1))
    """
    predicted = less_crops(trace, plan.kept, plan.predicted, crops)
    told = [f"{c.tensor} {_size(c.kernel)} -> {_size(c.cropped)}" for c in crops]
    note = f"empty borders of {len(crops)} kernels go: {', '.join(told)}"
    notes = (*plan.notes, note) if crops else plan.notes
    return replace(plan, crops=tuple(crops), predicted=predicted, notes=notes)


def less_crops(trace: Trace, kept: Mapping[Axis, tuple[int, ...]], cost: Cost, crops: Sequence[Crop]) -> Cost:
    """The cost that is left when kernels are cropped.

    Args:
        trace: The trace.
        kept: Indices that stay, of every axis that loses some.
        cost: What the model costs with whole kernels.
        crops: What goes.

    Raises:
        PlanError: As for ``with_crops``.
    """
    params, macs = cost.params, cost.macs
    if len({crop.tensor for crop in crops}) < len(crops):
        raise PlanError("a kernel is cropped twice", advice="give one crop for each weight")
    for crop in crops:
        _check(trace, crop)
        shape = trace.tensor(crop.tensor).shape
        filters = prod(len(kept.get((crop.tensor, dim), range(shape[dim]))) for dim in (0, 1))
        gone = filters * (prod(crop.kernel) - prod(crop.cropped))
        params -= gone
        nodes = _convolutions(trace.graph.graph, crop.tensor)
        macs -= gone * sum(_positions(trace, node, len(crop.kernel)) for node in nodes) // trace.batch
    return Cost(params, macs)


def _check(trace: Trace, crop: Crop) -> None:
    problem = why_whole(trace, crop.tensor)
    if not problem:
        kernel = tuple(trace.tensor(crop.tensor).shape[2:])
        if kernel != crop.kernel:
            problem = f"the kernel of '{crop.tensor}' is {kernel}, not {crop.kernel}"
        elif min((*crop.before, *crop.after)) < 0 or min(crop.cropped) < 1:
            problem = f"nothing would be left of the kernel of '{crop.tensor}', or it would grow"
    if problem:
        raise PlanError(problem, tensor=crop.tensor, advice="leave this crop out: its border stays masked")


def _size(kernel: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel))


def _positions(trace: Trace, node: fx.Node, spatial: int) -> int:
    """Points that a convolution is computed at, in all samples."""
    shape = analyse(trace).calls[node].shape
    *batch, _channels = shape[:-spatial]
    return prod(batch) * prod(shape[-spatial:])


# --- tensors and models ------------------------------------------------------------------------


def outside(crop: Crop, weight: Tensor) -> Tensor:
    """The border of a dense weight: bool of its shape."""
    border = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    border[_inside(crop)] = False
    return border


def _inside(crop: Crop) -> tuple[slice, ...]:
    spans = zip(crop.before, crop.cropped, strict=True)
    return (slice(None), slice(None), *(slice(b, b + k) for b, k in spans))


def crop_(model: nn.Module, crops: Sequence[Crop]) -> nn.Module:
    """Crop the kernels of a slim model in place, whatever their borders hold.

    Args:
        model: A copy of the user's module, or a graph, with whole kernels.  In a module a convolution whose padding
            would differ at the two ends becomes ``Conv2dBorder`` or the like; in a graph a padding is put before it.
        crops: What the plan crops.

    Returns:
        The model; another object only if the model itself is one convolution.
    """
    for crop in crops:
        if isinstance(model, fx.GraphModule):
            _crop_graph(model, crop)
        else:
            model = _crop_module(model, crop)
    if crops and isinstance(model, fx.GraphModule):
        model.recompile()
    return model


def _smaller(weight: Tensor, crop: Crop) -> nn.Parameter:
    return nn.Parameter(weight.detach()[_inside(crop)].clone(), requires_grad=weight.requires_grad)


def _crop_module(model: nn.Module, crop: Crop) -> nn.Module:
    path = crop.tensor.rpartition(".")[0]
    conv = model.get_submodule(path)
    assert isinstance(conv, nn.modules.conv._ConvNd), "the plan was checked"
    ends = _shrunk(_padding(conv), crop, conv.dilation)
    conv.weight = _smaller(conv.weight, crop)
    conv.kernel_size = crop.cropped
    if not isinstance(conv, _Border) and _even(ends):
        conv.padding = tuple(start for start, _ in ends)
        return model
    border = _BORDERS[type(conv)]
    bordered = border.__new__(border)
    bordered.__dict__.update(conv.__dict__)
    bordered.padding = (0,) * len(ends)
    bordered.border = _as_pad(ends)
    parent, _, name = path.rpartition(".")
    if not path:
        return bordered
    setattr(model.get_submodule(parent), name, bordered)
    return model


def _padding(conv: nn.modules.conv._ConvNd) -> Ends:
    if isinstance(conv, _Border):
        pairs = list(zip(conv.border[::2], conv.border[1::2], strict=True))
        return pairs[::-1]
    return _ends(conv.padding, conv.kernel_size, conv.dilation)


def _ends(padding: object, kernel: Sequence[int], dilation: Sequence[int]) -> Ends:
    """What a convolution's argument means."""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    return [(p, p) for p in _each(padding, len(kernel))]


def _each(values: object, count: int) -> list[int]:
    """One number for each dimension; operators take a single one for all."""
    given = [int(v) for v in values] if isinstance(values, (list, tuple)) else [int(values)]  # type: ignore[call-overload]
    return given * count if len(given) == 1 else given


def _shrunk(ends: Ends, crop: Crop, dilation: Sequence[int]) -> Ends:
    parts = zip(ends, crop.before, crop.after, dilation, strict=True)
    return [(start - b * d, end - a * d) for (start, end), b, a, d in parts]


def _even(ends: Ends) -> bool:
    return all(start == end >= 0 for start, end in ends)


def _as_pad(ends: Ends) -> tuple[int, ...]:
    """As ``torch.nn.functional.pad`` takes it: the last dimension first."""
    return tuple(amount for pair in reversed(ends) for amount in pair)


def _reads(graph: fx.Graph, tensor: str) -> list[fx.Node]:
    return [n for n in graph.nodes if n.op == "get_attr" and n.target == tensor]


def _convolution(node: fx.Node) -> fx.Node | None:
    """The weight of a convolution, None for another node."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.name not in CROPPABLE:
        return None
    weight = arguments_by_name(node)["weight"]
    return weight if isinstance(weight, fx.Node) else None


def _convolutions(graph: fx.Graph, tensor: str) -> list[fx.Node]:
    return [user for node in _reads(graph, tensor) for user in node.users]


def _crop_graph(model: fx.GraphModule, crop: Crop) -> None:
    crop_calls(model._graph, crop)
    weight = tensor_at(model, crop.tensor)
    assert weight is not None
    set_tensor(model, crop.tensor, _smaller(weight, crop))


def crop_calls(graph: fx.Graph, crop: Crop) -> None:
    """Let the convolutions of a graph that read a cropped weight pad less."""
    for node in _convolutions(graph, crop.tensor):
        values = arguments_by_name(node)
        count = len(crop.kernel)
        dilation = _each(values.get("dilation", 1), count)
        ends = _shrunk(_ends(values.get("padding", 0), crop.kernel, dilation), crop, dilation)
        if not _even(ends):
            with graph.inserting_before(node):
                values["input"] = graph.call_function(
                    overload(PAD),
                    (values["input"], list(_as_pad(ends))),  # type: ignore[arg-type]
                )
            ends = [(0, 0)] * count
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        node.target = overload(target._schema.name)  # not the one that takes a word for the padding
        values["padding"] = [start for start, _ in ends]
        node.args, node.kwargs = (), values  # type: ignore[assignment]
