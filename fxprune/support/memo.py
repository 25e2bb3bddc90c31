"""What is computed of an object once and remembered beside it, under the function that computes it.

A memo belongs to one object and dies with it; copies of the object start with an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["Memo", "latest", "once"]

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


class Memo:
    """Results by the function that made them."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[Hashable, object]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()


class _Remembering(Protocol):
    @property
    def memo(self) -> Memo: ...


Owner = TypeVar("Owner", bound=_Remembering)


def once(function: Callable[[Owner], Result]) -> Callable[[Owner], Result]:
    """Compute a function of an object once.

    Args:
        function: Its argument has a ``memo``.

    Example:
        >>> class Square:
        ...     side, memo = 3, Memo()
        >>> @once
        ... def area(square):
        ...     print("computed")
        ...     return square.side**2
        >>> square = Square()
        >>> area(square) + area(square)
        computed
        18
    """
    return latest(function)


def latest(
    function: Callable[Concatenate[Owner, Rest], Result],
) -> Callable[Concatenate[Owner, Rest], Result]:
    """Remember the last result of a function of an object and further arguments, which are compared.

    Args:
        function: Its first argument has a ``memo``; the others can be compared, and are not changed later.
    """

    @wraps(function)
    def remembering(owner: Owner, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        asked = (args, tuple(kwargs.items()))
        known = owner.memo._known.get(remembering)
        if known is None or known[0] != asked:
            known = owner.memo._known[remembering] = (asked, function(owner, *args, **kwargs))
        return known[1]  # type: ignore[return-value]

    return remembering
