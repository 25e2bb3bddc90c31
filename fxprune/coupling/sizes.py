"""Sizes of a graph as numbers, and which of them only the data know.

torch.export gives the batch a symbol that has a number on the example inputs.  A count of what is not zero, or a
number that code reads from a tensor, has none before the model runs: a prime stands for it, so that sums and
products of sizes stay what they are and coincide with no width of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import sympy
import torch

__all__ = ["SYMBOLIC", "concrete", "concrete_shape", "one_of_each", "open_dims", "open_number"]

Shape = tuple[int, ...]

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)

FIRST = 200
"""Which prime (1,223 is the 200th) stands for the first number that only the data know."""


@cache
def _prime(name: str) -> int:
    """One prime for each symbol; torch numbers them."""
    number = re.search(r"\d+$", name)
    return int(sympy.prime(FIRST + (int(number[0]) if number else 0)))


def concrete(value: object) -> object:
    """A symbolic number as the number that it has on the example inputs, or as one that stands for it."""
    if not isinstance(value, SYMBOLIC):
        return value
    node = value.node
    if node.hint is not None:
        return node.hint
    env = node.shape_env
    assert env is not None
    known = env.backed_var_to_val if hasattr(env, "backed_var_to_val") else env.var_to_val
    numbers = {s: known.get(s, _prime(s.name)) for s in node.expr.free_symbols}
    return node.pytype(node.expr.xreplace(numbers))


def concrete_shape(tensor: torch.Tensor) -> Shape:
    """Shape of a (fake) tensor on the example inputs."""
    return tuple(n if type(n) is int else int(concrete(n)) for n in tensor.shape)  # type: ignore[call-overload]


def open_number(value: object) -> bool:
    """Whether only the data know this number."""
    return isinstance(value, SYMBOLIC) and value.node.hint is None


def open_dims(tensor: object) -> frozenset[int]:
    """Dimensions of a (fake) tensor whose size only the data know."""
    if not isinstance(tensor, torch.Tensor):
        return frozenset()
    return frozenset(d for d, n in enumerate(tensor.shape) if type(n) is not int and open_number(n))


def one_of_each(count: int, tensors: Iterable[torch.Tensor]) -> int:
    """A number of positions, with one position where only the data know how many there are.

    Args:
        count: A product of sizes.
        tensors: What has these sizes.

    Example:
        >>> one_of_each(24, [torch.zeros(4, 6)])
        24
    """
    sizes = {concrete_shape(t)[d] for t in tensors for d in open_dims(t)}
    for size in sorted(sizes, reverse=True):
        while size > 1 and count and count % size == 0:
            count //= size
    return count
