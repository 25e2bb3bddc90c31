"""Meeting: what elementwise operators tie where the labels of their operands come together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fxprune.labels import IntArray, varying
from fxprune.ops.base import Context, PinKind, Value

__all__ = ["merge"]

Shape = tuple[int, ...]


def merge(ctx: Context, operands: Sequence[Value], origins: Mapping[str, PinKind]) -> tuple[IntArray, ...]:
    """Broadcast operands elementwise and tie what meets.

    Args:
        ctx: Makes labels and is told of ties and pins.
        operands: Tensors that broadcast.
        origins: For origins of values the kind of pin that meeting them makes.

    Returns:
        Label arrays of the result.
    """
    operands = _composed(ctx, operands)
    result: list[IntArray] = []
    opaque: set[int] = set()
    for value in operands:
        fixed = {d for d, n in enumerate(value.shape) if n > 1} - {
            d for a in value.arrays for d in varying(a)
        }
        if fixed:
            _pin_against(ctx, value, fixed, operands, origins)
            opaque |= fixed
    for value in operands:
        met: list[IntArray] = list(result)
        for array in value.arrays:
            # What was just pinned is an axis without units from here on.
            if not set(varying(array)) <= opaque:
                met = _meet(ctx, met, array, len(result))
        result = met
    return tuple(result)


def _composed(ctx: Context, operands: Sequence[Value]) -> Sequence[Value]:
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
            if len(arrays) > 1 and axes:
                _compose(ctx, result, k, axes, arrays)
    return result


def _compose(ctx: Context, result: list[Value], k: int, axes: Shape, arrays: Sequence[IntArray]) -> None:
    """Make the arrays that operand ``k`` has along some axes one, or leave them to it alone if the others have the same."""
    met = [[a for a in v.arrays if set(varying(a)) & set(axes)] for v in result if v is not result[k]]
    others = [arrays_of for arrays_of in met if arrays_of]
    if not others:
        return
    if all(_equal_arrays(arrays, o) for o in others):
        for j in range(k + 1, len(result)):
            left = tuple(a for a in result[j].arrays if not set(varying(a)) & set(axes))
            result[j] = replace(result[j], arrays=left)
        return
    cells = arrays[0]
    for array in arrays[1:]:
        joined = _grid(ctx, cells, array)
        if joined is None:
            return
        cells = joined
    rest = tuple(a for a in result[k].arrays if not any(a is b for b in arrays))
    result[k] = replace(result[k], arrays=(*rest, cells))


def _equal_arrays(one: Sequence[IntArray], two: Sequence[IntArray]) -> bool:
    return len(one) == len(two) and all(map(np.array_equal, one, two))


def _grid(ctx: Context, rows: IntArray, columns: IntArray) -> IntArray | None:
    """New labels for the cells of a grid that lies along one axis; None if it is not a complete grid."""
    names, row = np.unique(rows.ravel(), return_inverse=True)
    others, column = np.unique(columns.ravel(), return_inverse=True)
    for single, array, rest in ((names, rows, columns), (others, columns, rows)):
        if len(single) == 1:  # without it nothing would be left
            ctx.pin([array], "the only row of what was flattened here")
            return rest
    if len(np.unique(row * len(others) + column)) != len(names) * len(others):
        return None
    cells = ctx.fresh((len(names), len(others)))
    ctx.tie(ctx.project(cells, [0]).ravel(), names)
    ctx.tie(ctx.project(cells, [1]).ravel(), others)
    return cells[row, column].reshape(rows.shape)


def _pin_against(
    ctx: Context, value: Value, fixed: set[int], operands: Sequence[Value], origins: Mapping[str, PinKind]
) -> None:
    """Labels that meet an axis without units cannot go: of a layout its rows, or its columns, along that axis."""
    met = [a for v in operands if v is not value for a in v.arrays]
    bad = [ctx.project(a, sorted(fixed & set(varying(a)))) for a in met if fixed & set(varying(a))]
    if bad:
        what = value.origin or "data whose axis carries no units (positions, pixels, samples)"
        ctx.pin(bad, f"meets {what}", origins.get(what, "data"))


def _meet(ctx: Context, result: list[IntArray], array: IntArray, count: int) -> list[IntArray]:
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
        ctx.tie(ctx.project(other, sorted(shared)), ctx.project(array, sorted(shared)))
        if axes <= others:
            covered = True
        if not others < axes:
            out.append(other)
    return out if covered else [*out, array]
