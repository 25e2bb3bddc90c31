"""Move a positive factor on a node's result into parameters, so that no multiplication is left."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxprune.graph.dataflow import DataFlow
from fxprune.graph.drafts import arguments_by_name
from fxprune.ops import qualified_name
from fxprune.ops.scaling import scaling_of
from fxprune.structures.find import Structure
from fxprune.support.source_lines import source_of

__all__ = ["Fold", "fold_into"]


@dataclass(frozen=True)
class Fold:
    """Where a factor goes.

    Attributes:
        parameters: Names of the parameters to multiply, none if it goes nowhere.
        reason: Why it goes nowhere.
    """

    parameters: tuple[str, ...]
    reason: str = ""


class _Refused(Exception):
    """A node through which no factor passes."""


def fold_into(structure: Structure, data: DataFlow) -> Fold:
    """Find the parameters that scale a structure's output, and nothing else.

    Args:
        structure: A residual branch.
        data: The data flow of its trace.
    """
    try:
        names = _Folding(data, structure).behind(structure.output)
    except _Refused as refusal:
        return Fold((), str(refusal))
    return Fold(tuple(dict.fromkeys(names)))


class _Folding:
    """The way back from a structure's output to what scales it."""

    def __init__(self, data: DataFlow, structure: Structure) -> None:
        self._data = data
        self._own = frozenset(structure.parameters)
        self._nodes = frozenset(structure.nodes)

    def behind(self, node: fx.Node) -> list[str]:
        """Names of the parameters to scale so that the node's result is scaled."""
        if node.op == "get_attr":
            return [self._parameter(node)]
        if node not in self._nodes:
            raise _Refused(f"the factor would reach '{node.name}', which others read")
        if getattr(node.target, "__name__", "") == "getitem":
            return self._into(node.args[0], node)
        rule = scaling_of(qualified_name(node.target))
        if rule is None:
            raise _Refused(f"no factor passes '{node.name}' ({node.target}) {source_of(node)}".rstrip())
        values = arguments_by_name(node)
        if any(values.get(name) is None for name in rule.needs):
            raise _Refused(f"'{node.name}' has no weights that could take a factor")
        if not rule.arguments:
            return self._into(node.all_input_nodes[0], node)
        given = [values[name] for name in rule.arguments if values.get(name) is not None]
        if rule.into == "any":
            return self._into_one(given, node)
        return [name for value in given for name in self._into(value, node)]

    def _into(self, value: object, reader: fx.Node) -> list[str]:
        if isinstance(value, (list, tuple)):
            return [name for item in value for name in self._into(item, reader)]
        if not isinstance(value, fx.Node):
            raise _Refused(f"'{reader.name}' adds a number")
        if value in self._data and self._data.users(value) != [reader]:
            raise _Refused(f"'{value.name}' is read more than once")
        return self.behind(value)

    def _into_one(self, values: list[object], reader: fx.Node) -> list[str]:
        """One factor of a product takes it."""
        refusals = []
        for value in values:
            try:
                return self._into(value, reader)
            except _Refused as refusal:
                refusals.append(str(refusal))
        raise _Refused(refusals[0])

    def _parameter(self, node: fx.Node) -> str:
        name = self._data.owner(str(node.target))
        if name not in self._own or len(self._data.readers(name)) != 1 or len(node.users) != 1:
            raise _Refused(f"'{name}' is no parameter of the structure alone, or is used twice")
        return name
