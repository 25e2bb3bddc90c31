"""``protect``, ``only`` and ``ratios``: names of groups and tensors, with wildcards."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.support.words import near

__all__ = ["matching"]

NEAR_MISSES = 4


def matching(groups: Sequence[Group], pattern: str, option: str) -> list[int]:
    """Numbers of the groups whose name, or the name of a tensor in them, fits a pattern.

    Args:
        groups: The groups of a model.
        pattern: A name, or one with the wildcards ``*``, ``?`` and ``[...]``.
        option: Name of the option the pattern was given for, for the message.

    Raises:
        PlanError: Nothing fits.

    Example:
        >>> matching([], "layer1*", "protect")
        Traceback (most recent call last):
            ...
        fxprune.errors.PlanError: protect='layer1*' fits no group and no tensor
          what to do: use a group name or a tensor name (wildcards * ? [] allowed); `fxprune inspect` lists them
    """
    named = [number for number, group in enumerate(groups) if group.name == pattern]
    fitting = [number for number, group in enumerate(groups) if _fits(group, pattern)]
    if (
        named and option != "protect"
    ):  # a parameter's name may be a group's, too; protecting more does no harm
        fitting = named
    if not fitting:
        names = dict.fromkeys(name for group in groups for name in _names(group))
        holding = [name for name in names if pattern.strip("*?") in name][:NEAR_MISSES]
        held = f"did you mean {', '.join(map(repr, holding))}?" if holding else ""
        meant = near(pattern, names, most=NEAR_MISSES, otherwise=held)
        advice = "use a group name or a tensor name (wildcards * ? [] allowed); `fxprune inspect` lists them"
        if meant:
            advice = f"{meant} Otherwise {advice}"
        raise PlanError(f"{option}={pattern!r} fits no group and no tensor", advice=advice)
    return fitting


def _names(group: Group) -> list[str]:
    return [group.name, *dict.fromkeys(name for name, _ in group.indices)]


def _fits(group: Group, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in _names(group))
