"""Plain data out of JSON text: nothing twice, nothing unknown, nothing infinite.

``json`` alone takes the last of two equal keys, numbers that are not finite, and whatever type stands there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any, NoReturn

__all__ = ["are_texts", "are_whole", "digest", "fields", "is_text", "is_whole", "parse", "row"]

_LARGEST = 2**63 - 1  # what an int64 holds
_LETTERS = 1 << 20  # of one text
_SHOWN = 60


def parse(source: object, *, most: int) -> object:
    """Read JSON.

    Args:
        source: The text.
        most: Most letters it may have.

    Raises:
        ValueError: It is no text, too long, no JSON, nested too deep, names a key twice or holds numbers that are
            not finite.

    Example:
        >>> parse('{"a": 1, "a": 2}', most=99)
        Traceback (most recent call last):
            ...
        ValueError: 'a' stands there twice
    """
    if not isinstance(source, str):
        raise ValueError(f"expected text, got {type(source).__name__}")
    if len(source) > most:
        raise ValueError(f"it has {len(source)} letters, {most} are read at most")
    try:
        return json.loads(source, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def digest(data: object) -> str:
    """SHA-256 of plain data, whatever the order of keys and the spacing in a file.

    Example:
        >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{_shown(next(n for n in names if names.count(n) > 1))} stands there twice")
    return mapping


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no finite number")


def _shown(value: object) -> str:
    told = repr(value) if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."


def fields(
    value: object, what: str, needed: Collection[str] | None = None, optional: Collection[str] = ()
) -> dict[str, Any]:
    """An object with these keys and no others, or with any if none are given.

    Args:
        value: What was read.
        what: Its name, for the error.
        needed: Keys it must have.
        optional: Keys it may have.

    Raises:
        ValueError: It is no object, lacks a key or has an unknown one.
    """
    if not isinstance(value, dict):
        raise ValueError(f"'{what}' should be an object, it is {_shown(value)}")
    if needed is None:
        return value
    for name in needed:
        if name not in value:
            raise ValueError(f"'{what}' has no '{name}'")
    for name in value:
        if name not in needed and name not in optional:
            raise ValueError(f"'{what}' has the unknown field {_shown(name)}")
    return value


def row(value: object, what: str) -> tuple[Any, ...]:
    """A list, as a tuple.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, list):
        raise ValueError(f"'{what}' should be a list, it is {_shown(value)}")
    return tuple(value)


def is_whole(value: object) -> bool:
    """A whole number from 0 on that an int64 holds; True and 3.0 are none."""
    return type(value) is int and 0 <= value <= _LARGEST


def are_whole(values: object) -> bool:
    """A tuple of such numbers: quick for thousands."""
    if not isinstance(values, tuple):
        return False
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= _LARGEST)


def is_text(value: object) -> bool:
    """Text of a reasonable length that can be written: half a surrogate pair cannot."""
    if not isinstance(value, str) or len(value) > _LETTERS:
        return False
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def are_texts(values: object) -> bool:
    """A tuple of texts."""
    return isinstance(values, tuple) and all(map(is_text, values))
