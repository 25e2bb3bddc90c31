"""Layers as linear maps: each row of inputs times one matrix is a row of outputs, group by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fxprune.graph.drafts import arguments_by_name
from fxprune.ops import qualified_name
from fxprune.ops.named import CONVOLUTION_LAYERS, LINEAR, MATRIX_LAYERS, TRANSPOSED_LAYERS

__all__ = ["Layer", "layer_of"]

Rows = tuple[Tensor, Tensor]
"""float[groups, n, inputs] and float[groups, n, outputs]."""

Values = Mapping[str, object]
"""Arguments of a call by name."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Layer:
    """A call that multiplies its input by a weight.

    Attributes:
        node: The call, in the slim graph.
        x: Node of the input.
        weight: Name of the weight.
        bias: Name of the bias, None without one.
        dim: Dimension of the output that holds the channels, from the front.
        rows: Of an input and an output some rows: at most the number given, drawn by the generator.
        matrix: The weight as float[groups, outputs, inputs].
        folded: Such a matrix in the shape of the weight that is given, too.
        offset: What is added to the outputs, float[groups, outputs], as a bias.
    """

    node: fx.Node
    x: fx.Node
    weight: str
    bias: str | None
    dim: int
    rows: Callable[[Tensor, Tensor, int, torch.Generator], Rows]
    matrix: Callable[[Tensor], Tensor]
    folded: Callable[[Tensor, Tensor], Tensor]
    offset: Callable[[Tensor], Tensor] = Tensor.ravel


def layer_of(node: fx.Node, tensors: Mapping[str, Tensor]) -> Layer | str | None:
    """The layer that a node of a slim graph calls.

    Args:
        node: The node.
        tensors: What the graph reads, by name.

    Returns:
        None where it is no layer, a text that says why where its weight cannot be solved for.
    """
    make = _KINDS.get(qualified_name(node.target)) if node.op == "call_function" else None
    return None if make is None else make(node, arguments_by_name(node), tensors)


Make = Callable[[fx.Node, Values, Tensors], Layer | str | None]


def _held(value: object) -> str | None:
    """Name of a tensor that the model holds."""
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else None


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, Tensor) else 0


def _checked(
    values: Values, tensors: Tensors, x: str = "input", weight: str = "weight", bias: str = "bias"
) -> tuple[fx.Node, str, str | None] | str:
    """Input, weight and bias by name, or why not."""
    source, name = values[x], _held(values[weight])
    if name is None or not isinstance(source, fx.Node):
        return "its weight is computed"
    if tensors[name].is_complex():
        return "its weight is complex"
    offset = values.get(bias)
    held = _held(offset)
    if offset is not None and (held is None or tensors[held].ndim != 1):
        return "its bias is computed"
    return source, name, held


# --- linear layers and matrix products ---------------------------------------------------------------


def _linear(node: fx.Node, values: Values, tensors: Tensors) -> Layer | str:
    checked = _checked(values, tensors)
    if isinstance(checked, str):
        return checked
    return Layer(node, *checked, _rank(node) - 1, _flat_rows, _stacked, _as_shape)


def _product(x: str, weight: str, bias: str) -> Make:
    def make(node: fx.Node, values: Values, tensors: Tensors) -> Layer | str | None:
        name = _held(values[weight])
        if name is None:
            return None  # two activations: attention, say
        if tensors[name].ndim != 2 or {values.get(n, 1) for n in ("alpha", "beta")} != {1}:
            return "it is a product of another form"
        checked = _checked(values, tensors, x, weight, bias)
        if isinstance(checked, str):
            return checked

        def folded(matrix: Tensor, like: Tensor) -> Tensor:
            return matrix[0].t().reshape(like.shape)

        return Layer(node, *checked, _rank(node) - 1, _flat_rows, lambda w: w.t()[None], folded)

    return make


def _flat_rows(x: Tensor, y: Tensor, most: int, random: torch.Generator) -> Rows:
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    if len(x) > most:
        chosen = torch.randperm(len(x), generator=random)[:most].to(x.device)
        x, y = x[chosen], y[chosen]
    return x[None], y[None]


def _stacked(weight: Tensor) -> Tensor:
    return weight.reshape(1, len(weight), -1)


def _as_shape(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.reshape(like.shape)


# --- convolutions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """How a convolution goes over its input.

    Attributes:
        kernel: Pixels along each dimension.
        stride: Steps.
        before: Zeros in front of each dimension.
        after: Zeros behind it; fewer than none cut.
        dilation: Distances within the kernel.
        groups: Groups of channels.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def rows(self, x: Tensor, y: Tensor, most: int, random: torch.Generator) -> Rows:
        """Pixels under the kernel, and the results there."""
        sizes = y.shape[2:]
        places = torch.arange(prod(sizes))
        each = max(1, ceil(most / len(x)))
        if each < len(places):
            places = torch.randperm(len(places), generator=random)[:each]
        places = places.to(x.device)
        ends = [end for pair in zip(self.before[::-1], self.after[::-1], strict=True) for end in pair]
        padded = F.pad(x, ends) if any(ends) else x
        taps = torch.tensor(list(product(*map(range, self.kernel))), device=x.device)
        at = torch.unravel_index(places, sizes)
        where: list[Tensor] = [
            at[d][:, None] * self.stride[d] + taps[:, d] * self.dilation[d] for d in range(len(sizes))
        ]
        index: tuple[slice | Tensor, ...] = (slice(None), slice(None), *where)
        pixels = padded[index]  # n, channels, places, taps
        n = len(x)
        inputs = pixels.permute(0, 2, 1, 3).reshape(n * len(places), self.groups, -1)
        outputs = y.flatten(2)[:, :, places].permute(0, 2, 1).reshape(n * len(places), self.groups, -1)
        return inputs.transpose(0, 1), outputs.transpose(0, 1)

    def matrix(self, weight: Tensor) -> Tensor:
        """float[groups, outputs, inputs]."""
        return weight.reshape(self.groups, len(weight) // self.groups, -1)


def _numbers(value: object, rank: int, default: int) -> tuple[int, ...]:
    if value is None:
        return (default,) * rank
    given = tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),)  # type: ignore[call-overload]
    return given * rank if len(given) == 1 else given


def _convolution(node: fx.Node, values: Values, tensors: Tensors) -> Layer | str:
    checked = _checked(values, tensors)
    if isinstance(checked, str):
        return checked
    kernel = tuple(tensors[checked[1]].shape[2:])
    spatial = len(kernel)
    if _rank(node) != spatial + 2:
        return "its input has no batch"
    stride, dilation = (
        _numbers(values.get("stride"), spatial, 1),
        _numbers(values.get("dilation"), spatial, 1),
    )
    padding = values.get("padding", 0)
    if isinstance(padding, str):
        full = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        full = full if padding == "same" else [0] * spatial
        before, after = tuple(f // 2 for f in full), tuple(f - f // 2 for f in full)
    else:
        before = after = _numbers(padding, spatial, 0)
    window = _Window(kernel, stride, before, after, dilation, int(values.get("groups", 1)))  # type: ignore[call-overload]
    return Layer(node, *checked, 1, window.rows, window.matrix, _as_shape)


def _transposed(node: fx.Node, values: Values, tensors: Tensors) -> Layer | str:
    checked = _checked(values, tensors)
    if isinstance(checked, str):
        return checked
    kernel = tuple(tensors[checked[1]].shape[2:])
    spatial = len(kernel)
    apart = _numbers(values.get("stride"), spatial, 1) == kernel
    plain = apart and _numbers(values.get("dilation"), spatial, 1) == (1,) * spatial
    unpadded = not any(
        _numbers(values.get(n), spatial, 0) != (0,) * spatial for n in ("padding", "output_padding")
    )
    if not plain or not unpadded or values.get("groups", 1) != 1 or _rank(node) != spatial + 2:
        return "the windows of this transposed convolution overlap"

    def rows(x: Tensor, y: Tensor, most: int, random: torch.Generator) -> Rows:
        # Every pixel makes a window of its own: outputs are channels x taps.
        n, channels, *sizes = x.shape
        split = [n, y.shape[1], *(s for pair in zip(sizes, kernel, strict=True) for s in pair)]
        pixels, taps = list(range(2, 2 + 2 * spatial, 2)), list(range(3, 3 + 2 * spatial, 2))
        windows = y.reshape(split).permute(0, *pixels, 1, *taps).reshape(n * prod(sizes), -1)
        return _flat_rows(x.movedim(1, -1).reshape(-1, channels), windows, most, random)

    def matrix(weight: Tensor) -> Tensor:
        return weight.reshape(len(weight), -1).t()[None]

    def folded(solved: Tensor, like: Tensor) -> Tensor:
        return solved[0].t().reshape(like.shape)

    def offset(added: Tensor) -> Tensor:
        return added.reshape(-1, prod(kernel)).mean(1)

    return Layer(node, *checked, 1, rows, matrix, folded, offset)


_KINDS: Mapping[str, Make] = {
    LINEAR: _linear,
    **{op: _product(*names) for op, names in MATRIX_LAYERS.items()},
    **dict.fromkeys(CONVOLUTION_LAYERS, _convolution),
    **dict.fromkeys(TRANSPOSED_LAYERS, _transposed),
}
