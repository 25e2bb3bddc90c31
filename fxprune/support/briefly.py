"""Representations of a line or two, also of what holds arrays, models and thousands of entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import TypeVar

from fxprune.escaping import line

__all__ = ["brief", "briefly"]

_LONGEST = 100  # letters of one value
_MOST = 3  # entries that are shown

Kind = TypeVar("Kind", bound=type)


def brief(kind: Kind) -> Kind:
    """Give a dataclass a representation in which every value is brief.

    Example:
        >>> import numpy as np
        >>> from dataclasses import dataclass
        >>> @brief
        ... @dataclass
        ... class Held:
        ...     name: str
        ...     units: object
        ...     axes: dict
        >>> Held("conv1", np.arange(64), {("conv1.weight", n): n for n in range(9)})
        Held(name='conv1', units=int64[64], axes=<9 entries>)
    """

    def written(self: object) -> str:
        shown = [f for f in fields(self) if f.repr]  # type: ignore[arg-type]
        return (
            f"{type(self).__name__}({', '.join(f'{f.name}={briefly(getattr(self, f.name))}' for f in shown)})"
        )

    setattr(kind, "__repr__", written)  # noqa: B010 - to mypy a method is no attribute
    return kind


def briefly(value: object) -> str:
    """One value: what it is, where all of it would be too long.

    Example:
        >>> briefly(("a", 1)), briefly(range(1000)), briefly("x" * 500) == "'" + "x" * 96 + "..."
        ("('a', 1)", '<range of 1000>', True)
    """
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    if hasattr(value, "named_parameters"):
        return f"<{kind}>"
    if isinstance(value, Collection) and not isinstance(value, (str, bytes)):
        whole = _whole(value)
        if whole and len(whole) <= _LONGEST:
            return whole
        return f"<{len(value)} entries>" if isinstance(value, Mapping) else f"<{kind} of {len(value)}>"
    text = line(repr(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _whole(value: Collection[object]) -> str:
    """All of a few entries; empty where there are more."""
    if len(value) > _MOST:
        return ""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{briefly(k)}: {briefly(v)}' for k, v in value.items())}}}"
    inner = ", ".join(map(briefly, value))
    if isinstance(value, tuple):
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return f"[{inner}]" if isinstance(value, list) else f"{type(value).__name__}({inner})"
