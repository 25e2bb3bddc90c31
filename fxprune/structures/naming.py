"""Names for parts of a graph: the module paths that their nodes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from torch import fx

from fxprune.graph.trace import Trace

__all__ = ["named"]

Part = tuple[Sequence[fx.Node], Sequence[str]]
"""Nodes, and the parameters that belong to them."""


def named(parts: Sequence[Part], trace: Trace) -> list[str]:
    """A unique name for each part of a graph.

    Parts that share a path (attention and MLP of one block) are named after the module below it
    that holds most of their parameters.

    Args:
        parts: Nodes and parameters of each part.
        trace: The trace they are from.

    Returns:
        One name a part.
    """
    sizes = {name: trace.tensor(name).numel() for _, names in parts for name in names}
    paths = [_shared(_node_paths(nodes) or _parameter_paths(names)) for nodes, names in parts]
    count = Counter(paths)
    refined = [
        _heaviest_child(path, names, sizes) if count[path] > 1 or not path else path
        for path, (_, names) in zip(paths, parts, strict=True)
    ]
    taken: Counter[str] = Counter()
    result = []
    for path in refined:
        taken[path] += 1
        result.append(path if taken[path] == 1 else f"{path}#{taken[path]}")
    return result


def _node_paths(nodes: Sequence[fx.Node]) -> list[list[str]]:
    """Module paths of the nodes; empty if one has none."""
    paths = []
    for node in nodes:
        stack = node.meta.get("nn_module_stack")
        if not stack:
            return []
        paths.append(str(list(stack.values())[-1][0]).split("."))
    return paths


def _parameter_paths(names: Sequence[str]) -> list[list[str]]:
    return [name.split(".")[:-1] for name in names]


def _shared(paths: Sequence[list[str]]) -> str:
    return ".".join(parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, zip(*paths)))


def _heaviest_child(path: str, names: Sequence[str], sizes: dict[str, int]) -> str:
    """The module directly below a path with most of the parameters."""
    depth = len(path.split(".")) if path else 0
    weight: Counter[str] = Counter()
    for name in names:
        weight[".".join(name.split(".")[: depth + 1])] += sizes[name]
    (heaviest, _), *_ = weight.most_common(1)
    return heaviest
