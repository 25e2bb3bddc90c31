"""Everything fxprune knows about operators: one table of rules, gathered by name.

A new operator is one ``OpRule`` row in the module of its family.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import fx

from fxprune.errors import FxpruneError
from fxprune.ops import (
    contract,
    factory,
    joining,
    lines,
    normalise,
    picking,
    pointwise,
    recurrent,
    reduce,
    reordering,
    views,
    window,
)
from fxprune.ops.aliases import ALIASES
from fxprune.ops.base import OpRule
from fxprune.ops.normalise import BATCH_NORMS

__all__ = [
    "DROPOUTS",
    "FACTORIES",
    "RULES",
    "OpRule",
    "batch_norm_weights",
    "overload",
    "qualified_name",
    "register",
    "rule_for",
    "written_later",
]

RULES: tuple[OpRule, ...] = (
    *pointwise.RULES,
    *contract.RULES,
    *recurrent.RULES,
    *lines.RULES,
    *views.RULES,
    *picking.RULES,
    *reordering.RULES,
    *joining.RULES,
    *reduce.RULES,
    *normalise.RULES,
    *window.RULES,
    *factory.RULES,
)

# Dropout operators whose training flag torch.export freezes; True where whole channels go.
DROPOUTS = {"aten::dropout": False, "aten::feature_dropout": True}

# Operators whose result depends on no tensor's entries.
FACTORIES = factory.RULES

_BY_NAME = {name: rule for rule in RULES for name in rule.ops}
_POINTWISE = OpRule((), pointwise.pointwise)


def register(rule: OpRule) -> None:
    """Tell fxprune about operators of your own, as ``torch.library`` makes them.

    The rule holds for traces that are coupled from then on.  ``pointwise.pointwise`` is the rule of operators
    that work on each entry by itself; for others take the rule of the family that works alike as a model.
    ``verify`` proves what comes of it: the oracle of masks knows no rules, and says "not judged" of operators
    that it has no law for.

    Args:
        rule: Names qualified operators, as ``("mylib::swish",)``.

    Raises:
        FxpruneError: One of them is named wrongly or has another rule.

    Example:
        >>> import torch
        >>> from fxprune.ops import OpRule, pointwise, register
        >>> @torch.library.custom_op("fxprune_docs::double", mutates_args=())
        ... def double(x: torch.Tensor) -> torch.Tensor:
        ...     return 2 * x
        >>> register(OpRule(("fxprune_docs::double",), pointwise.pointwise))
        >>> rule_for(torch.ops.fxprune_docs.double.default).couple is pointwise.pointwise
        True
    """
    for name in rule.ops:
        namespace, colons, op = name.partition("::")
        if not (namespace and colons and op) or "." in op:
            raise FxpruneError(f"'{name}' is no name of an operator", advice="write it as mylib::swish")
        if name in _BY_NAME and _BY_NAME[name] is not rule:
            raise FxpruneError(f"'{name}' has a rule already", advice="name an operator that has none")
    _BY_NAME.update(dict.fromkeys(rule.ops, rule))


def qualified_name(target: object) -> str:
    """Operator name without overload: in-place variants under their functional name, aliases under the first.

    Example:
        >>> import torch
        >>> qualified_name(torch.ops.aten.relu_.default), qualified_name(torch.ops.aten.multiply_.Tensor)
        ('aten::relu', 'aten::mul')
    """
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__name__", str(target))
    name = target._schema.name
    name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return ALIASES.get(name, name)


def overload(name: str, variant: str = "default") -> torch._ops.OpOverload:
    """The operator of a qualified name, to call it in a graph.

    Example:
        >>> overload("aten::mul", "Tensor")
        <OpOverload(op='aten.mul', overload='Tensor')>
    """
    namespace, _, op = name.partition("::")
    resolved = getattr(getattr(getattr(torch.ops, namespace), op), variant)
    assert isinstance(resolved, torch._ops.OpOverload)
    return resolved


def rule_for(target: object) -> OpRule | None:
    """The rule of an operator: its row in the table, or the elementwise rule if torch tags it so."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    # Overloads of one name may differ: max.other is elementwise, max.dim reduces.
    if torch.Tag.pointwise in target.tags:
        return _POINTWISE
    name = qualified_name(target)
    if name not in _BY_NAME and name != target._schema.name and _is_pointwise(name):
        return _POINTWISE  # of multiply, and of relu6_, torch tags only mul and relu6
    return _BY_NAME.get(name)


@cache
def _is_pointwise(name: str) -> bool:
    """Whether torch tags every overload on tensors so."""
    namespace, _, op = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), op, None)
    overloads = [getattr(packet, variant) for variant in packet.overloads()] if packet else []
    on_tensors = [
        o for o in overloads if str(o._schema.returns[0].type) == "Tensor" and not o._schema.is_mutable
    ]
    return bool(on_tensors) and all(torch.Tag.pointwise in o.tags for o in on_tensors)


def batch_norm_weights(graph: fx.Graph) -> set[str]:
    """Names of the scale parameters of the batch norms in a graph."""
    names = set()
    for node in graph.nodes:
        if node.op == "call_function" and qualified_name(node.target) in BATCH_NORMS:
            scale = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
            if isinstance(scale, fx.Node) and scale.op == "get_attr":
                names.add(str(scale.target))
    return names


def written_later(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose result shares memory that an operator after them writes to."""
    roots: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, int] = {}
    places: dict[fx.Node, int] = {}
    for place, node in enumerate(graph.nodes):
        roots[node], places[node] = node, place
        if getattr(node.target, "__name__", "") == "getitem":
            roots[node] = roots[node.args[0]]
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        schema = node.target._schema
        shares = any(r.alias_info is not None for r in schema.returns)
        for argument, operand in zip(schema.arguments, node.args):
            if argument.alias_info is None or not isinstance(operand, fx.Node):
                continue
            if argument.alias_info.is_write:
                last[roots[operand]] = place
            if shares:
                roots[node] = roots[operand]
    return {node for node, root in roots.items() if places[node] < last.get(root, -1)}
