"""Shortcuts through torch.export: the same graph for less work.

Two things cost much and tell nothing.  With a batch of any size torch finds the shape of what an operator makes by
running its decomposition, dozens of small operators for one batch norm, although the result is shaped as the
operand; and for each node it formats the whole stack of Python, most of it torch's own.  Torch has a table of shorter
ways for a few operators, which is filled further here, and a class that takes stacks, which is stood in for.  Both
are torch's own affair: where a release of torch has other ones, nothing is changed and tracing takes its time.
``tools/bench_trace.py`` measures what that gives.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from math import prod
from types import FrameType
from typing import Any, TypeGuard

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from fxprune.ops import overload

__all__ = ["shortcuts"]

Shape = Callable[..., object]
"""Makes the result of an operator on fake tensors: called with their mode and the operator's arguments."""

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_POINTWISE = ("hardswish", "hardsigmoid", "hardtanh", "gelu", "relu", "leaky_relu", "elu", "mish")
_IN_PLACE = ("hardswish_", "hardsigmoid_", "hardtanh_", "leaky_relu_", "elu_", "mish_")


@contextlib.contextmanager
def shortcuts() -> Iterator[None]:
    """Let torch.export take the shorter ways meanwhile."""
    with _shapes_at_once(), _stacks_at_once():
        yield


# --- shapes --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _shapes_at_once() -> Iterator[None]:
    """Fill torch's table of shorter ways with operators whose result is shaped as their operand."""
    table = _table()
    more = {} if table is None else {op: way for op, way in _ways() if op not in table}
    try:
        if table is not None:
            table.update(more)
        yield
    finally:
        if table is not None:
            for op in more:
                table.pop(op, None)


def _table() -> MutableMapping[torch._ops.OpOverload, Shape] | None:
    """Torch's table, if there is one that is called as this one is."""
    try:
        from torch._subclasses.fake_impls import get_fast_op_impls

        table = get_fast_op_impls()
        first = next(iter(inspect.signature(table[overload("aten::detach")]).parameters))
    except (ImportError, KeyError, StopIteration, TypeError):
        return None
    return table if first == "fake_mode" else None


def _ways() -> Iterator[tuple[torch._ops.OpOverload, Shape]]:
    """Operators that torch would decompose, each with its shorter way."""
    from torch._decomp import decomposition_table, meta_table

    ways: dict[str, Shape] = {
        **dict.fromkeys(_POINTWISE, _like),
        **dict.fromkeys(_IN_PLACE, _itself),
        "_native_batch_norm_legit_no_training": _batch_norm,
        "native_layer_norm": _layer_norm,
        "addmm": _addmm,
        "cat": _cat,
    }
    for name, way in ways.items():
        op = overload(f"aten::{name}")
        if op in decomposition_table and op not in meta_table:
            yield op, _or_decomposed(way, decomposition_table[op])


def _or_decomposed(way: Shape, decomposition: Shape) -> Shape:
    """The shorter way where it gives an answer, else what torch does without it."""

    def shape(mode: contextlib.AbstractContextManager[object], *args: object, **kwargs: object) -> object:
        with mode:
            result = None if kwargs else way(*args)
            return decomposition(*args, **kwargs) if result is None else result

    return shape


def _is_plain(value: object) -> TypeGuard[torch.Tensor]:
    """A dense tensor of floats, row by row in memory, of which at most the number of rows is a symbol that inputs give."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.dtype not in _FLOATS:
        return False
    rows, *sizes = value.shape or (0,)
    if not all(type(size) is int and size > 0 for size in sizes) or free_unbacked_symbols(rows):
        return False
    # No symbol is compared: that could settle it.
    dense = tuple(prod(sizes[k:]) for k in range(len(sizes) + 1))
    return all(type(s) is int for s in value.stride()) and value.stride() == dense


def _dense(like: torch.Tensor, shape: Sequence[int | torch.SymInt]) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def _like(x: object, *_: object) -> torch.Tensor | None:
    return _dense(x, x.shape) if _is_plain(x) else None


def _itself(x: object, *_: object) -> torch.Tensor | None:
    return x if _is_plain(x) else None


def _batch_norm(
    x: object, weight: object, bias: object, mean: object, var: object, *_: object
) -> tuple[torch.Tensor, ...] | None:
    """In evaluation; on other devices than the CPU there would be statistics, too."""
    if not _is_plain(x) or x.ndim < 2 or x.device.type != "cpu" or mean is None or var is None:
        return None
    if not all(_is_of(t, x, x.shape[1:2]) for t in (weight, bias, mean, var)):
        return None
    return _dense(x, x.shape), _dense(x, (0,)), _dense(x, (0,))


def _layer_norm(
    x: object, shape: object, weight: object, bias: object, *_: object
) -> tuple[torch.Tensor, ...] | None:
    normalized = tuple(shape) if isinstance(shape, (list, tuple)) else ()
    if not _is_plain(x) or x.device.type != "cpu" or not 0 < len(normalized) < x.ndim:
        return None
    rows = x.ndim - len(normalized)
    if x.shape[rows:] != normalized or not all(_is_of(t, x, normalized) for t in (weight, bias)):
        return None
    statistics = (*x.shape[:rows], *(1 for _ in normalized))
    return _dense(x, x.shape), _dense(x, statistics), _dense(x, statistics)


def _addmm(bias: object, x: object, weight: object, *scales: object) -> torch.Tensor | None:
    """A linear layer: a line, rows times a matrix."""
    if scales or not (_is_plain(x) and x.ndim == 2 and isinstance(weight, torch.Tensor) and bias is not None):
        return None
    columns = weight.shape[1:2]
    if not _is_of(weight, x, (*x.shape[1:], *columns)) or not _is_of(bias, x, columns):
        return None
    return _dense(x, (x.shape[0], *columns)) if type(columns[0]) is int and columns[0] > 0 else None


def _cat(parts: object, axis: object = 0) -> torch.Tensor | None:
    """Channels beside channels.  Nothing is said of one channel or one position: its strides have no order."""
    if axis != 1 or not isinstance(parts, (list, tuple)) or not all(_is_pictures(part) for part in parts):
        return None
    first = parts[0]
    rows, _, *sizes = first.shape
    if any(part.dtype != first.dtype or part.device != first.device for part in parts):
        return None
    if any([*part.shape[2:]] != sizes or _expression(part.shape[0]) != _expression(rows) for part in parts):
        return None
    return _dense(first, (rows, sum(part.shape[1] for part in parts), *sizes))


def _is_pictures(value: object) -> bool:
    return _is_plain(value) and value.ndim > 2 and value.shape[1] > 1 and prod(value.shape[2:]) > 1


def _expression(size: object) -> object:
    """What says whether two sizes are the same without a symbol being settled by the question."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _is_of(tensor: object, x: torch.Tensor, shape: tuple[object, ...]) -> bool:
    """An operand of that shape in the type of ``x``, which is one that torch computes in; or none."""
    if not isinstance(tensor, torch.Tensor):
        return tensor is None
    alike = tensor.dtype == x.dtype and tensor.device == x.device and tensor.shape == shape
    return alike and x.dtype.itemsize >= torch.float32.itemsize


# --- stacks --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stacks_at_once() -> Iterator[None]:
    """Let torch.fx take the frames from the model's ``forward`` on, the only ones that it keeps."""
    torchs: Any = getattr(fx.proxy, "CapturedTraceback", None)
    if torchs is None:
        yield
        return
    here = threading.get_ident()

    class Stack:
        """Stands in for torch's class in this thread."""

        @staticmethod
        def extract(**options: object) -> object:
            elsewhere = options or threading.get_ident() != here
            return torchs.extract(**options) if elsewhere else Stack()

        def summary(self) -> traceback.StackSummary:
            return _from_forward_on()

    try:
        fx.proxy.CapturedTraceback = Stack  # type: ignore[attr-defined, assignment]
        yield
    finally:
        fx.proxy.CapturedTraceback = torchs  # type: ignore[attr-defined]


def _from_forward_on() -> traceback.StackSummary:
    """The frames of whoever makes a node, outermost first, without those around the first ``forward``."""
    frames = []
    kept = 0
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        frames.append(frame)
        if frame.f_code.co_name == "forward":
            kept = len(frames)
        frame = frame.f_back
    return traceback.StackSummary.from_list(
        traceback.FrameSummary(f.f_code.co_filename, f.f_lineno, f.f_code.co_name, lookup_line=False)
        for f in reversed(frames[:kept])
    )
