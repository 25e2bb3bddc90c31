"""The masked model: the traced graph, the user's own parameters, and multiplications by masks."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from fxprune.graph.drafts import Draft, arguments_by_name, draft, shared
from fxprune.graph.trace import Trace
from fxprune.regularizers.gal.masks import Gate, Masks

__all__ = ["MaskVector", "Student"]

PLACE = "fxprune_masks"


class MaskVector(nn.Module):
    """All masks, followed by a one for places without a mask.

    Args:
        start: float[n].

    Attributes:
        point: float[n], where the gradient is wanted (the momentum point).
        value: float[n], the masks themselves.
        moving: Use the point and give it a gradient.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.point = nn.Parameter(start.clone())
        self.value: Tensor
        self.moving = False
        self.register_buffer("value", start.clone(), persistent=False)

    def forward(self) -> Tensor:
        """float[n + 1]."""
        values = self.point if self.moving else self.value
        return torch.cat([values, values.new_ones(1)])


class _Block(nn.Module):
    """One mask on a whole tensor."""

    def __init__(self, entry: int) -> None:
        super().__init__()
        self.entry = entry

    def forward(self, x: Tensor, values: Tensor) -> Tensor:
        return x * values[self.entry].to(x.dtype)


class _Units(nn.Module):
    """One mask on each position of a layout, several where branches are nested."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.soft = gate.soft
        self.count = len(gate.entries)
        for k, entries in enumerate(gate.entries):
            self.register_buffer(f"entries{k}", torch.from_numpy(entries), persistent=False)

    def forward(self, x: Tensor, values: Tensor) -> Tensor:
        values = values.to(x.dtype) if self.soft else (values > 0).to(x.dtype)
        for k in range(self.count):
            x = x * values[getattr(self, f"entries{k}")]
        return x


class Student(nn.Module):
    """The masked model.

    Training it trains the user's parameters and moves the user's running statistics; what of the
    user's modules is in evaluation mode stays so here.

    Args:
        trace: The traced model.
        owner: The user's module, for the modes of its parts.
        masks: Which masks there are.
        start: float[n], their first values.

    Attributes:
        vector: The masks.
    """

    def __init__(self, trace: Trace, owner: nn.Module, masks: Masks, start: Tensor) -> None:
        super().__init__()
        drafted = draft(trace)
        values = _insert_values(drafted)
        modules: list[tuple[fx.Node, nn.Module]]
        modules = [(_insert_block(drafted, masks, k, values), _Block(k)) for k in masks.wholes]
        modules += [(_insert_gate(drafted, gate, values), _Units(gate)) for gate in masks.gates]
        self.vector = MaskVector(start)
        drafted.root.add_module(PLACE, self.vector)
        for node, module in modules:
            drafted.root.add_module(str(node.target), module)
        self.graph = shared(trace, drafted).module(training=True)
        # Not a submodule: the student's own parameters are the masks and what the graph reads.
        self._parts = [(owner, self.graph), *_paired(owner, self.graph)]

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the masked model returns; its parts are in the modes of the user's."""
        self.training = self._parts[0][0].training
        self.graph.train(self.training)
        for owner, part in self._parts[1:]:
            part.training = owner.training
        return self.graph(*args, **kwargs)


def _paired(owner: nn.Module, graph: fx.GraphModule) -> list[tuple[nn.Module, nn.Module]]:
    """The user's module behind each part of the graph that has a mode."""
    modules = dict(owner.named_modules())
    pairs = []
    for node in graph.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_module" and stack and not str(node.target).startswith(PLACE):
            path = str(list(stack.values())[-1][0])
            if path in modules:
                pairs.append((modules[path], graph.get_submodule(str(node.target))))
    return pairs


def _insert_values(drafted: Draft) -> fx.Node:
    first = next(n for n in drafted.graph.nodes if n.op not in ("placeholder", "get_attr"))
    with drafted.graph.inserting_before(first):
        return drafted.graph.call_module(PLACE)


def _insert_block(drafted: Draft, masks: Masks, entry: int, values: fx.Node) -> fx.Node:
    """Multiply a residual branch's output."""
    output = drafted.copies[masks.structures[entry].output]
    with drafted.graph.inserting_after(output):
        node = drafted.graph.call_module(f"{PLACE}_block_{entry}", (output, values))
    output.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    return node


def _insert_gate(drafted: Draft, gate: Gate, values: fx.Node) -> fx.Node:
    """Multiply one argument of an operator."""
    reader = drafted.copies[gate.node]
    name, _, number = gate.argument.partition(".")
    argument = arguments_by_name(reader)[name]
    source = argument[int(number)] if number else argument  # type: ignore[index]
    assert isinstance(source, fx.Node)
    with drafted.graph.inserting_before(reader):
        place = f"{PLACE}_{gate.node.name}_{gate.argument.replace('.', '_')}"
        node = drafted.graph.call_module(place, (source, values))
    # A tensor may be read in two places of one call; only this one is meant.
    reader.args, reader.kwargs = _replaced(reader, name, number, node)
    return node


def _replaced(
    reader: fx.Node, name: str, number: str, new: fx.Node
) -> tuple[tuple[fx.node.Argument, ...], dict[str, fx.node.Argument]]:
    """Arguments of a call with one of them (or one item of a list) replaced."""
    names = [a.name for a in reader.target._schema.arguments]  # type: ignore[union-attr]

    def put(key: str, old: fx.node.Argument) -> fx.node.Argument:
        if key != name:
            return old
        if not number:
            return new
        assert isinstance(old, (list, tuple))
        return [new if k == int(number) else item for k, item in enumerate(old)]

    args = tuple(put(names[k], old) for k, old in enumerate(reader.args))
    return args, {key: put(key, old) for key, old in reader.kwargs.items()}
