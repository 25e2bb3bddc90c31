"""Words that errors have in common: what an exception says in one line, and what somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["headline", "near"]


def headline(error: BaseException, *, most: int = 300) -> str:
    r"""The kind of an error and the first line that it says.

    Args:
        error: Any exception, also one whose text cannot be had.
        most: Longest text, in characters.

    Example:
        >>> headline(ValueError("no such size\n  at line 3"))
        'ValueError: no such size'
        >>> headline(KeyboardInterrupt())
        'KeyboardInterrupt'
    """
    name = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - an error of the user's own, whose text fails
        lines = []
    return f"{name}: {lines[0][:most]}" if lines else name


def near(name: str, known: Iterable[str], *, most: int = 4, otherwise: str = "") -> str:
    """The question whether somebody meant a name that there is.

    Args:
        name: What was written.
        known: What there is.
        most: How many may be named.
        otherwise: What to do if nothing is near.

    Example:
        >>> near("resnet81", ["resnet18", "vgg16"])
        "did you mean 'resnet18'?"
        >>> near("alexnet", ["vgg16"], otherwise="fxprune lists them")
        'fxprune lists them'
    """
    close = get_close_matches(name, list(dict.fromkeys(known)), n=most, cutoff=0.5)
    return f"did you mean {', '.join(map(repr, close))}?" if close else otherwise
