"""Label arrays: which unit each position of a tensor belongs to, and the numpy that moves them.

A label array has the rank of its tensor and, along each dimension, either the tensor's size
or 1 where the label does not depend on the position.  A tensor may carry several: a weight of a
linear layer carries one over its outputs and one over its inputs.  Nothing here knows torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = [
    "BoolArray",
    "FloatArray",
    "IntArray",
    "along",
    "collapse",
    "components",
    "filtered",
    "nested_shape",
    "reshape",
    "spread",
    "take",
    "varying",
]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


Shape = tuple[int, ...]


def varying(array: IntArray) -> tuple[int, ...]:
    """Dimensions along which the labels depend on the position."""
    return _wide(array.shape)


@lru_cache(maxsize=4096)
def _wide(shape: Shape) -> tuple[int, ...]:
    # Asked tens of thousands of times a plan, of a few shapes.
    return tuple([d for d, n in enumerate(shape) if n > 1])


def along(labels: IntArray, dim: int, rank: int) -> IntArray:
    """A one-dimensional label vector laid along ``dim`` of a tensor of ``rank`` dimensions."""
    return labels.reshape([len(labels) if d == dim else 1 for d in range(rank)])


def collapse(array: IntArray, dims: Sequence[int] | None = None) -> IntArray:
    """Shrink to size 1 every dimension along which the labels are constant."""
    for d in varying(array) if dims is None else dims:
        if array.shape[d] > 1:
            first = array.take([0], axis=d)
            if (array == first).all():
                array = first
    return array


def take(array: IntArray, dim: int, index: IntArray | slice) -> IntArray:
    """Index a label array along one dimension; a dimension of size 1 does not notice."""
    if array.shape[dim] == 1:
        return array
    where: list[IntArray | slice] = [slice(None)] * array.ndim
    where[dim] = index
    return array[tuple(where)]


def spread(array: IntArray, shape: Shape, dims: Sequence[int]) -> IntArray:
    """Expand the given dimensions to the tensor's full size."""
    target = [shape[d] if d in dims else n for d, n in enumerate(array.shape)]
    return np.broadcast_to(array, target)


def _factor_groups(old: Shape, new: Shape) -> list[tuple[range, range]]:
    """Split a reshape into the smallest runs of old and new dimensions with equal products."""
    groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        i0, j0 = i, j
        p = q = 1
        if i < len(old):
            p, i = old[i], i + 1
        if j < len(new):
            q, j = new[j], j + 1
        while p != q:
            if (p < q and i < len(old)) or j >= len(new):
                p, i = p * old[i], i + 1
            else:
                q, j = q * new[j], j + 1
        groups.append((range(i0, i), range(j0, j)))
    return groups


def reshape(array: IntArray, old: Shape, new: Shape) -> IntArray:
    """The labels after ``view``: only the dimensions that are merged or split are expanded.

    Args:
        array: Labels of a tensor of shape ``old``.
        old: Shape before.
        new: Shape after, of the same number of elements.

    Example:
        >>> reshape(np.arange(3).reshape(1, 3, 1), (8, 3, 4), (8, 12)).tolist()
        [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]
    """
    if 0 in old or 0 in new:
        return np.zeros((1,) * len(new), dtype=np.int64)
    expand: list[int] = []
    shape = [1] * len(new)
    touched: list[int] = []
    for olds, news in _factor_groups(old, new):
        if all(array.shape[d] == 1 for d in olds):
            continue
        expand.extend(olds)
        for d in news:
            shape[d] = new[d]
        if len(olds) > 1 or len(news) > 1:
            touched.extend(news)
    return collapse(spread(array, old, expand).reshape(shape), touched)


def components(size: int, left: IntArray, right: IntArray) -> IntArray:
    """Close ties transitively: the component of every label, numbered by first appearance.

    Args:
        size: Number of labels.
        left: One end of every tie.
        right: The other end.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(left), dtype=np.int8)
    graph = coo_array((ones, (left, right)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component, dtype=np.int64)


def nested_shape(mask: npt.NDArray[np.bool_]) -> Shape | None:
    """Sizes of what is left of a nested layout, or None if it is not rectangular.

    Dimensions go from the outermost to the innermost.  Rows that die whole are dropped; the others
    must keep equally many entries, level by level.
    """
    sizes: list[int] = []
    level = mask
    counts = level.sum(axis=-1) if mask.ndim else np.zeros(())
    for _ in range(mask.ndim):
        live = counts[counts > 0]
        if live.size == 0:
            sizes.append(0)
        elif (live != live.flat[0]).any():
            return None
        else:
            sizes.append(int(live.flat[0]))
        level = counts > 0
        if level.ndim:
            counts = level.sum(axis=-1)
    return tuple(reversed(sizes))


def filtered(array: IntArray, live: npt.NDArray[np.bool_], order: Sequence[int]) -> IntArray | None:
    """The labels that are left, in the order of the dense tensor.

    Args:
        array: Unit ids, laid out as the tensor.
        live: bool[n_units], which units stay.
        order: The varying dimensions from the outermost to the innermost.

    Returns:
        The array with the dead positions gone, or None where what is left is not rectangular.
    """
    if not order:
        return array
    if len(order) == 1:  # most tensors have one, and there is nothing to nest
        return array.compress(live[array].ravel(), axis=order[0])
    rest = [d for d in range(array.ndim) if d not in order]
    moved = array.transpose([*order, *rest]).reshape([array.shape[d] for d in order])
    mask = live[moved]
    sizes = nested_shape(mask)
    if sizes is None:
        return None
    flat = moved[mask].reshape([*sizes, *(1 for _ in rest)])
    return flat.transpose(np.argsort([*order, *rest]))
