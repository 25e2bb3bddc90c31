"""Packages that only some of fxprune needs: they come with an extra, as ``pip install 'fxprune[plots]'``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from fxprune.errors import MissingPackage

__all__ = ["EXTRAS", "installed", "need", "why_not"]

EXTRAS: Mapping[str, tuple[str, str]] = {
    "accelerate": ("accelerate", "train"),
    "matplotlib": ("matplotlib", "plots"),
    "sklearn": ("scikit-learn", "demo"),
    "yaml": ("PyYAML", "train"),
}
"""By the name that is imported: what is installed for it, and by which extra."""


def installed(module: str) -> bool:
    """Whether a package of an extra is there; it is not imported."""
    return importlib.util.find_spec(module) is not None


def why_not(module: str) -> tuple[str, str]:
    """What is missing, and how it is installed.

    Example:
        >>> why_not("matplotlib")
        ('matplotlib is not installed', "pip install 'fxprune[plots]'")
    """
    package, extra = EXTRAS[module]
    return f"{package} is not installed", f"pip install 'fxprune[{extra}]'"


def need(what: str, *modules: str) -> None:
    """Refuse what cannot be done without packages of extras.

    Args:
        what: Is to be done, as the subject of a sentence.
        modules: Names of ``EXTRAS``.

    Raises:
        MissingPackage: One is not installed.
    """
    for module in modules:
        if not installed(module):
            problem, advice = why_not(module)
            raise MissingPackage(f"{what} cannot be had: {problem}", advice=advice)
