"""Binding: a node of the graph as a call with its arguments by name, values in the place of nodes."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from functools import cache

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxprune.coupling.cost import counted_macs
from fxprune.coupling.sizes import concrete, concrete_shape, one_of_each, open_number
from fxprune.ops import qualified_name, rule_for
from fxprune.ops.base import Call, Value
from fxprune.ops.named import COPIES

__all__ = ["bind", "fake_tensors", "held_tensors", "macs_without_rule", "shapes_of"]

Shape = tuple[int, ...]


def bind(node: fx.Node, values: Mapping[fx.Node, object], shared: Container[fx.Node]) -> Call:
    """Arguments by the names of the operator's schema, nodes replaced by their values.

    Args:
        node: A call of an operator.
        values: What the nodes before it hold.
        shared: Nodes whose memory is written to later.
    """
    symbolic: set[tuple[str, int]] = set()
    unsettled: set[tuple[str, int]] = set()
    args: dict[str, object] = {}
    assert isinstance(node.target, torch._ops.OpOverload)
    for k, (name, default) in enumerate(_signature(node.target)):
        if k < len(node.args):
            raw = node.args[k]
        elif name in node.kwargs:
            raw = node.kwargs[name]
        else:
            args[name] = default
            continue
        args[name] = _argument(raw, name, values, symbolic)
        unsettled.update((name, at) for at in _open(raw))
    # A recorded graph has an item for every result, read or not.
    used = {u.args[1] for u in node.users if u.users and getattr(u.target, "__name__", "") == "getitem"}
    readers = [r for r in map(rule_for, (u.target for u in _readers(node))) if r is not None]
    return Call(
        qualified_name(node.target),
        args,
        shapes_of(node) or (),
        symbolic=frozenset(symbolic),
        unsettled=frozenset(unsettled),
        used=frozenset(used),  # type: ignore[arg-type]
        shared=node in shared,
        stacked=any(r.stacked for r in readers),
        regrouped=any(r.regroups for r in readers),
    )


@cache
def _signature(op: torch._ops.OpOverload) -> tuple[tuple[str, object], ...]:
    """Names and defaults of an operator's arguments; torch makes new objects whenever it is asked."""
    return tuple((a.name, a.default_value) for a in op._schema.arguments)


def _argument(
    raw: object, name: str, values: Mapping[fx.Node, object], symbolic: set[tuple[str, int]]
) -> object:
    if isinstance(raw, fx.Node):
        value = values.get(raw)
        if isinstance(value, int) and not isinstance(value, bool):
            symbolic.add((name, -1))
        return value
    if isinstance(raw, (list, tuple)):
        items: list[object] = []
        for k, item in enumerate(raw):
            value = values.get(item) if isinstance(item, fx.Node) else item
            if isinstance(item, fx.Node) and isinstance(value, int):
                symbolic.add((name, k))
            items.append(value)
        return items
    return raw


def _open(raw: object) -> Iterator[int]:
    """Where an argument holds a number that only the data know: places in a list, -1 for a single number."""
    for k, item in enumerate(raw) if isinstance(raw, (list, tuple)) else ((-1, raw),):
        if isinstance(item, fx.Node) and open_number(item.meta.get("val")):
            yield k


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads a result, copies of it looked through."""
    readers: list[fx.Node] = []
    for user in node.users:
        copy = qualified_name(user.target) in COPIES
        readers.extend(_readers(user) if copy else [user])
    return readers


def shapes_of(node: fx.Node) -> Shape | list[Shape] | None:
    """Shape of a node's result, or the list of shapes where there are several; None if it is no tensor."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return concrete_shape(value)
    if isinstance(value, (list, tuple)):
        return [concrete_shape(v) if isinstance(v, torch.Tensor) else () for v in value]
    return None


def macs_without_rule(node: fx.Node) -> int:
    """What PyTorch's counter knows of an op: nothing of it goes, so the number stays."""

    def empty(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return torch.empty(concrete_shape(value), dtype=value.dtype, device="meta")
        return concrete(value)

    try:
        args, kwargs = fx.map_arg(
            (node.args, dict(node.kwargs)), lambda n: pytree.tree_map(empty, n.meta.get("val"))
        )
        return one_of_each(counted_macs(lambda: node.target(*args, **kwargs)), fake_tensors(node))  # type: ignore[operator]
    except Exception:  # noqa: BLE001 - an op that does not run without data counts nothing
        return 0


def fake_tensors(node: fx.Node) -> Iterator[torch.Tensor]:
    """What a call makes and reads, as torch.export saw it."""
    for one in (node, *node.all_input_nodes):
        held = one.meta.get("val")
        for value in held if isinstance(held, (list, tuple)) else (held,):
            if isinstance(value, torch.Tensor):
                yield value


class _Held:
    """Keeps a value opaque to fx's argument mapping."""

    def __init__(self, value: object) -> None:
        self.value = value


def held_tensors(arguments: object, values: Mapping[fx.Node, object]) -> Iterator[Value]:
    """Every value that nodes among some arguments hold."""
    return _values(fx.map_arg(arguments, lambda n: _Held(values.get(n))))  # type: ignore[arg-type,return-value,type-var]


def _values(tree: object) -> Iterator[Value]:
    if isinstance(tree, _Held):
        yield from _values(tree.value)
    elif isinstance(tree, Value):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _values(item)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _values(item)
