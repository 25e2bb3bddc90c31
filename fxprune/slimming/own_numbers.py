"""Integers among the attributes of the user's own modules that stand for widths: a guess, to be judged by what the model computes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fxprune.graph.drafts import arguments_by_name
from fxprune.resizing.resolve import Resolution

__all__ = ["own_numbers"]


def own_numbers(model: nn.Module, resolution: Resolution) -> dict[tuple[str, str], int]:
    """What integers among the attributes of the user's own modules should be, by the module's path and their name.

    Args:
        model: The dense model.
        resolution: What is left of it.
    """
    wanted: dict[tuple[str, str], set[int]] = {}
    for node, rewrite in resolution.rewrites.items():
        paths = [path for path, _ in dict(node.meta.get("nn_module_stack") or {}).values()]
        given = arguments_by_name(node)
        for argument, new in rewrite.args.items():
            for old, now in _numbers(given.get(argument), new):
                for place in _holding(model, paths, old):
                    wanted.setdefault(place, set()).add(now)
    return {place: numbers.pop() for place, numbers in wanted.items() if len(numbers) == 1}


def _numbers(old: object, new: object) -> list[tuple[int, int]]:
    """Pairs of numbers that differ, of an argument before and after."""
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        return [pair for both in zip(old, new, strict=True) for pair in _numbers(*both)]
    plain = all(isinstance(n, int) and not isinstance(n, bool) for n in (old, new))
    return [(old, new)] if plain and old != new else []  # type: ignore[list-item]


def _holding(model: nn.Module, paths: Sequence[str], number: int) -> list[tuple[str, str]]:
    """Attributes that hold a number, of the innermost module that has such among those that a call lies in."""
    for path in reversed(paths):
        try:
            module = model.get_submodule(path)
        except AttributeError:  # a path inside a function that was compiled, say
            continue
        if type(module).__module__.startswith("torch.nn."):
            break  # `refresh` knows its numbers, and it knows no others
        if names := [name for name, value in vars(module).items() if type(value) is int and value == number]:
            return [(path, name) for name in names]
    return []
