"""Small edits of ONNX graphs: reading and replacing constants and attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["constant", "integer", "replace_constant", "sizes"]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant that are part of the graph, or None."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def sizes(value: ir.Value) -> Sequence[int | None] | None:
    """Sizes of a value, None where any size will do; None if nothing is known of it."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def replace_constant(node: ir.Node, position: int, numbers: np.ndarray) -> None:
    """Give a node another constant; the old one stays for whoever else reads it."""
    old = node.inputs[position]
    assert old is not None
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    lone = len(old.uses()) == 1 and not old.is_graph_output()
    name = _free_name(graph, f"{old.name}") if not lone else str(old.name)
    tensor = ir.tensor(np.ascontiguousarray(numbers), name=name)
    new = ir.Value(
        name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    node.replace_input_with(position, new)
    if lone and str(old.name) in graph.initializers:
        del graph.initializers[str(old.name)]
    graph.register_initializer(new)


def _free_name(graph: ir.Graph, name: str) -> str:
    taken = {*graph.initializers, *(str(v.name) for v in graph.inputs)}
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
