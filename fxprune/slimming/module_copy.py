"""A copy of the user's own module with slim tensors, whose cached integers follow."""

from __future__ import annotations

from torch import fx, nn

from fxprune.graph.trace import Trace, evaluating
from fxprune.models.copies import copied
from fxprune.ops.base import Value
from fxprune.resizing.resolve import Resolution
from fxprune.slimming.cached_widths import Setting, refresh
from fxprune.slimming.graph_copy import Parts
from fxprune.slimming.own_numbers import own_numbers

__all__ = ["module_copy"]

# How operators call a number of groups.
GROUPS = frozenset({"groups", "num_groups", "group"})


def module_copy(parts: Parts, *, numbers: bool = True) -> nn.Module:
    """Copy the model with slim tensors in the place of its own, and refresh cached integers.

    Args:
        parts: What is left.
        numbers: Also those of the user's own modules: an attribute that equals a size which a call inside the module is given
            follows it.  That is a guess; whether the copy computes the same is for the caller to find out.
    """
    slims = parts.tensors
    module = copied(parts.trace.model, lambda t: slims[id(t)] if id(t) in slims else t.detach().clone())
    with evaluating(module):  # looking at a parametrised weight computes it, which in training may count
        refresh(module, _settings(parts.trace, parts.resolution))
        if numbers:
            for (path, name), number in own_numbers(parts.trace.model, parts.resolution).items():
                setattr(module.get_submodule(path), name, number)
    return module


def _settings(trace: Trace, resolution: Resolution) -> dict[str, Setting]:
    """New arguments and widths of calls, by their module and by the parameters (a norm's scale) they read."""
    settings: dict[str, Setting] = {}
    for node, value in resolution.values.items():
        stack = node.meta.get("nn_module_stack")
        if stack and isinstance(value, Value) and value.rank > 1:
            path, _ = list(stack.values())[-1]
            settings[path] = {"width": value.shape[1]}
    for node, rewrite in resolution.rewrites.items():
        stack = node.meta.get("nn_module_stack")
        if stack:
            path, _ = list(stack.values())[-1]
            settings[path] = {**settings.get(path, {}), **rewrite.args}
        if not set(rewrite.args).isdisjoint(GROUPS):
            for source in node.all_input_nodes[1:]:
                for weight in _parameters_behind(source):
                    settings[trace.aliases.get(weight, weight)] = rewrite.args
    return settings


def _parameters_behind(node: fx.Node) -> list[str]:
    """Names of the parameters that a weight operand is computed from."""
    names, stack = [], [node]
    while stack:
        current = stack.pop()
        if current.op == "get_attr":
            names.append(str(current.target))
        elif current.op == "call_function":
            stack.extend(current.all_input_nodes)
        if len(names) + len(stack) > 16:
            return []
    return names
