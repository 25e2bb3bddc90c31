"""Names for what a model computes: equal names are equal functions, whatever the weights and the inputs.

A model is run without numbers while every tensor is named after the operator and the operands that made it.
Two models that hold the same tensors and whose outputs have the same names compute the same, in evaluation or
in training, at any scale.  Different names need not mean different functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._device import _device_constructors

from fxprune.graph.empty_results import SHORT
from fxprune.graph.graph_module import plainly
from fxprune.models.copies import as_parameter, copied, without_numbers
from fxprune.support.dispatch import Watching

__all__ = ["Calls", "DryRun", "Inputs", "Names", "UnknownValue"]

Inputs = tuple[tuple[object, ...], Mapping[str, object]]
"""Positional and keyword arguments."""

SAME_VALUES = frozenset(
    {"aten::detach", "aten::alias", "aten::clone", "aten::lift", "aten::lift_fresh", "aten::lift_fresh_copy"}
)
"""Operators that hand on what they are given."""

SHAPED: Mapping[str, str] = {"aten::view": "view", "aten::_unsafe_view": "view", "aten::expand": "expand"}
"""Operators that the shape of their result says all about: sizes may be written as -1 or in full."""

MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)
"""How Python code turns numbers into a tensor."""

Flags = Mapping[Callable[..., object], tuple[str, int, object]]

FLAGS: Flags = {
    **dict.fromkeys(
        (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout), ("training", 2, False)
    ),
    F.feature_alpha_dropout: ("training", 2, False),
    F.multi_head_attention_forward: ("training", 13, False),
    F.batch_norm: ("training", 5, False),
    F.scaled_dot_product_attention: ("dropout_p", 4, 0.0),
}
"""Functions in which training only drops entries or takes the batch's statistics.

The name of the argument that says so, its position, and what evaluation passes.
"""

FOLLOWED: Flags = {f: FLAGS[f] for f in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.batch_norm)}
"""Those that a graph follows train() and eval() in (``fxprune.graph.shims``)."""


class UnknownValue(Exception):
    """A value that cannot be named without numbers."""


@dataclass(eq=False)
class Names:
    """One number for every distinct value, shared by the runs that are compared.

    Attributes:
        numbers: By a key that says how the value is made.
        held: Names of tensors that the compared models share, by their id.
        results: How the results of operators lie in memory, by name and by how the operands lie.
    """

    numbers: dict[object, int] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    results: dict[object, _Made] = field(default_factory=dict)

    def of(self, key: object) -> int:
        """The number of a value described by this key."""
        return self.numbers.setdefault(key, len(self.numbers))

    def share(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """These tensors are known by their names, not by their numbers: equal for whatever numbers they hold."""
        for name, tensor in tensors.items():
            self.held.setdefault(id(tensor), self.of(("held", name)))

    def constant(self, tensor: torch.Tensor) -> int:
        """The number of a tensor known by its entries; a distinct one if it has none."""
        if id(tensor) in self.held:
            return self.held[id(tensor)]
        if tensor.is_meta:
            return self.of(("unknown", object()))
        entries = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        return self.of(("constant", str(tensor.dtype), tuple(tensor.shape), entries.numpy().tobytes()))


@dataclass(frozen=True, eq=False)
class Calls:
    """A graph of operators that no module holds.

    Attributes:
        graph: Inputs, tensors and operators.
        tensors: What it reads, by name.
    """

    graph: fx.Graph
    tensors: Mapping[str, torch.Tensor]

    def run(self, tensors: Mapping[str, torch.Tensor], leaves: Sequence[object]) -> object:
        """What the graph returns, flat, for tensors in the place of its own."""
        values: dict[fx.Node, object] = {}
        given = iter(leaves)
        for node in self.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = tensors[str(node.target)]
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)  # type: ignore[arg-type]
                if node.op == "output":
                    return args
                values[node] = node.target(*args, **kwargs)
        raise AssertionError("every graph has an output")


class DryRun:
    """A model without numbers, whose results are named.

    Args:
        model: Left untouched; a copy runs.
        names: Shared by the runs that are compared.

    Attributes:
        calls: Numbers of everything that the last run made, read or not.
    """

    def __init__(self, model: nn.Module | Calls, names: Names) -> None:
        self.calls: frozenset[int] = frozenset()
        self._namer = _Namer(names)
        self._is_calls = isinstance(model, Calls)
        self._model = nn.Module() if isinstance(model, Calls) else model
        self._call: Callable[..., object]
        if isinstance(model, Calls):
            empty = {id(t): self._empty(t) for t in model.tensors.values()}
            state = {name: empty[id(t)] for name, t in model.tensors.items()}
            self._call = lambda args, kwargs: model.run(state, pytree.tree_leaves((args, kwargs)))
        elif isinstance(model, fx.GraphModule):  # has no state in Python, and is slow to copy
            held = _tensors(model)
            empty = {id(t): self._empty(t) for t in held.values()}
            state = {name: empty[id(t)] for name, t in held.items()}
            self._call = partial(torch.func.functional_call, plainly(model), state)
        else:
            self._model = self._call = copied(model, self._empty)

    def outputs(self, inputs: Inputs, *, training: bool = False, whole: bool = False) -> list[object]:
        """The names of what the model returns.

        Args:
            inputs: Example inputs.
            training: Run in training, but drop nothing and take running statistics: what is left of the
                difference is other code.
            whole: Leave out of account only what every graph does in both modes, plain dropout and batch norm.

        Returns:
            A number for every tensor among the outputs, other outputs themselves.

        Raises:
            UnknownValue: The model does not run without numbers.
        """
        leaves, spec = pytree.tree_flatten((inputs[0], dict(inputs[1])))
        given = [torch.empty_like(a, device="meta") if isinstance(a, torch.Tensor) else a for a in leaves]
        for k, leaf in enumerate(given):
            if isinstance(leaf, torch.Tensor):
                self._namer.learn(leaf, self._namer.names.of(("input", k)))
        arguments = pytree.tree_unflatten(given, spec)
        self._namer.made.clear()
        try:
            with _modes(self._model, training, whole), torch.no_grad():
                result = self._run(arguments, FOLLOWED if whole else FLAGS)
        except Exception as error:
            raise UnknownValue(f"{type(error).__name__}: {error}") from error
        self.calls = frozenset(self._namer.made)
        return [
            self._namer.number(leaf) if isinstance(leaf, torch.Tensor) else leaf
            for leaf in pytree.tree_leaves(result)
        ]

    def _run(self, arguments: Inputs, flags: Flags) -> object:
        args, kwargs = arguments
        # A graph calls operators, on devices that it names: there is nothing for a mode of functions to change.
        mode = contextlib.nullcontext() if self._is_calls else _Plain(self._namer, flags)
        with self._namer, mode:
            if self._call is self._model:
                return self._call(*args, **kwargs)
            return self._call(args, dict(kwargs))

    def _empty(self, tensor: torch.Tensor) -> torch.Tensor:
        empty = as_parameter(without_numbers(tensor), tensor)
        self._namer.learn(empty, self._namer.names.constant(tensor))
        return empty


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


@contextlib.contextmanager
def _modes(model: nn.Module, training: bool, whole: bool) -> Iterator[None]:
    """All in evaluation; or in training but for those without tensors and parts: they can only drop or add noise."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        for module, _ in modes:
            parts = (*module._parameters, *module._buffers, *module._modules)
            module.training = training and (whole or bool(parts))
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Namer(Watching):
    """Names every tensor that is made while it is active."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self.names = names
        self.known: dict[int, tuple[torch.Tensor, int]] = {}
        self.written: dict[int, int] = {}
        self.made: set[int] = set()
        self.draws = 0

    def learn(self, tensor: torch.Tensor, number: int) -> None:
        """Remember a tensor's number; while the tensor is held its id is its own."""
        self.known[id(tensor)] = (tensor, number)

    def number(self, tensor: torch.Tensor) -> int:
        """The number of a tensor's present value: what made it, and what was written into its memory since."""
        if id(tensor) not in self.known:
            self.learn(tensor, self.names.constant(tensor))
        number = self.known[id(tensor)][1]
        if not self.written:
            return number
        state = self.written.get(_memory(tensor))
        return number if state is None else self.names.of(("written", number, state))

    def called(
        self, func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        op = _operator(func)
        call = self._call(op, args, kwargs)
        result = self._result(op, call, args, kwargs)
        for k, leaf in enumerate(result if isinstance(result, (tuple, list)) else (result,)):
            # What is written in place keeps its name; its memory gets another.
            if isinstance(leaf, torch.Tensor) and not any(leaf is a for a in args):
                self._name(op, call, k, leaf, args)
        for position, name in op.writes:
            given = args[position] if position < len(args) else kwargs.get(name)
            for tensor in pytree.tree_leaves(given):
                if isinstance(tensor, torch.Tensor):
                    self.written[_memory(tensor)] = call
        return result

    def _result(
        self, op: _Operator, call: int, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        """What an operator returns; not run again where the same values, lying alike, went through it before."""
        laid = (call, *_strides(args), *_strides(kwargs.values()))
        layout = self.names.results.get(laid)
        if layout is not None:
            return layout.again()
        result = op.run(*args, **kwargs)
        if op.makes_new:
            layout = _Made.of(result)
            if layout is not None:
                self.names.results[laid] = layout
        return result

    def _call(self, op: _Operator, args: tuple[object, ...], kwargs: Mapping[str, object]) -> int:
        """The number of a call: an operator on certain values."""
        leaves = [self._leaf(a) for a in args]
        leaves.extend((name, self._leaf(a)) for name, a in kwargs.items())
        if op.draws:
            self.draws += 1
            leaves.append(("draw", self.draws))
        return self.names.of((op.full_name, *leaves))

    def _leaf(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return self.number(value)
        if isinstance(value, (list, tuple)):
            return tuple([self._leaf(v) for v in value])
        return type(value), value

    def _name(self, op: _Operator, call: int, k: int, leaf: torch.Tensor, args: tuple[object, ...]) -> None:
        if op.name in SAME_VALUES:
            assert isinstance(args[0], torch.Tensor)
            number = self.number(args[0])
        elif op.name in SHAPED:
            number = self.names.of((SHAPED[op.name], self._leaf(args[0]), tuple(leaf.shape)))
        else:
            number = self.names.of((call, k))
        self.made.add(number)
        self.learn(leaf, number)


@dataclass(frozen=True, eq=False)
class _Operator:
    """What naming asks of an operator again and again, and torch is slow to tell.

    Attributes:
        name: Without its overload.
        full_name: With it: no two operators share one.
        run: Makes what it returns where there are no numbers.
        makes_new: It changes nothing and shares no memory with its operands.
        draws: It draws random numbers.
        writes: Position and name of each argument that it writes into.
    """

    name: str
    full_name: str
    run: Callable[..., object]
    makes_new: bool
    draws: bool
    writes: tuple[tuple[int, str], ...]


@cache
def _operator(func: torch._ops.OpOverload) -> _Operator:
    schema = func._schema
    return _Operator(
        name=schema.name,
        full_name=f"{schema.name}.{schema.overload_name}",
        run=SHORT.get(schema.name, func),
        makes_new=not schema.is_mutable
        and all(part.alias_info is None for part in (*schema.arguments, *schema.returns)),
        draws=torch.Tag.nondeterministic_seeded in func.tags,
        writes=tuple(
            (k, a.name)
            for k, a in enumerate(schema.arguments)
            if schema.is_mutable and a.alias_info is not None and a.alias_info.is_write
        ),
    )


@dataclass(frozen=True, eq=False)
class _Made:
    """How new tensors lie in memory that nothing else shares.

    Attributes:
        laid: Shape, strides, type and device of each.
        kind: What holds them, None for a single one.
    """

    laid: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device], ...]
    kind: Callable[[list[torch.Tensor]], object] | None

    @staticmethod
    def of(result: object) -> _Made | None:
        """None where there is more to say about the result."""
        leaves = [result] if isinstance(result, torch.Tensor) else result
        if not isinstance(leaves, (list, tuple)) or not all(type(t) is torch.Tensor for t in leaves):
            return None
        if not all(t.layout is torch.strided and t.storage_offset() == 0 for t in leaves):
            return None
        laid = tuple((t.shape, t.stride(), t.dtype, t.device) for t in leaves)
        return _Made(laid, None if isinstance(result, torch.Tensor) else type(leaves))

    def again(self) -> object:
        """New tensors that lie like these."""
        tensors = [torch.empty_strided(s, at, dtype=d, device=where) for s, at, d, where in self.laid]
        return tensors[0] if self.kind is None else self.kind(tensors)


def _strides(values: Iterable[object]) -> Iterator[object]:
    """How the tensors among some values lie."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value.shape
            yield value.stride()
        elif isinstance(value, (list, tuple)):
            yield from _strides(value)


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Plain(TorchFunctionMode):
    """Tensors are made without numbers, but those of numbers stay known; flags of training are as in evaluation."""

    def __init__(self, namer: _Namer, flags: Flags) -> None:
        super().__init__()
        self.namer = namer
        self.flags = flags
        self.makers = _device_constructors()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = dict(kwargs or {})
        if func in MAKERS and not any(isinstance(a, torch.Tensor) for a in args):
            return self._made(func, args, given)
        if func in self.flags and not (func is F.batch_norm and args[1] is None):
            name, position, quiet = self.flags[func]
            args, given = args[:position], {**given, name: quiet}
        elif func in self.makers and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)

    def _made(
        self, func: Callable[..., object], args: tuple[object, ...], given: Mapping[str, object]
    ) -> torch.Tensor:
        real = func(*args, **(given if func is torch.from_numpy else {**given, "device": "cpu"}))
        assert isinstance(real, torch.Tensor)
        empty = torch.empty_like(real, device="meta")
        self.namer.learn(empty, self.namer.names.constant(real))
        return empty
