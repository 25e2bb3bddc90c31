"""What operators return where there are no numbers, for those that torch takes apart in Python to find out.

That costs more than all other layers of a model.  Each function gives what the operator's own way gives for
tensors that lie as they do most often, and leaves all others, and whatever does not fit, to that way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["SHORT"]


def _empty(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _like(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    # torch.empty_like is written in Python where there are no numbers.
    if _fills_memory(x):
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return torch.empty_like(x)


def _fills_memory(x: torch.Tensor) -> bool:
    """Without gaps and nowhere twice, in whatever order of dimensions."""
    if x.is_contiguous():
        return True
    step = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _in_order(call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Of the shape of the first operand if that lies in order."""

    def run(x: torch.Tensor, *others: object, **options: object) -> torch.Tensor:
        simple = x.is_contiguous() and x.is_floating_point()
        return _empty(x.shape, x) if simple else call(x, *others, **options)

    return run


def _norm_like(x: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, ...]:
    return _like(x), torch.empty((), device="meta"), torch.empty((), device="meta")


def _itself(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return x


def _sum_in_place(x: torch.Tensor, other: torch.Tensor | complex, **scale: complex) -> torch.Tensor:
    same = (
        (other.shape, other.dtype) == (x.shape, x.dtype)
        if isinstance(other, torch.Tensor)
        else type(other) is int
    )
    return x if same else x.add_(other, **scale)


def _plain(*tensors: object) -> bool:
    """Tensors of one type that lie in order."""
    first = tensors[0]
    return isinstance(first, torch.Tensor) and all(
        isinstance(t, torch.Tensor) and t.dtype == first.dtype and t.is_meta and t.is_contiguous()
        for t in tensors
    )


def _elementwise(call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Two tensors of which one has the shape of the result."""

    def run(x: torch.Tensor, other: torch.Tensor | complex, **scale: complex) -> torch.Tensor:
        if isinstance(other, torch.Tensor) and x.dtype == other.dtype and x.is_meta and other.is_meta:
            whole, part = (x, other) if x.numel() >= other.numel() else (other, x)
            if _stretches(part, whole) and _fills_memory(whole):
                return _like(whole)
        return call(x, other, **scale)

    return run


def _stretches(part: torch.Tensor, whole: torch.Tensor) -> bool:
    """The part broadcasts to the shape of the whole, and has no say in how the result lies."""
    if part.shape == whole.shape:
        return part.stride() == whole.stride()
    behind = whole.shape[whole.ndim - part.ndim :]
    fits = part.ndim <= whole.ndim and all(n in (1, m) for n, m in zip(part.shape, behind, strict=True))
    in_order = part.is_contiguous() and whole.is_contiguous()
    return fits and (in_order or sum(n > 1 for n in part.shape) < 2)


def _mean(
    x: torch.Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    if dim and dtype is None and x.is_floating_point() and x.is_contiguous():
        gone = {d % x.ndim for d in dim if -x.ndim <= d < x.ndim}
        if len(gone) == len(dim):
            sizes = [1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone]
            return _empty(sizes, x)
    return torch.mean(x, None if dim is None else list(dim), keepdim, dtype=dtype)


def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    first = tensors[0]
    if _plain(*tensors) and -first.ndim <= dim < first.ndim:
        dim %= first.ndim
        shapes = [tuple(t.shape) for t in tensors]
        if len({(s[:dim], s[dim + 1 :], len(s)) for s in shapes}) == 1:
            return _empty((*shapes[0][:dim], sum(s[dim] for s in shapes), *shapes[0][dim + 1 :]), first)
    return torch.cat(list(tensors), dim)


def _addmm(
    bias: torch.Tensor, one: torch.Tensor, two: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    (rows, inner), (inside, columns) = one.shape, two.shape
    # The second one is a weight that was turned around.
    if inner == inside and bias.shape == (columns,) and _plain(bias, one, two.t()):
        return _empty((rows, columns), one)
    return torch.addmm(bias, one, two, beta=beta, alpha=alpha)


SHORT: Mapping[str, Callable[..., object]] = {
    **dict.fromkeys(
        ("aten::native_batch_norm", "aten::native_layer_norm", "aten::native_group_norm"), _norm_like
    ),
    **dict.fromkeys(
        ("aten::relu", "aten::gelu", "aten::hardswish", "aten::hardsigmoid", "aten::roll"), _like
    ),
    **dict.fromkeys(("aten::relu_", "aten::silu_", "aten::hardswish_"), _itself),
    "aten::add_": _sum_in_place,
    "aten::sigmoid": _in_order(torch.sigmoid),
    "aten::roll": _in_order(torch.roll),
    "aten::mean": _mean,
    "aten::add": _elementwise(torch.add),
    "aten::mul": _elementwise(torch.mul),
    "aten::cat": _cat,
    "aten::addmm": _addmm,
}
"""By the name of the operator.

What does not fit the weights of a norm has another name (``fxprune.graph.values``) than what does.
"""
