"""What holds channels of a model whose Python code looks at data: numbers it reads, parts it has not called.

Only recorded traces have such code; a graph made by torch.export runs the same operators for any data.
"""

from __future__ import annotations

import torch
from torch import fx

from fxprune.coupling.groups import Pin
from fxprune.coupling.walk import Walk
from fxprune.graph.recorder import READS, VISIBLE
from fxprune.labels import IntArray, varying
from fxprune.ops.base import Value

__all__ = ["pin_steering"]


def pin_steering(walk: Walk) -> None:
    """Pin what decides in Python, and what parts that never ran could read."""
    if walk.trace.kind != "recorded":
        return
    seen: set[fx.Node] = set()  # a detector reads numbers hundreds of times, most by way of the same tensors
    for graph in (walk.trace.graph, *walk.trace.extras):
        for node in graph.graph.nodes:
            walk.node = node
            if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name in READS:
                walk.pin(
                    _decisive(walk, node, seen),
                    "Python code decides by a number computed from these channels",
                )
    _pin_around_idle(walk)


def _decisive(walk: Walk, read: fx.Node, seen: set[fx.Node]) -> list[IntArray]:
    """Labels of the last tensors that have any on the way to a number that Python reads.

    What a sum reads is not meant: channels that go are zeros there.  Nodes that were seen before are passed by.
    """
    labels: list[IntArray] = []
    stack = list(read.all_input_nodes)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        arrays = _arrays(walk, node)
        if arrays:
            labels.extend(arrays)
        elif node.op == "call_function" and node not in walk.consumed:
            stack.extend(node.all_input_nodes)
    return labels


def _arrays(walk: Walk, node: fx.Node) -> list[IntArray]:
    held = walk.values.get(node)
    values = held if isinstance(held, list) else [held]
    return [a for v in values if isinstance(v, Value) for a in v.arrays if varying(a)]


def _pin_around_idle(walk: Walk) -> None:
    """What the code around a part that never ran holds in its variables, that part could read."""
    idle: dict[str, str] = {}
    for name, path in walk.trace.idle.items():
        idle.setdefault(path, name)
    for graph in (walk.trace.graph, *walk.trace.extras):
        for node in graph.graph.nodes:
            name = next((idle[p] for p in sorted(node.meta.get(VISIBLE, ())) if p in idle), "")
            if name and node.op != "get_attr":
                why = f"'{name}' ran neither on the example inputs nor on another branch, and could read this"
                walk.pins.extend((a.ravel(), Pin(why, kind="data")) for a in _arrays(walk, node))
